//! `check` inside the running process: gathers what is known, probes what can be probed, and lets `diagnose` conclude.
//!
//! Owns the gathering. Never concludes. Used by `service`.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use strait_controller::source::read_manifests;
use strait_dns::HealthView;
use strait_federation_api::{
    ClusterId, Reason, ServiceKey,
    catalog::Protocol,
    control::GatewayRequest,
    diagnose::{DiagnoseInput, PeerInput, PeerLink, ServiceInput, diagnose},
    manifest::{ResourceSet, load},
    names,
    observation::GatewayStatus,
    snapshot::Snapshot,
    view::{ControllerView, FederationView, ImportView},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::service::Service;
use crate::{local::Diagnosis, socks};

/// Bound on one probe: the slowest failover promised, twice.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
