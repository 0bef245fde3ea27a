//! `strait run`: one cluster's control plane, gateway and DNS in one process.
//!
//! Owns the order of start and end, and the channels between rooms. Decides nothing: it opens the controller (records, CA, first
//! snapshot), binds everything, starts everything, and waits for a signal.

mod banner;
mod check;
mod dns;
mod events;
mod last_snapshot;
mod resolv;
mod service;
mod settings;
mod signals;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use prometheus_client::registry::Registry;
use strait_controller::{ControllerConfig, GatewayLink, Prepared, Running, Timing};
use strait_dns::{DnsServer, HealthView};
use strait_federation_api::{Reason, resources::Cluster, snapshot::Snapshot};
use strait_gateway::{Gateway, GatewayLinks};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tracing::{error, info, warn};

use self::{banner::Banner, check::Checker, last_snapshot::LastSnapshot, service::Service, signals::Signals};
use crate::{
    admin::Admin,
    args::RunArgs,
    commands::unix_now,
    demo,
    exit::{CliError, Exit},
    local::{Server, socket_path},
    logging::{self, LogLevel},
    metrics,
    readiness::{Gate, Readiness},
};

/// Threads of the control runtime: the exchange, admin, DNS and commands are light, and none may hold up another.
const CONTROL_THREADS: usize = 2;
/// Events from the gateway that may wait: the gateway coalesces observations when it is full.
const EVENTS_MAX: usize = 1_024;
/// Requests to the gateway that may wait: a handful a peer.
const REQUESTS_MAX: usize = 64;

/// The gateway's first status comes with its start; a banner without one address must not hold up the process.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs until a signal.
pub(crate) fn run(args: RunArgs) -> Result<Exit, CliError> {
    demo::die_with(args.die_with)?;
    let log = logging::init(&args.log, args.access_log)?;
    let config = ControllerConfig {
        state: args.state.state.clone(),
        manifests: args.config.clone(),
        timing: Timing::default(),
    };
    let prepared = Prepared::open(&config).map_err(|e| start_error("controller", &e, e.reason()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("strait-control")
        .enable_all()
        .build()
        .map_err(|e| CliError::failed(format!("control runtime: {e}")))?;
    let process = Process::start(&args, prepared, log, &runtime)?;
    let exit = runtime.block_on(process.until_signal(&args));
    // Tasks that wait for clients of the admin port or the socket have nothing left to say.
    runtime.shutdown_background();
    exit
}

/// Everything that runs.
struct Process {
    controller: Running,
    gateway: Gateway,
    dns: Option<DnsServer>,
    signals: Signals,
    tasks: JoinSet<()>,
    /// Closed for good when the end begins: nothing must be sent here any more.
    serving: Readiness,
}

/// What is bound before anything runs.
struct Bound {
    admin: Option<(tokio::net::TcpListener, SocketAddr)>,
    socket: Server,
}

impl Process {
    fn start(args: &RunArgs, prepared: Prepared, log: LogLevel, runtime: &Runtime) -> Result<Self, CliError> {
        let _entered = runtime.enter();
        let started = (Instant::now(), unix_now());
        let readiness = Readiness::new();
        let gates = (readiness.gate("gateway"), readiness.gate("controller"));
        let signals = Signals::install().map_err(|e| CliError::failed(format!("signals: {e}")))?;
        let cluster = prepared.cluster().clone();
        let trust_domain = prepared.trust().view().own().to_string();
        let bound = bind(args, &cluster, runtime)?;
        let mut tasks = JoinSet::new();

        let snapshots = relay(&prepared, &args.state.state, &mut tasks);
        let (events_in, events_out) = mpsc::channel(EVENTS_MAX);
        let (to_controller, from_gateway) = mpsc::channel(EVENTS_MAX);
        let (requests, requested) = mpsc::channel(REQUESTS_MAX);
        let gateway = Gateway::start(
            settings::gateway(args, &prepared)?,
            GatewayLinks {
                trust: prepared.trust(),
                trust_changes: prepared.trust_generation(),
                snapshots: snapshots.clone(),
                events: events_in,
                requests: requested,
                invite_open: prepared.invite_open(),
            },
        )
        .map_err(|e| start_error("gateway", &e, e.reason()))?;
        let (health, health_seen) = watch::channel(Arc::new(HealthView::default()));
        tasks.spawn(events::pass(events_out, to_controller, health, snapshots.clone()));
        let dns = runtime.block_on(dns::start(&cluster, snapshots.clone(), health_seen))?;

        let figures = prepared.metrics();
        let link = GatewayLink {
            events: from_gateway,
            requests: requests.clone(),
            status: gateway.status(),
        };
        let controller = prepared
            .start(link, runtime.handle())
            .map_err(|e| start_error("controller", &e, e.reason()))?;
        let checker = Checker {
            controller: controller.handle(),
            gateway: gateway.status(),
            requests,
            manifests: args.config.clone(),
            state: args.state.state.clone(),
            dns: dns
                .as_ref()
                .and_then(|server| server.local_addrs().first().copied()),
        };
        let service = Arc::new(Service {
            controller: controller.handle(),
            gateway: gateway.status(),
            checker,
            readiness: readiness.clone(),
            log,
            started: started.0,
        });

        let mut registry = Registry::default();
        metrics::register(&mut registry, started.1);
        figures.register(&mut registry);
        gateway.register(&mut registry);
        if let Some(server) = &dns {
            dns::register(&mut registry, server);
        }
        let dumped = Arc::clone(&service);
        let admin = Arc::new(Admin {
            readiness: readiness.clone(),
            registry: OnceLock::from(registry),
            dump: OnceLock::from(Box::new(move || dumped.dump()) as crate::admin::Dump),
        });
        let banner = Banner {
            cluster: cluster.id.as_str(),
            trust_domain: &trust_domain,
            gateway: gateway.listen(),
            advertised: cluster.advertised().iter().map(ToString::to_string).collect(),
            socks: runtime.block_on(bound_socks(&gateway)),
            dns: dns.as_ref().and_then(|d| d.local_addrs().first().copied()),
            admin: bound.admin.as_ref().map(|(_, address)| *address),
            socket: bound.socket.path(),
            config: &args.config,
        };
        print!("{}", banner.text());
        tasks.spawn(bound.socket.serve(service));
        if let Some((listener, _)) = bound.admin {
            tasks.spawn(admin.serve(listener));
        }
        tasks.spawn(open_gates(gates, snapshots));
        Ok(Self {
            controller,
            gateway,
            dns,
            signals,
            tasks,
            serving: readiness,
        })
    }

    /// Waits for a signal (or for a part that ends by itself), then drains; a second signal ends at once.
    async fn until_signal(mut self, args: &RunArgs) -> Result<Exit, CliError> {
        let mut failed = self.gateway.failed();
        let why = tokio::select! {
            signal = self.signals.next() => Ok(signal),
            () = self.controller.ended() => Err("the control plane ended by itself".to_owned()),
            Ok(why) = failed.wait_for(Option::is_some) => Err(why.clone().unwrap_or_default()),
        };
        let _not_ready = self.serving.gate("nothing: it is ending");
        match &why {
            Ok(signal) => info!(signal, grace = ?args.grace, "draining; a second signal ends at once"),
            Err(why) => error!(reason = %Reason::Internal, "{why}"),
        }
        tokio::select! {
            () = self.gateway.drain(args.grace) => info!("drained"),
            signal = self.signals.next() => warn!(signal, "ending at once: streams that were left are reset"),
        }
        self.controller.stop().await;
        if let Some(dns) = self.dns {
            dns.shutdown().await;
        }
        self.gateway.shutdown().await;
        self.tasks.shutdown().await;
        match why {
            Ok(_) => Ok(Exit::Ok),
            Err(why) => Err(CliError::failed(why).because(Reason::Internal)),
        }
    }
}

/// Binds what only this room serves, so that a taken address ends the start before anything runs.
fn bind(args: &RunArgs, cluster: &Cluster, runtime: &Runtime) -> Result<Bound, CliError> {
    let admin = match cluster.spec.admin.address() {
        None => None,
        Some(address) => {
            let taken = |e: std::io::Error| {
                CliError::failed(format!("admin address {address}: {e}"))
                    .help("set spec.admin of the Cluster, or `off`")
            };
            let listener = runtime.block_on(Admin::bind(address)).map_err(taken)?;
            let bound = listener.local_addr().map_err(taken)?;
            if !address.ip().is_loopback() {
                warn!(%bound, "health, metrics and dump are served to more than this machine");
            }
            Some((listener, bound))
        }
    };
    let path = socket_path(&args.state.state);
    let socket = Server::bind(&args.state.state).map_err(|e| {
        CliError::failed(format!("command socket {}: {e}", path.display()))
            .help("a socket's path may have about 100 bytes: choose a shorter --state")
    })?;
    Ok(Bound { admin, socket })
}

/// The snapshots that gateway and DNS read: the last one on disk until the controller has one, then the controller's.
fn relay(prepared: &Prepared, state: &Path, tasks: &mut JoinSet<()>) -> watch::Receiver<Arc<Snapshot>> {
    let mut from = prepared.snapshot();
    let file = LastSnapshot::in_state(state);
    let mut first = Arc::clone(&from.borrow_and_update());
    if first.is_unset()
        && let Some(last) = file.load(&first.cluster)
    {
        first = Arc::new(last);
    } else if !first.is_unset()
        && let Err(e) = file.save(&first)
    {
        warn!(error = %e, "the snapshot cannot be kept: a restart will wait for the controller");
    }
    let (to, snapshots) = watch::channel(first);
    tasks.spawn(file.keep(snapshots.clone()));
    tasks.spawn(async move {
        while from.changed().await.is_ok() {
            let snapshot = Arc::clone(&from.borrow_and_update());
            if !snapshot.is_unset() {
                to.send_replace(snapshot);
            }
        }
    });
    snapshots
}

/// The gateway is bound by now; the controller is ready when gateway and DNS have a snapshot of it.
async fn open_gates((gateway, controller): (Gate, Gate), mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    gateway.open();
    if snapshots.wait_for(|snapshot| !snapshot.is_unset()).await.is_ok() {
        controller.open();
        info!("ready");
    }
}

/// The SOCKS5 address as bound: in the gateway's first status.
async fn bound_socks(gateway: &Gateway) -> Option<SocketAddr> {
    let mut status = gateway.status();
    let first = status.wait_for(|status| status.listen.is_some());
    tokio::time::timeout(STATUS_TIMEOUT, first)
        .await
        .ok()?
        .ok()?
        .socks
}

fn start_error(what: &str, error: &dyn std::error::Error, reason: Reason) -> CliError {
    let exit = if reason == Reason::ConfigInvalid {
        CliError::config
    } else {
        CliError::failed
    };
    exit(format!("{what}: {error}")).because(reason)
}
