//! What a set of resources exports: each ServiceExport with its Service and the endpoints behind each port.
//!
//! Owns the matching of slices to ports, done as kube-proxy does it: by port name and protocol. Pure. Called by controller, diff
//! and diagnose.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::ResourceSet;
use crate::{
    Reason,
    catalog::{EndpointId, IpFamily, Member, OfferedService, ServiceKind, SessionAffinity},
    ids::{ClusterId, Hostname, ServiceKey, Uid},
    resources::{
        EndpointSlice, Service, ServiceExport,
        core::{AffinityKind, EndpointAddress, ServiceType},
        mcs::ServiceExportSpec,
    },
    snapshot::{Endpoint, Export, ExportPort, HealthCheck},
};

/// Why a ServiceExport exports nothing: its condition Valid is False with this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportProblem {
    /// `NoService` or `InvalidServiceType`.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

/// A valid export: everything but who may see it, its UID and its creation time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedService {
    /// Namespace and name.
    pub service: ServiceKey,
    /// Type.
    pub kind: ServiceKind,
    /// Ports with resolved endpoints, in the order of the Service.
    pub ports: Vec<ExportPort>,
    /// Session affinity.
    pub session_affinity: SessionAffinity,
    /// How endpoints are probed.
    pub health: HealthCheck,
    /// Families, at most two.
    pub ip_families: Vec<IpFamily>,
    spec: ServiceExportSpec,
    service_spec: Arc<Service>,
    replayable_ports: Vec<u16>,
}

impl ExportedService {
    /// The snapshot's export, open to `allowed`.
    #[must_use]
    pub fn export(&self, allowed: BTreeSet<ClusterId>) -> Export {
        Export {
            service: self.service.clone(),
            ports: self.ports.clone(),
            allowed,
            session_affinity: self.session_affinity,
            health: self.health.clone(),
        }
    }

    /// What peers are told. `uid` and `created` (Unix seconds) are the record of the first sight; `healthy` is asked for each
    /// endpoint that its slice calls ready.
    #[must_use]
    pub fn offered(
        &self,
        uid: Uid,
        created: i64,
        locality: Option<Arc<str>>,
        healthy: impl Fn(&EndpointId) -> bool,
    ) -> OfferedService {
        let ready = self.ready_endpoints(&healthy);
        let members = match self.kind {
            ServiceKind::ClusterSetIp => Vec::new(),
            ServiceKind::Headless => self.members(&ready),
        };
        let spec = &self.service_spec.spec;
        let ports = spec.ports.iter().map(Into::into).collect();
        OfferedService {
            service: self.service.clone(),
            uid,
            created,
            kind: self.kind,
            ports,
            session_affinity: self.session_affinity,
            internal_traffic_policy: spec.internal_traffic_policy,
            traffic_distribution: spec.traffic_distribution.clone(),
            ip_families: self.ip_families.clone(),
            labels: self.spec.exported_labels.clone(),
            annotations: self.spec.exported_annotations.clone(),
            ready: u32::try_from(ready.len()).unwrap_or(u32::MAX),
            locality,
            members,
            replayable_ports: self.replayable_ports.clone(),
        }
    }

    /// Every endpoint, once, whatever the port.
    fn endpoints(&self) -> BTreeMap<&EndpointId, &Endpoint> {
        self.ports
            .iter()
            .flat_map(|p| &p.endpoints)
            .map(|e| (&e.id, e))
            .collect()
    }

    fn ready_endpoints(&self, healthy: &impl Fn(&EndpointId) -> bool) -> BTreeSet<EndpointId> {
        let ready = |e: &&Endpoint| e.ready && healthy(&e.id);
        self.endpoints()
            .into_values()
            .filter(ready)
            .map(|e| e.id.clone())
            .collect()
    }

    fn members(&self, ready: &BTreeSet<EndpointId>) -> Vec<Member> {
        self.endpoints()
            .into_values()
            .map(|e| Member {
                id: e.id.clone(),
                hostname: e.hostname.clone(),
                ip: e.address.ip(),
                ready: ready.contains(&e.id),
            })
            .collect()
    }
}

/// Every ServiceExport of the set: what it exports, or why nothing.
#[must_use]
pub fn exported_services(set: &ResourceSet) -> BTreeMap<ServiceKey, Result<ExportedService, ExportProblem>> {
    let mut slices: BTreeMap<ServiceKey, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in set.slices.values() {
        let key = ServiceKey {
            namespace: slice.namespace.clone(),
            name: slice.service.clone(),
        };
        slices.entry(key).or_default().push(slice);
    }
    set.service_exports
        .values()
        .map(|e| {
            let of = slices.get(&e.key).map_or(&[][..], Vec::as_slice);
            (e.key.clone(), exported(e, set.services.get(&e.key), of))
        })
        .collect()
}

fn exported(
    export: &ServiceExport,
    service: Option<&Service>,
    slices: &[&EndpointSlice],
) -> Result<ExportedService, ExportProblem> {
    let Some(service) = service else {
        return Err(ExportProblem {
            reason: Reason::NoService,
            message: format!("there is no Service {}", export.key),
        });
    };
    if service.spec.kind == ServiceType::ExternalName {
        return Err(ExportProblem {
            reason: Reason::InvalidServiceType,
            message: format!("the Service {} has type ExternalName", export.key),
        });
    }
    let kind = if service.spec.is_headless() {
        ServiceKind::Headless
    } else {
        ServiceKind::ClusterSetIp
    };
    let ports = resolve_ports(service, slices);
    Ok(ExportedService {
        service: export.key.clone(),
        kind,
        ip_families: families(service, &ports),
        ports,
        session_affinity: affinity(service),
        health: export.health.clone(),
        spec: export.spec.clone(),
        service_spec: Arc::new(service.clone()),
        replayable_ports: export.replayable_ports.clone(),
    })
}

fn affinity(service: &Service) -> SessionAffinity {
    match service.spec.session_affinity {
        None => SessionAffinity::Unset,
        Some(AffinityKind::None) => SessionAffinity::None,
        Some(AffinityKind::ClientIp) => SessionAffinity::ClientIp {
            timeout_seconds: service
                .spec
                .session_affinity_config
                .as_ref()
                .and_then(|c| c.client_ip.as_ref())
                .and_then(|c| c.timeout_seconds),
        },
    }
}

/// The families the Service states, else those of its endpoints, else IPv4.
fn families(service: &Service, ports: &[ExportPort]) -> Vec<IpFamily> {
    if !service.spec.ip_families.is_empty() {
        return service.spec.ip_families.clone();
    }
    let mut found: Vec<IpFamily> = Vec::new();
    for e in ports.iter().flat_map(|p| &p.endpoints) {
        let family = IpFamily::of(e.address.ip());
        if !found.contains(&family) {
            found.push(family);
        }
    }
    if found.is_empty() {
        found.push(IpFamily::V4);
    }
    found
}

/// One endpoint of one slice with its id.
struct Placed<'a> {
    id: EndpointId,
    ip: IpAddr,
    slice: &'a EndpointSlice,
    index: usize,
}

fn resolve_ports(service: &Service, slices: &[&EndpointSlice]) -> Vec<ExportPort> {
    let placed = place(slices);
    service
        .spec
        .ports
        .iter()
        .map(|port| ExportPort {
            name: port.name.clone(),
            protocol: port.protocol,
            port: port.port,
            endpoints: endpoints_of(service, &placed, port),
        })
        .collect()
}

fn endpoints_of(
    service: &Service,
    placed: &[Placed<'_>],
    port: &crate::resources::core::ServicePortSpec,
) -> Vec<Endpoint> {
    let mut by_address: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
    for p in placed {
        let found = p
            .slice
            .spec
            .ports
            .iter()
            .find(|s| (&s.name, s.protocol) == (&port.name, port.protocol));
        let (Some(target), Some(endpoint)) = (found, p.slice.spec.endpoints.get(p.index)) else {
            continue;
        };
        let ready = service.spec.publish_not_ready_addresses || endpoint.conditions.ready.unwrap_or(true);
        let address = SocketAddr::new(p.ip, target.port);
        // During a move one endpoint stands in two slices: ready in either is ready.
        by_address
            .entry(address)
            .and_modify(|e| e.ready |= ready)
            .or_insert_with(|| Endpoint {
                id: p.id.clone(),
                address,
                ready,
                hostname: endpoint.hostname.clone(),
                zone: endpoint.zone.clone(),
            });
    }
    by_address.into_values().collect()
}

/// Gives each endpoint its id: its hostname, else its address; where one address serves with different ports (several endpoints
/// on one host), address and first port.
fn place<'a>(slices: &[&'a EndpointSlice]) -> Vec<Placed<'a>> {
    let first_port = |s: &EndpointSlice| s.spec.ports.iter().map(|p| p.port).min().unwrap_or(0);
    let mut ports_of: BTreeMap<IpAddr, BTreeSet<u16>> = BTreeMap::new();
    let mut found = Vec::new();
    for &slice in slices {
        for (index, endpoint) in slice.spec.endpoints.iter().enumerate() {
            let Some(&EndpointAddress::Ip(ip)) = endpoint.addresses.first() else {
                continue;
            };
            ports_of.entry(ip).or_default().insert(first_port(slice));
            found.push((ip, slice, index, endpoint.hostname.clone()));
        }
    }
    found
        .into_iter()
        .filter_map(|(ip, slice, index, hostname)| {
            let shared = ports_of.get(&ip).is_some_and(|p| p.len() > 1);
            let port = shared.then(|| first_port(slice));
            let id = endpoint_id(ip, hostname.filter(|_| !shared), port)?;
            Some(Placed { id, ip, slice, index })
        })
        .collect()
}

/// A label made of the hostname or the address. `::1` alone would begin with a dash, so addresses that do get a letter before and
/// a digit behind.
fn endpoint_id(ip: IpAddr, hostname: Option<Hostname>, port: Option<u16>) -> Option<EndpointId> {
    if let Some(hostname) = hostname {
        return Some(EndpointId(hostname));
    }
    let mut label = ip.to_string().replace(['.', ':'], "-");
    if label.starts_with('-') {
        label.insert_str(0, "ip");
    }
    if label.ends_with('-') {
        label.push('0');
    }
    if let Some(port) = port {
        label.push_str(&format!("-{port}"));
    }
    Hostname::parse(&label).ok().map(EndpointId)
}
