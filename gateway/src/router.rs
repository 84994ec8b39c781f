//! Everything a server mounts on its API listener.

use tonic::service::Routes;

use crate::{Api, Health, InterfaceError, Repair};

/// The dynamic service, health, and reflection (v1 and v1alpha, where `reflection` is set), repaired.
/// Nothing serves before [`Health::set_serving`].
///
/// # Errors
/// The interfaces' descriptor sets contradict each other.
pub fn router(api: Api, reflection: bool) -> Result<(Routes, Health), InterfaceError> {
    let names = std::iter::once("").chain(api.interfaces().names()).map(str::to_owned).collect();
    let (reporter, health) = tonic_health::server::health_reporter();
    let mut routes = Routes::new(health);
    if reflection {
        let set = api.interfaces().descriptors();
        let failed = |e: tonic_reflection::server::Error| InterfaceError {
            name: "reflection".into(),
            why: e.to_string(),
        };
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(&set)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        routes = routes
            .add_service(builder().build_v1().map_err(failed)?)
            .add_service(builder().build_v1alpha().map_err(failed)?);
    }
    let router = routes.into_axum_router().fallback_service(api).layer(Repair::default());
    Ok((Routes::from(router).prepare(), Health::new(reporter, names)))
}
