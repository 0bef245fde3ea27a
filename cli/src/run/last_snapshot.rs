//! The last snapshot on disk: what lets a restart serve before its control plane is ready.
//!
//! Owns the file. It is a convenience, never a record: one that is missing, damaged, of another version or another cluster is
//! left aside with a log line. It holds no secret, but it names a cluster's services and peers, so it is 0600. Used by `run`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use strait_federation_api::{ClusterId, snapshot::Snapshot};
use tokio::{sync::watch, task, time::sleep};
use tracing::{info, warn};

/// Version of the file. A reader of another version leaves it aside: it is rewritten within a second of the first snapshot.
const VERSION: u32 = 1;
/// Name inside the state directory.
const FILE_NAME: &str = "snapshot.json";
/// Rest between writes: a burst of changes costs one write, and a crash loses at most this much of convenience.
const REST: Duration = Duration::from_millis(500);
/// Owner only.
const MODE: u32 = 0o600;

/// The file of one state directory.
#[derive(Debug, Clone)]
pub(crate) struct LastSnapshot {
    path: PathBuf,
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    snapshot: &'a Snapshot,
}

#[derive(Deserialize)]
struct Read {
    version: u32,
    snapshot: Snapshot,
}

impl LastSnapshot {
    /// In this state directory.
    pub(crate) fn in_state(state: &Path) -> Self {
        Self {
            path: state.join(FILE_NAME),
        }
    }

    /// The snapshot of an earlier run of `cluster`, if there is a good one.
    pub(crate) fn load(&self, cluster: &ClusterId) -> Option<Snapshot> {
        match self.read(cluster) {
            Ok(snapshot) => {
                info!(epoch = %snapshot.epoch, version = snapshot.version, "serving the last snapshot until the controller is ready");
                Some(snapshot)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => {
                warn!(path = %self.path.display(), error = %e, "the last snapshot is left aside");
                None
            }
        }
    }

    fn read(&self, cluster: &ClusterId) -> io::Result<Snapshot> {
        let bytes = fs::read(&self.path)?;
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let read: Read = serde_json::from_slice(&bytes)?;
        if read.version != VERSION {
            return Err(invalid(format!("it has version {}, not {VERSION}", read.version)));
        }
        if read.snapshot.cluster != *cluster {
            return Err(invalid(format!("it is of cluster {}", read.snapshot.cluster)));
        }
        Ok(read.snapshot)
    }

    /// Replaces the file in one step; a crash leaves the old or the new one.
    pub(crate) fn save(&self, snapshot: &Snapshot) -> io::Result<()> {
        let next = self.path.with_extension("json.next");
        let bytes = serde_json::to_vec(&Written {
            version: VERSION,
            snapshot,
        })?;
        let mut file: File = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(MODE)
            .open(&next)?;
        file.write_all(&bytes)?;
        // Without this a power loss may leave the new name with no bytes.
        file.sync_all()?;
        fs::rename(&next, &self.path)
    }

    /// Keeps the file up to date until the sender is gone.
    pub(crate) async fn keep(self, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
        let mut failing = false;
        while snapshots.changed().await.is_ok() {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            if snapshot.is_unset() {
                continue;
            }
            let here = self.clone();
            let saved = task::spawn_blocking(move || here.save(&snapshot)).await;
            match saved.map_err(io::Error::other).and_then(|result| result) {
                Ok(()) => failing = false,
                Err(e) if !failing => {
                    failing = true; // said once: it would repeat with every change
                    warn!(path = %self.path.display(), error = %e, "the snapshot cannot be kept: a restart will wait for the controller");
                }
                Err(_) => {}
            }
            sleep(REST).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use strait_federation_api::{
        Epoch, ServiceKey,
        catalog::{ServiceKind, SessionAffinity},
        snapshot::Import,
    };

    use super::*;

    fn cluster(name: &str) -> ClusterId {
        ClusterId::parse(name).unwrap()
    }

    fn snapshot(name: &str) -> Snapshot {
        let service = ServiceKey::parse("demo", "greeter").unwrap();
        let import = Import {
            service: service.clone(),
            kind: ServiceKind::ClusterSetIp,
            ports: Vec::new(),
            vips: vec!["127.77.0.1".parse().unwrap()],
            session_affinity: SessionAffinity::Unset,
            backends: Vec::new(),
        };
        let mut snapshot = Snapshot::empty(cluster(name));
        snapshot.epoch = Epoch(3);
        snapshot.imports.insert(service, Arc::new(import));
        snapshot
    }

    #[test]
    fn what_is_saved_is_loaded_and_private() {
        let state = tempfile::tempdir().unwrap();
        let file = LastSnapshot::in_state(state.path());
        assert_eq!(file.load(&cluster("east")), None);
        file.save(&snapshot("east")).unwrap();
        assert_eq!(file.load(&cluster("east")), Some(snapshot("east")));
        assert_eq!(
            fs::metadata(&file.path).unwrap().permissions().mode() & 0o777,
            MODE
        );
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1);
    }

    #[test]
    fn another_clusters_or_a_damaged_one_is_left_aside() {
        let state = tempfile::tempdir().unwrap();
        let file = LastSnapshot::in_state(state.path());
        file.save(&snapshot("west")).unwrap();
        assert_eq!(file.load(&cluster("east")), None);
        for damage in ["", "{", r#"{"version":2,"snapshot":{}}"#] {
            fs::write(&file.path, damage).unwrap();
            assert_eq!(file.load(&cluster("east")), None, "{damage}");
        }
    }

    #[tokio::test]
    async fn changes_reach_the_file_and_an_unset_snapshot_never_replaces_a_good_one() {
        let state = tempfile::tempdir().unwrap();
        let file = LastSnapshot::in_state(state.path());
        let (sender, receiver) = watch::channel(Arc::new(Snapshot::empty(cluster("east"))));
        let keeper = tokio::spawn(file.clone().keep(receiver));
        sender.send(Arc::new(snapshot("east"))).unwrap();
        while file.load(&cluster("east")).is_none() {
            sleep(Duration::from_millis(5)).await;
        }
        sender.send(Arc::new(Snapshot::empty(cluster("east")))).unwrap();
        drop(sender);
        keeper.await.unwrap();
        assert_eq!(file.load(&cluster("east")), Some(snapshot("east")));
    }
}
