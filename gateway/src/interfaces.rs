//! The registry of grain interfaces that can be called without their types, built from what generated
//! code says about itself.

use std::collections::HashMap;

use millet_core::{ErrorKind, GrainId, GrainType, Key, KeyKind, MethodInfo, ServiceInfo};
use prost_reflect::{DescriptorPool, MessageDescriptor};

/// An interface's own description does not hold together: a fault of the build.
#[derive(Debug, thiserror::Error)]
#[error("interface {name}: {why}")]
pub struct InterfaceError {
    /// Which interface.
    pub name: String,
    /// What is wrong.
    pub why: String,
}

/// Every interface that callers by name can reach. Immutable once built.
#[derive(Debug)]
pub struct Interfaces {
    by_name: HashMap<&'static str, Interface>,
    /// `/realm.Player/AddGold` to interface and method number: one look-up per call.
    by_path: HashMap<String, (&'static str, usize)>,
    pool: DescriptorPool,
}

/// One interface.
#[derive(Debug)]
pub struct Interface {
    ty: GrainType,
    keys: KeyKind,
    pub(crate) methods: Vec<Method>,
}

/// One method and, for contract-first interfaces, its messages.
#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) info: MethodInfo,
    pub(crate) types: Types,
}

/// What is known of arguments and results.
#[derive(Debug)]
pub(crate) enum Types {
    /// Protobuf messages.
    Protobuf { input: MessageDescriptor, output: MessageDescriptor },
    /// MessagePack with these argument names.
    Named(&'static [&'static str]),
}

impl Interfaces {
    /// Gathers interfaces; one named twice counts once.
    ///
    /// # Errors
    /// A descriptor set cannot be read, or does not hold the service and its methods.
    pub fn new(services: impl IntoIterator<Item = ServiceInfo>) -> Result<Self, InterfaceError> {
        let mut all = Self { by_name: HashMap::new(), by_path: HashMap::new(), pool: DescriptorPool::new() };
        for service in services {
            if !all.by_name.contains_key(service.name) {
                let interface =
                    all.read(&service).map_err(|why| InterfaceError { name: service.name.into(), why })?;
                for (n, m) in interface.methods.iter().enumerate() {
                    all.by_path.insert(format!("/{}/{}", service.name, m.info.name), (service.name, n));
                }
                all.by_name.insert(service.name, interface);
            }
        }
        Ok(all)
    }

    fn read(&mut self, service: &ServiceInfo) -> Result<Interface, String> {
        let ty = GrainType::new(service.name).map_err(|e| e.to_string())?;
        let methods = match service.descriptors {
            Some(bytes) => self.contract(service, bytes)?,
            None => service
                .methods
                .iter()
                .enumerate()
                .map(|(n, &info)| Method {
                    info,
                    types: Types::Named(service.arguments.get(n).copied().unwrap_or(&[])),
                })
                .collect(),
        };
        Ok(Interface { ty, keys: service.keys, methods })
    }

    fn contract(&mut self, service: &ServiceInfo, bytes: &'static [u8]) -> Result<Vec<Method>, String> {
        self.pool
            .decode_file_descriptor_set(bytes)
            .map_err(|e| format!("its descriptor set cannot be read: {e}"))?;
        let descriptor = self
            .pool
            .get_service_by_name(service.name)
            .ok_or("its descriptor set does not hold the service; build it anew")?;
        let method = |&info: &MethodInfo| {
            let m = descriptor
                .methods()
                .find(|m| m.name() == info.name)
                .ok_or_else(|| format!("its descriptor set has no method {}; build it anew", info.name))?;
            Ok(Method { info, types: Types::Protobuf { input: m.input(), output: m.output() } })
        };
        service.methods.iter().map(method).collect()
    }

    /// The names of all interfaces, sorted.
    pub fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.by_name.keys().copied().collect();
        names.sort_unstable();
        names
    }

    /// The descriptor set of all contract-first interfaces, with imports and options.
    pub fn descriptors(&self) -> Vec<u8> {
        self.pool.encode_to_vec()
    }

    /// By the path of a gRPC call.
    pub(crate) fn by_path(&self, path: &str) -> Result<(&Interface, &Method), ErrorKind> {
        if let Some((name, n)) = self.by_path.get(path) {
            let interface = &self.by_name[name];
            return Ok((interface, &interface.methods[*n]));
        }
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
        self.by_name(service, method)
    }

    /// By name.
    pub(crate) fn by_name(&self, service: &str, method: &str) -> Result<(&Interface, &Method), ErrorKind> {
        let interface = self.by_name.get(service).ok_or_else(|| self.no_such_grain(service))?;
        match interface.methods.iter().find(|m| m.info.name == method) {
            Some(m) => Ok((interface, m)),
            None => Err(interface.no_such_method(method)),
        }
    }

    fn no_such_grain(&self, name: &str) -> ErrorKind {
        let known = self.names();
        let more = if known.len() > KNOWN { ", …" } else { "" };
        let known = known.into_iter().take(KNOWN).collect::<Vec<_>>().join(", ") + more;
        ErrorKind::NoSuchGrain { ty: shown(name), known }
    }
}

/// Names listed in an error.
const KNOWN: usize = 10;

/// What a caller sent, short enough for a message.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(128).collect()
}

impl Interface {
    /// The grain that a key in text form names.
    ///
    /// # Errors
    /// `BadKey`.
    pub fn grain(&self, key: &str) -> Result<GrainId, ErrorKind> {
        Ok(GrainId::new(self.ty.clone(), Key::parse(self.keys, key)?))
    }

    fn no_such_method(&self, name: &str) -> ErrorKind {
        let known: Vec<&str> = self.methods.iter().take(KNOWN).map(|m| m.info.name).collect();
        let more = if self.methods.len() > KNOWN { ", …" } else { "" };
        ErrorKind::NoSuchMethod {
            method: format!("{}.{}; known: {}{more}", self.ty, shown(name), known.join(", ")),
        }
    }
}
