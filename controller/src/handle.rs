//! The way into this room: open, start, ask.
//!
//! Owns the public shape. cli opens the controller first (records, CA, first snapshot), binds the gateway with what it learns,
//! then starts the engine with the channels to it.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use strait_federation_api::{
    Reason, TrustDomain,
    control::{GatewayEvent, GatewayRequest},
    observation::GatewayStatus,
    resources::{Cluster, FederationName},
    snapshot::Snapshot,
    view::{ControllerView, InviteView, RotationView},
};
use strait_trust_bridge::{DEFAULT_LEAF_TTL, TrustStore, rotation::DEFAULT_ACK_GRACE};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::{
    ControllerError, Metrics, RotateAction,
    engine::{ASKS_MAX, Ask, Carrier, Desk, Engine, Inlets, REPORTS_MAX, SESSIONS_MAX},
    join::Attempts,
    records::{Disk, FileDisk, types::InstanceRecord},
    source::{FileSource, FileSourceConfig, Source},
};

/// Times that a test shortens. The defaults are the contract's.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Life of the gateway's leaf; renewed at half.
    pub leaf_ttl: Duration,
    /// How long peers may take to acknowledge a new root before they are listed as lagging.
    pub ack_grace: Duration,
    /// First pause before a join is tried again; it doubles up to 30 s.
    pub join_retry: Duration,
    /// Pause after an input before what follows is worked out, so that a burst is worked out once.
    pub settle: Duration,
    /// Between two looks at the manifests without a notification.
    pub poll: Duration,
    /// Quiet time after a notification before the manifests are read.
    pub debounce: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let source = FileSourceConfig::new(PathBuf::new(), PathBuf::new());
        Self {
            leaf_ttl: DEFAULT_LEAF_TTL,
            ack_grace: DEFAULT_ACK_GRACE,
            join_retry: Duration::from_secs(1),
            // Shorter than anybody notices, longer than a burst of health results.
            settle: Duration::from_millis(20),
            poll: source.poll,
            debounce: source.debounce,
        }
    }
}

/// Where things are.
#[derive(Debug, Clone)]
pub struct ControllerConfig {
    /// State directory: records, cache.
    pub state: PathBuf,
    /// Folder of manifests.
    pub manifests: PathBuf,
    /// Times.
    pub timing: Timing,
}

/// Channels to the gateway.
pub struct GatewayLink {
    /// What it tells.
    pub events: mpsc::Receiver<GatewayEvent>,
    /// What is asked of it.
    pub requests: mpsc::Sender<GatewayRequest>,
    /// Its status: ages of tunnels decide when an old root may go.
    pub status: watch::Receiver<Arc<GatewayStatus>>,
}

/// A controller whose records are open and whose first snapshot is made. Holds the state directory's lock.
pub struct Prepared {
    engine: Engine,
    source: Box<dyn Source>,
}

impl Prepared {
    /// Opens the state directory and the manifests; makes what a first start needs. Blocking.
    ///
    /// # Errors
    /// [`ControllerError::Config`] when the manifests are invalid and no earlier state is known; [`ControllerError::RecordLost`],
    /// [`ControllerError::Locked`], [`ControllerError::Io`].
    pub fn open(config: &ControllerConfig) -> Result<Self, ControllerError> {
        Self::open_on(config, Arc::new(FileDisk))
    }

    /// As [`Prepared::open`], on a given disk for the records: tests bring one that stops.
    pub(crate) fn open_on(config: &ControllerConfig, disk: Arc<dyn Disk>) -> Result<Self, ControllerError> {
        let source = FileSource::open(FileSourceConfig {
            debounce: config.timing.debounce,
            poll: config.timing.poll,
            ..FileSourceConfig::new(config.manifests.clone(), config.state.clone())
        });
        let source: Box<dyn Source> = Box::new(source);
        let engine = Engine::open(config, &*source, disk)?;
        Ok(Self { engine, source })
    }

    /// This cluster's settings as they are now.
    #[must_use]
    pub const fn cluster(&self) -> &Cluster {
        &self.engine.cluster
    }

    /// Identity and keys of this gateway instance, for the tunnel's configuration.
    #[must_use]
    pub const fn instance(&self) -> &InstanceRecord {
        &self.engine.instance
    }

    /// What TLS reads.
    #[must_use]
    pub fn trust(&self) -> Arc<TrustStore> {
        Arc::clone(self.engine.authority.store())
    }

    /// Tells of each change of the trust store: live connections must be verified again.
    #[must_use]
    pub fn trust_generation(&self) -> watch::Receiver<u64> {
        self.engine.authority.generation()
    }

    /// Whether join connections are let in just now; read inside handshakes.
    #[must_use]
    pub fn invite_open(&self) -> Arc<AtomicBool> {
        Arc::clone(self.engine.invites.open_flag())
    }

    /// The snapshot, already made of what is known without any peer.
    #[must_use]
    pub fn snapshot(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.engine.out.snapshot.subscribe()
    }

    /// Counters to register.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.engine.metrics.clone()
    }

    /// Starts the engine on a thread of its own; its tasks run on `runtime`, which must have time enabled.
    ///
    /// # Errors
    /// [`ControllerError::Io`] when the system gives no thread.
    pub fn start(self, link: GatewayLink, runtime: &Handle) -> Result<Running, ControllerError> {
        let Self { mut engine, source } = self;
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        let (reports, reported) = mpsc::channel(REPORTS_MAX);
        let stop = CancellationToken::new();
        let _entered = runtime.enter();
        let inlets = Inlets {
            source: source.watch(),
            events: link.events,
            asks: asked,
            reports: reported,
            stop: stop.clone(),
        };
        engine.carrier = Some(Carrier {
            runtime: runtime.clone(),
            requests: link.requests,
            gateway: link.status,
            desk: Desk(asks.clone()),
            reports,
            attempts: Attempts::new(),
            sessions: Arc::new(tokio::sync::Semaphore::new(SESSIONS_MAX)),
        });
        let handle = ControllerHandle {
            asks,
            view: engine.out.view.subscribe(),
            snapshot: engine.out.snapshot.subscribe(),
            bundle: engine.out.bundle.subscribe(),
        };
        let ended = spawn(engine, inlets)?;
        Ok(Running {
            handle,
            stop,
            ended: Some(ended),
        })
    }
}

/// The engine's own thread: it waits for disks.
fn spawn(engine: Engine, inlets: Inlets) -> Result<oneshot::Receiver<()>, ControllerError> {
    let (ended, wait) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(ControllerError::io("make the engine's runtime"))?;
    std::thread::Builder::new()
        .name("strait-engine".into())
        .spawn(move || {
            runtime.block_on(engine.run(inlets));
            let _nobody_waits = ended.send(());
        })
        .map_err(ControllerError::io("start the engine's thread"))?;
    Ok(wait)
}

/// A running controller. Dropping it stops the engine.
pub struct Running {
    handle: ControllerHandle,
    stop: CancellationToken,
    /// `None` once it has ended.
    ended: Option<oneshot::Receiver<()>>,
}

impl Running {
    /// To ask it.
    #[must_use]
    pub fn handle(&self) -> ControllerHandle {
        self.handle.clone()
    }

    /// Returns if the engine ends by itself: a bug, the process should end.
    pub async fn ended(&mut self) {
        if let Some(ended) = &mut self.ended {
            let _either_way = ended.await;
            self.ended = None;
        }
    }

    /// Stops the engine; everything it was told is on disk when this returns.
    pub async fn stop(mut self) {
        self.stop.cancel();
        self.ended().await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A new invite. `Debug` shows no token.
pub struct Invited {
    /// The text to paste: a secret, for the person who asked and nobody else.
    pub token: Zeroizing<String>,
    /// The invite.
    pub invite: InviteView,
}

impl std::fmt::Debug for Invited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invited")
            .field("invite", &self.invite)
            .finish_non_exhaustive()
    }
}

/// What the other side of static trust needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnBundle {
    /// Our trust domain.
    pub trust_domain: TrustDomain,
    /// Sequence of the bundle.
    pub sequence: u64,
    /// The SPIFFE bundle document.
    pub spiffe: String,
}

/// Asks the running controller. Clones ask the same one.
#[derive(Clone)]
pub struct ControllerHandle {
    asks: mpsc::Sender<Ask>,
    view: watch::Receiver<Arc<ControllerView>>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    bundle: watch::Receiver<Arc<OwnBundle>>,
}

impl ControllerHandle {
    /// Opens an invite for a Federation, or shows the token of the one that is open. `ttl` in seconds.
    ///
    /// # Errors
    /// A name that cannot be one, a cluster nobody can dial, a Federation with static trust, or a record that cannot be written.
    pub async fn invite(&self, federation: &str, ttl: Option<u64>) -> Result<Invited, ControllerError> {
        let federation = name(federation)?;
        let (token, invite) = self
            .ask(|reply| Ask::Invite {
                federation,
                ttl,
                reply,
            })
            .await?;
        Ok(Invited { token, invite })
    }

    /// Ends the invite of a Federation; a joiner that used it and has not connected yet is trusted no more.
    ///
    /// # Errors
    /// No such invite, or one that is used up: remove the Federation instead.
    pub async fn revoke_invite(&self, federation: &str) -> Result<(), ControllerError> {
        let federation = name(federation)?;
        self.ask(|reply| Ask::Revoke { federation, reply }).await
    }

    /// Begins to join with a token; gives the Federation's name. How it goes, the view tells.
    ///
    /// # Errors
    /// A token that cannot be read, our own, or one of a cluster that another Federation holds.
    pub async fn join(
        &self,
        token: Zeroizing<String>,
        federation: Option<&str>,
    ) -> Result<FederationName, ControllerError> {
        let federation = federation.map(name).transpose()?;
        self.ask(|reply| Ask::Join {
            token,
            federation,
            reply,
        })
        .await
    }

    /// Sets `spec.mode` of a Federation to Drain, or back to Active, in its file; says what was done.
    ///
    /// # Errors
    /// No such Federation, or a file that cannot be edited.
    pub async fn drain(&self, federation: &str, undo: bool) -> Result<String, ControllerError> {
        let federation = name(federation)?;
        self.ask(|reply| Ask::SetMode {
            federation,
            drain: !undo,
            reply,
        })
        .await
    }

    /// Rotates our root.
    ///
    /// # Errors
    /// A step that is not possible now, or a record that cannot be written.
    pub async fn rotate_root(&self, action: RotateAction) -> Result<RotationView, ControllerError> {
        self.ask(|reply| Ask::Rotate { action, reply }).await
    }

    /// Our trust domain and bundle.
    #[must_use]
    pub fn bundle(&self) -> OwnBundle {
        OwnBundle::clone(&self.bundle.borrow())
    }

    /// Everything people see.
    #[must_use]
    pub fn view(&self) -> Arc<ControllerView> {
        Arc::clone(&self.view.borrow())
    }

    /// The view as it changes.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<Arc<ControllerView>> {
        self.view.clone()
    }

    /// The snapshot in force.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    async fn ask<T>(
        &self,
        ask: impl FnOnce(oneshot::Sender<Result<T, ControllerError>>) -> Ask,
    ) -> Result<T, ControllerError> {
        let (reply, answer) = oneshot::channel();
        self.asks
            .send(ask(reply))
            .await
            .map_err(|_| ControllerError::Stopped)?;
        answer.await.map_err(|_| ControllerError::Stopped)?
    }
}

fn name(text: &str) -> Result<FederationName, ControllerError> {
    FederationName::parse(text).map_err(|e| {
        ControllerError::refused(
            Reason::ConfigInvalid,
            format!("'{text}' is no name of a Federation: {e}"),
        )
    })
}
