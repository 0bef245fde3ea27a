//! The file source: a folder of manifests, watched.
//!
//! Owns when to look again: on a notification, once writers are quiet, and at a slow poll for file systems that notify nobody.
//! A folder is loaded as a whole; one error keeps the last good set in force. Run by the engine as one task.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{RecursiveMode, Watcher};
use strait_federation_api::{
    manifest::{self, Finding, ResourceSet},
    resources::{BundleSource, Federation, TokenSource, Trust},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout_at},
};
use zeroize::Zeroizing;

use super::{
    ManifestFile, References, Source, SourceState, Token, last_good,
    reading::{read_manifests, read_reference},
};

/// How a folder is watched.
#[derive(Debug, Clone)]
pub struct FileSourceConfig {
    /// The folder of manifests.
    pub folder: PathBuf,
    /// Where the last good state is kept, so that a restart with a broken file still has one.
    pub state: PathBuf,
    /// Quiet time after the last notification before the folder is read: editors write in several steps.
    pub debounce: Duration,
    /// Longest wait for quiet.
    pub debounce_max: Duration,
    /// Between two looks without a notification.
    pub poll: Duration,
}

impl FileSourceConfig {
    /// A folder and a state directory with the times for people: 150 ms of quiet outlasts the steps of an editor, one second
    /// bounds a process that writes without pause, five seconds bound what a network file system hides.
    #[must_use]
    pub fn new(folder: PathBuf, state: PathBuf) -> Self {
        Self {
            folder,
            state,
            debounce: Duration::from_millis(150),
            debounce_max: Duration::from_secs(1),
            poll: Duration::from_secs(5),
        }
    }
}

/// Watches one folder.
#[derive(Debug)]
pub struct FileSource {
    config: FileSourceConfig,
    /// What the last look read; `None` before the first, so that an empty folder is news too.
    files: Option<Vec<ManifestFile>>,
    read_error: Option<String>,
    state: SourceState,
}

impl FileSource {
    /// Looks for the first time. Blocking. If the folder is broken, the last good state of an earlier run takes its place.
    #[must_use]
    pub fn open(config: FileSourceConfig) -> Self {
        let mut source = Self {
            config,
            files: None,
            read_error: None,
            state: SourceState::default(),
        };
        source.look();
        if source.state.set.is_none() && source.state.broken {
            source.load_last_good();
            source.refresh_references();
        }
        source
    }

    fn load_last_good(&mut self) {
        let Some(files) = last_good::read(&self.config.state) else {
            return;
        };
        let loaded = load(&files);
        if loaded.errors.is_empty() {
            self.state.set = Some(Arc::new(loaded.resources));
            self.state.origins = Arc::new(loaded.origins);
        }
    }

    /// Reads everything; true if anything changed.
    fn look(&mut self) -> bool {
        let changed = match read_manifests(&self.config.folder) {
            Ok(files) if self.files.as_ref() == Some(&files) && self.read_error.is_none() => false,
            Ok(files) => {
                self.take(files);
                true
            }
            Err(error) => self.unreadable(&error.to_string()),
        };
        self.refresh_references() || changed
    }

    fn take(&mut self, files: Vec<ManifestFile>) {
        let loaded = load(&files);
        self.read_error = None;
        self.state.broken = !loaded.errors.is_empty();
        let findings = if self.state.broken {
            loaded.errors
        } else {
            loaded.warnings
        };
        report(&self.config.folder, &findings, self.state.broken);
        self.state.findings = Arc::new(findings);
        if !self.state.broken {
            if let Err(error) = last_good::write(&self.config.state, &files) {
                tracing::warn!(%error, "cannot keep a copy of the last good manifests");
            }
            self.state.set = Some(Arc::new(loaded.resources));
            self.state.origins = Arc::new(loaded.origins);
        }
        self.files = Some(files);
    }

    fn unreadable(&mut self, why: &str) -> bool {
        if self.read_error.as_deref() == Some(why) {
            return false;
        }
        tracing::error!(folder = %self.config.folder.display(), reason = "ConfigInvalid", "cannot read the manifests: {why}");
        self.read_error = Some(why.into());
        self.state.broken = true;
        self.state.findings = Arc::new(vec![unreadable_finding(&self.config.folder, why)]);
        true
    }

    fn refresh_references(&mut self) -> bool {
        let set = self.state.set.as_deref();
        let references = set.map_or_else(References::default, |set| {
            read_references(&self.config.folder, set)
        });
        let changed = *self.state.references != references;
        if changed {
            self.state.references = Arc::new(references);
        }
        changed
    }
}

impl Source for FileSource {
    fn state(&self) -> &SourceState {
        &self.state
    }

    fn watch(self: Box<Self>) -> watch::Receiver<SourceState> {
        let (sender, receiver) = watch::channel(self.state.clone());
        tokio::spawn(run(*self, sender));
        receiver
    }

    fn folder(&self) -> Option<PathBuf> {
        Some(self.config.folder.clone())
    }
}

async fn run(mut source: FileSource, sender: watch::Sender<SourceState>) {
    // One slot: several notifications before a look are one.
    let (notified, mut notifications) = mpsc::channel(1);
    let _watcher = start_watcher(&source.config.folder, notified);
    loop {
        tokio::select! {
            () = sender.closed() => return,
            () = wait(&mut notifications, &source.config) => {}
        }
        let Ok((returned, changed)) = tokio::task::spawn_blocking(move || {
            let changed = source.look();
            (source, changed)
        })
        .await
        else {
            tracing::error!("reading the manifests panicked; changes of files are not seen any more");
            return;
        };
        source = returned;
        if changed {
            sender.send_replace(source.state.clone());
        }
    }
}

/// Returns when it is time to look.
async fn wait(notifications: &mut mpsc::Receiver<()>, config: &FileSourceConfig) {
    let poll = Instant::now() + config.poll;
    match timeout_at(poll, notifications.recv()).await {
        Ok(Some(())) => {}
        Ok(None) => return tokio::time::sleep_until(poll).await,
        Err(_) => return,
    }
    let last = Instant::now() + config.debounce_max;
    while let Ok(Some(())) =
        timeout_at(last.min(Instant::now() + config.debounce), notifications.recv()).await
    {
        if Instant::now() >= last {
            return;
        }
    }
}

fn start_watcher(folder: &Path, notified: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading a file is an event too: looking must not cause the next look.
        if event.map_or(true, |e| !e.kind.is_access()) {
            let _already_pending = notified.try_send(());
        }
    });
    let started = watcher.and_then(|mut w| w.watch(folder, RecursiveMode::NonRecursive).map(|()| w));
    started
        .inspect_err(|error| {
            tracing::warn!(folder = %folder.display(), %error, "no notifications for this folder; changes are seen at the next poll");
        })
        .ok()
}

fn load(files: &[ManifestFile]) -> manifest::Loaded {
    let texts: Vec<_> = files
        .iter()
        .map(|file| (file.path.to_string_lossy(), file.text.as_str()))
        .collect();
    manifest::load(&texts)
}

fn report(folder: &Path, findings: &[Finding], broken: bool) {
    let folder = folder.display();
    for finding in findings {
        if broken {
            tracing::error!(%folder, reason = "ConfigInvalid", "{finding}");
        } else {
            tracing::warn!(%folder, "{finding}");
        }
    }
    if broken {
        tracing::error!(%folder, errors = findings.len(), reason = "ConfigInvalid", "the manifests are invalid; the last good state stays in force");
    } else {
        tracing::info!(%folder, "manifests loaded");
    }
}

fn unreadable_finding(folder: &Path, why: &str) -> Finding {
    Finding {
        file: folder.to_string_lossy().into(),
        line: 0,
        column: 0,
        code: manifest::ErrorCode::Unreadable,
        object: None,
        field: String::new(),
        problem: format!("cannot be read: {why}"),
        fix: "make the folder and its files readable for this user".into(),
    }
}

fn read_references(folder: &Path, set: &ResourceSet) -> References {
    let mut references = References::default();
    for (name, federation) in &set.federations {
        if let Some(path) = token_path(folder, federation) {
            let text = read_reference(&path).map(Zeroizing::new);
            references
                .tokens
                .insert(name.clone(), Token(text.map_err(|e| words(&path, &e))));
        }
        if let Some(path) = bundle_path(folder, federation) {
            let text = read_reference(&path).map_err(|e| words(&path, &e));
            references.bundles.insert(name.clone(), text);
        }
    }
    references
}

fn words(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

fn token_path(folder: &Path, federation: &Federation) -> Option<PathBuf> {
    match &federation.spec.trust {
        Trust::Join(TokenSource::TokenFile(path)) => Some(folder.join(path)),
        _ => None,
    }
}

fn bundle_path(folder: &Path, federation: &Federation) -> Option<PathBuf> {
    match &federation.spec.trust {
        Trust::Static(trust) => match &trust.bundle {
            BundleSource::File(path) => Some(folder.join(path)),
            BundleSource::Ref(_) => None,
        },
        _ => None,
    }
}
