//! Rules of what runs here: Services, slices, ServiceExports and their annotations.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    ErrorCode,
    de::suggestion,
    load::{Loader, Source},
    node::FieldPath,
};
use crate::{
    ids::ServiceKey,
    resources::{
        EndpointSlice, Service,
        core::{AddressType, EndpointAddress, ServiceType},
        mcs::{HEALTH_CHECK, REPLAYABLE_PORTS, STRAIT_ANNOTATIONS},
        values::shown,
    },
    snapshot::HealthCheck,
};

/// Longest affinity, seconds: the bound of the Kubernetes API.
const AFFINITY_MAX_SECS: u32 = 86_400;
/// Longest path of a health check, bytes.
const HEALTH_PATH_MAX: usize = 1024;

pub(super) fn all(loader: &mut Loader) {
    for service in loader.set.services.values().cloned().collect::<Vec<_>>() {
        check_service(loader, &service);
    }
    for slice in loader.set.slices.values().cloned().collect::<Vec<_>>() {
        check_slice(loader, &slice);
    }
    let exports: Vec<_> = loader.set.service_exports.values().cloned().collect();
    for export in exports {
        let Some(source) = loader.source("ServiceExport", &export.key) else {
            continue;
        };
        let Some(service) = loader.set.services.get(&export.key) else {
            continue;
        };
        let missing: Vec<u16> = (export.replayable_ports.iter().copied())
            .filter(|port| service.spec.ports.iter().all(|p| p.port != *port))
            .collect();
        for port in missing {
            let path = FieldPath::of("metadata.annotations").key(REPLAYABLE_PORTS);
            let problem = format!("the Service {} has no port {port}", export.key);
            let fix = "list ports of the Service, not target ports";
            loader.error(&source, &path, ErrorCode::ReplayablePortUnknown, problem, fix);
        }
    }
}

fn check_service(loader: &mut Loader, service: &Service) {
    let Some(source) = loader.source("Service", &service.key) else {
        return;
    };
    let spec = &service.spec;
    if spec.ports.is_empty() && spec.kind != ServiceType::ExternalName && !spec.is_headless() {
        loader.error_at(
            &source,
            "spec.ports",
            ErrorCode::NoPorts,
            "the Service has no port",
            "add spec.ports",
        );
    }
    for (i, port) in spec.ports.iter().enumerate() {
        let path = format!("spec.ports[{i}]");
        let before = || spec.ports.iter().take(i);
        if port.name.is_none() && spec.ports.len() > 1 {
            let problem = "has no name, which is needed when there are several ports";
            loader.error_at(&source, &path, ErrorCode::PortNameMissing, problem, "add name");
        } else if port.name.is_some() && before().any(|p| p.name == port.name) {
            let problem = "has the name of a port before it";
            let at = format!("{path}.name");
            loader.error_at(
                &source,
                &at,
                ErrorCode::DuplicatePortName,
                problem,
                "give each port its own name",
            );
        }
        if before().any(|p| (p.protocol, p.port) == (port.protocol, port.port)) {
            let problem = format!("{}/{} is listed before", port.protocol, port.port);
            let at = format!("{path}.port");
            loader.error_at(
                &source,
                &at,
                ErrorCode::DuplicatePort,
                problem,
                "list each port once",
            );
        }
    }
    let timeout = spec
        .session_affinity_config
        .as_ref()
        .and_then(|c| c.client_ip.as_ref())
        .and_then(|c| c.timeout_seconds);
    if timeout.is_some_and(|t| t == 0 || t > AFFINITY_MAX_SECS) {
        let path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        let fix = format!("use 1 to {AFFINITY_MAX_SECS} seconds");
        loader.error_at(&source, path, ErrorCode::OutOfRange, "is out of range", fix);
    }
    if spec.ip_families.len() > 2
        || (spec.ip_families.len() == 2 && spec.ip_families.first() == spec.ip_families.get(1))
    {
        let fix = "list IPv4, IPv6, or both";
        loader.error_at(
            &source,
            "spec.ipFamilies",
            ErrorCode::BadValue,
            "lists a family twice",
            fix,
        );
    }
}

fn check_slice(loader: &mut Loader, slice: &EndpointSlice) {
    let id = format!("{}/{}", slice.namespace, slice.name);
    let Some(source) = loader.source("EndpointSlice", id) else {
        return;
    };
    if slice.spec.address_type == AddressType::Fqdn {
        let problem = "names cannot be endpoints here: nothing says when they change";
        return loader.error_at(
            &source,
            "addressType",
            ErrorCode::AddressFamily,
            problem,
            "list IPv4 or IPv6 addresses",
        );
    }
    addresses(loader, &source, slice);
    for (i, port) in slice.spec.ports.iter().enumerate() {
        if slice
            .spec
            .ports
            .iter()
            .take(i)
            .any(|p| (&p.name, p.protocol) == (&port.name, port.protocol))
        {
            let problem = "has the name of a port before it";
            let path = format!("ports[{i}]");
            loader.error_at(
                &source,
                &path,
                ErrorCode::DuplicatePortName,
                problem,
                "give each port its own name",
            );
        }
    }
    belongs(loader, &source, slice);
}

fn addresses(loader: &mut Loader, source: &Source, slice: &EndpointSlice) {
    for (i, endpoint) in slice.spec.endpoints.iter().enumerate() {
        let path = format!("endpoints[{i}].addresses");
        if endpoint.addresses.is_empty() {
            loader.error_at(
                source,
                &path,
                ErrorCode::MissingField,
                "lists no address",
                "add the endpoint's IP address",
            );
        }
        for (j, address) in endpoint.addresses.iter().enumerate() {
            let (family, text) = match address {
                EndpointAddress::Ip(ip) if ip.is_ipv4() => (Some(AddressType::V4), ip.to_string()),
                EndpointAddress::Ip(ip) => (Some(AddressType::V6), ip.to_string()),
                EndpointAddress::Other(text) => (None, shown(text)),
            };
            if family != Some(slice.spec.address_type) {
                let wanted = if slice.spec.address_type == AddressType::V4 {
                    "IPv4"
                } else {
                    "IPv6"
                };
                let problem = format!("{text} is not an {wanted} address");
                let fix = "put addresses of another family into a slice of their own";
                loader.error_at(
                    source,
                    &format!("{path}[{j}]"),
                    ErrorCode::AddressFamily,
                    problem,
                    fix,
                );
            }
        }
    }
}

/// A slice should belong to a Service and use the names of its ports.
fn belongs(loader: &mut Loader, source: &Source, slice: &EndpointSlice) {
    let key = ServiceKey {
        namespace: slice.namespace.clone(),
        name: slice.service.clone(),
    };
    let Some(service) = loader.set.services.get(&key).cloned() else {
        if !loader.is_broken("Service", &key) {
            let problem = format!("there is no Service {key}");
            let fix = "correct the label kubernetes.io/service-name, or add the Service";
            loader.warn_at(
                source,
                "metadata.labels",
                ErrorCode::SliceWithoutService,
                problem,
                fix,
            );
        }
        return;
    };
    let unknown = |p: &crate::resources::SlicePort| {
        let mut ports = service.spec.ports.iter();
        !ports.any(|s| (&s.name, s.protocol) == (&p.name, p.protocol))
    };
    for (i, port) in slice.spec.ports.iter().enumerate().filter(|(_, p)| unknown(p)) {
        let name = port.name.as_ref().map_or("without a name", |n| n.as_str());
        let known: Vec<&str> = service
            .spec
            .ports
            .iter()
            .map(|p| p.name.as_ref().map_or("(none)", |n| n.as_str()))
            .collect();
        let problem = format!(
            "the Service {key} has no {} port {name}, so this one serves nothing",
            port.protocol
        );
        let fix = format!("use a port name of the Service: {}", known.join(", "));
        loader.warn_at(
            source,
            &format!("ports[{i}]"),
            ErrorCode::SlicePortUnknown,
            problem,
            fix,
        );
    }
}

/// The annotations of ours on a ServiceExport. `None` after an error.
pub(super) fn annotations(
    loader: &mut Loader,
    source: &Source,
    all: &BTreeMap<String, String>,
) -> Option<(HealthCheck, Vec<u16>)> {
    let (mut health, mut replayable, mut clean) = (HealthCheck::default(), Vec::new(), true);
    for (key, value) in all.iter().filter(|(k, _)| k.starts_with(STRAIT_ANNOTATIONS)) {
        let path = FieldPath::of("metadata.annotations").key(key);
        let problem = match key.as_str() {
            HEALTH_CHECK => health_check(value).map(|h| health = h),
            REPLAYABLE_PORTS => ports(value).map(|p| replayable = p),
            _ => {
                let fix = format!("remove it{}", suggestion(key, &[HEALTH_CHECK, REPLAYABLE_PORTS]));
                loader.error(
                    source,
                    &path,
                    ErrorCode::UnknownAnnotation,
                    "is not an annotation of Strait",
                    fix,
                );
                clean = false;
                continue;
            }
        };
        if let Err((problem, fix)) = problem {
            loader.error(source, &path, ErrorCode::BadAnnotation, problem, fix);
            clean = false;
        }
    }
    clean.then_some((health, replayable))
}

/// Problem and fix.
type Refusal = (String, &'static str);

/// Parses the value of [`HEALTH_CHECK`].
pub(super) fn health_check(value: &str) -> Result<HealthCheck, Refusal> {
    let refuse = || {
        let problem = format!("{} is not a health check", shown(value));
        Err((problem, "write off, tcp, or http:/path"))
    };
    match value {
        "off" => Ok(HealthCheck::Off),
        "tcp" => Ok(HealthCheck::Tcp),
        _ => match value.strip_prefix("http:") {
            Some(path) if is_request_path(path) => Ok(HealthCheck::Http {
                path: Arc::from(path),
            }),
            _ => refuse(),
        },
    }
}

/// An origin-form request target (RFC 9112 section 3.2.1) that can be put on a request line as it is.
fn is_request_path(path: &str) -> bool {
    path.starts_with('/')
        && !path.starts_with("//")
        && path.len() <= HEALTH_PATH_MAX
        && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
}

/// Parses the value of [`REPLAYABLE_PORTS`]: sorted, without duplicates.
pub(super) fn ports(value: &str) -> Result<Vec<u16>, Refusal> {
    let fix = "write port numbers joined by commas, such as 80,8080";
    let mut ports = Vec::new();
    for part in value.split(',') {
        let digits = part.trim();
        match digits.parse::<u16>() {
            Ok(p) if p != 0 && !digits.starts_with('+') => ports.push(p),
            _ => return Err((format!("{} is not a port", shown(digits)), fix)),
        }
    }
    ports.sort_unstable();
    let before = ports.len();
    ports.dedup();
    if ports.len() == before {
        Ok(ports)
    } else {
        Err(("lists a port twice".to_owned(), fix))
    }
}
