//! `grpc.health.v1` for the whole server (`""`), every interface, and the roles of the node.

use tonic_health::{ServingStatus, server::HealthReporter};

/// Says whether the node serves; shared by whoever knows.
#[derive(Clone)]
pub struct Health {
    reporter: HealthReporter,
    names: std::sync::Arc<[String]>,
}

impl Health {
    pub(crate) fn new(reporter: HealthReporter, names: Vec<String>) -> Self {
        Self { reporter, names: names.into() }
    }

    /// Sets the status of the server as a whole and of every interface. Watchers are told.
    ///
    /// Cancel safety: dropping the future may leave some names unset; call it again.
    pub async fn set_serving(&self, serving: bool) {
        for name in &*self.names {
            self.set(name, serving).await;
        }
    }

    /// Sets the status of one name, such as a role: `meta`, `worker`, `gateway`.
    ///
    /// Cancel safety: dropping the future may leave it unset; call it again.
    pub async fn set(&self, name: &str, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.reporter.set_service_status(name, status).await;
    }
}
