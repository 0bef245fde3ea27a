//! Stops the machine before every single step of writing records, on a model disk that loses what was not synced, and asserts
//! that what comes up again is the old record or the new one.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Disk, Record, RecordName, Records};
use crate::ControllerError;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Thing {
    value: u32,
    padding: String,
}

impl Record for Thing {
    const KIND: &'static str = "thing";
    const SCHEMA: u32 = 1;
}

fn thing(value: u32) -> Thing {
    Thing {
        value,
        padding: "x".repeat(value as usize % 97),
    }
}

type Names = BTreeMap<PathBuf, usize>;

/// Files as an operating system sees them: names point at contents; both have a durable and a present form.
#[derive(Debug, Clone, Default)]
struct Inner {
    /// (present, durable) content by inode.
    inodes: Vec<(Vec<u8>, Vec<u8>)>,
    names: Names,
    durable: Names,
    /// Changes of names since the last directory sync, in order.
    unsynced: Vec<(PathBuf, Option<usize>)>,
    steps_left: Option<usize>,
    steps: usize,
}

#[derive(Debug, Default)]
struct ModelDisk(Mutex<Inner>);

impl ModelDisk {
    fn stopping_after(&self, steps: usize) -> Self {
        let mut inner = self.0.lock().clone();
        inner.steps_left = Some(steps);
        inner.steps = 0;
        Self(Mutex::new(inner))
    }

    /// The machine stops: of the unsynced name changes the first `keep` reached the disk; of unsynced contents, `fraction`/8.
    fn after_power_loss(&self, keep: usize, fraction: usize) -> Arc<Self> {
        let held = self.0.lock();
        let mut inner = Inner {
            inodes: held.inodes.clone(),
            names: held.durable.clone(),
            ..Inner::default()
        };
        for (path, inode) in held.unsynced.iter().take(keep) {
            match inode {
                Some(inode) => inner.names.insert(path.clone(), *inode),
                None => inner.names.remove(path),
            };
        }
        for (present, durable) in &mut inner.inodes {
            if present != durable {
                let cut = present.len() * fraction / 8;
                *present = if fraction == 0 {
                    durable.clone()
                } else {
                    present[..cut].to_vec()
                };
            }
            *durable = present.clone();
        }
        inner.durable = inner.names.clone();
        Arc::new(Self(Mutex::new(inner)))
    }

    /// Only the process stops: the system keeps everything.
    fn after_kill(&self) -> Arc<Self> {
        let mut inner = self.0.lock().clone();
        inner.steps_left = None;
        Arc::new(Self(Mutex::new(inner)))
    }

    fn step(&self) -> io::Result<parking_lot::MutexGuard<'_, Inner>> {
        let mut inner = self.0.lock();
        inner.steps += 1;
        match &mut inner.steps_left {
            Some(0) => return Err(io::Error::other("stopped")),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(inner)
    }
}

impl Inner {
    fn set_name(&mut self, path: &Path, inode: Option<usize>) {
        match inode {
            Some(inode) => self.names.insert(path.into(), inode),
            None => self.names.remove(path),
        };
        self.unsynced.push((path.into(), inode));
    }
}

impl Disk for ModelDisk {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        self.step().map(drop)
    }

    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        let inner = self.0.lock();
        Ok(inner.names.get(path).map(|inode| inner.inodes[*inode].0.clone()))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let inner = self.0.lock();
        let files = inner.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(files
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect())
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        // Two steps: a stop in the middle leaves half of the bytes.
        for half in [&bytes[..bytes.len() / 2], bytes] {
            let mut inner = self.step()?;
            if let Some(inode) = inner.names.get(path).copied() {
                inner.inodes[inode].0 = half.to_vec();
            } else {
                inner.inodes.push((half.to_vec(), Vec::new()));
                let inode = inner.inodes.len() - 1;
                inner.set_name(path, Some(inode));
            }
        }
        Ok(())
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.step()?;
        let inode = inner.names[path];
        let (present, durable) = &mut inner.inodes[inode];
        durable.clone_from(present);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.step()?;
        let inode = inner.names[from];
        // One atomic change of the directory: keep the pair together by listing the arrival first.
        inner.set_name(to, Some(inode));
        inner.set_name(from, None);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.step()?;
        if inner.names.contains_key(path) {
            inner.set_name(path, None);
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.step()?;
        let changes = std::mem::take(&mut inner.unsynced);
        let (now, later): (Vec<_>, Vec<_>) = changes
            .into_iter()
            .partition(|(path, _)| path.parent() == Some(dir));
        for (path, inode) in now {
            match inode {
                Some(inode) => inner.durable.insert(path, inode),
                None => inner.durable.remove(&path),
            };
        }
        inner.unsynced = later;
        Ok(())
    }
}

fn state() -> &'static Path {
    Path::new("/state")
}

fn open(disk: Arc<ModelDisk>) -> Result<Records, ControllerError> {
    Records::open_on(disk, state(), None)
}

fn name(text: &str) -> RecordName {
    RecordName::parse(text).unwrap()
}

/// A disk with record `a` at 1 and record `b` at 7.
fn prepared() -> ModelDisk {
    let disk = Arc::new(ModelDisk::default());
    let records = open(disk.clone()).unwrap();
    records.save(&name("a"), &thing(1)).unwrap();
    records.save(&name("b"), &thing(7)).unwrap();
    drop(records);
    Arc::into_inner(disk).unwrap()
}

fn load(records: &Records, which: &str) -> Option<u32> {
    records.load::<Thing>(&name(which)).unwrap().map(|t| t.value)
}

type Change = fn(&Records) -> Result<(), ControllerError>;

/// (what it does, on which record, what may be found after a stop)
const CHANGES: &[(Change, &str, [Option<u32>; 2])] = &[
    (|r| r.save(&name("a"), &thing(2)), "a", [Some(1), Some(2)]),
    (|r| r.save(&name("c"), &thing(3)), "c", [None, Some(3)]),
    (|r| r.remove(&name("a")), "a", [Some(1), None]),
];

fn survivors(disk: &ModelDisk) -> Vec<Arc<ModelDisk>> {
    let mut all = vec![disk.after_kill()];
    let unsynced = disk.0.lock().unsynced.len();
    for keep in 0..=unsynced {
        for fraction in [0, 3, 8] {
            all.push(disk.after_power_loss(keep, fraction));
        }
    }
    all
}

#[test]
fn a_stop_before_any_step_leaves_the_old_or_the_new_record() {
    let base = prepared();
    for (change, which, allowed) in CHANGES {
        let mut stops = 0;
        for steps in 0.. {
            let disk = Arc::new(base.stopping_after(steps));
            let done = open(disk.clone()).and_then(|records| change(&records)).is_ok();
            for survivor in survivors(&disk) {
                let records = open(survivor).unwrap_or_else(|e| panic!("stop {steps} of {which}: {e}"));
                let found = load(&records, which);
                assert!(
                    allowed.contains(&found),
                    "stop {steps} of {which}: found {found:?}"
                );
                assert!(
                    !done || found == allowed[1],
                    "a finished change was lost: {found:?}"
                );
                assert_eq!(load(&records, "b"), Some(7), "a change of {which} touched b");
            }
            if done {
                break;
            }
            stops += 1;
        }
        assert!(
            stops >= 5,
            "only {stops} steps were tried: the test looks at nothing"
        );
    }
}

#[test]
fn a_stop_in_the_first_start_is_a_first_start_again() {
    for steps in 0.. {
        let disk = Arc::new(ModelDisk::default().stopping_after(steps));
        let done = open(disk.clone())
            .and_then(|r| r.save(&name("a"), &thing(1)))
            .is_ok();
        for survivor in survivors(&disk) {
            let records = open(survivor).unwrap_or_else(|e| panic!("stop {steps}: {e}"));
            let found = load(&records, "a");
            assert!(found == Some(1) || (!done && found.is_none()));
        }
        if done {
            assert!(steps > 8);
            return;
        }
    }
}

proptest! {
    /// Any history of saves and removes, stopped anywhere: every record is one of the last two states its history had.
    #[test]
    fn histories_survive(
        history in prop::collection::vec((0_usize..3, prop::option::of(1_u32..1000)), 1..12),
        stop in 0_usize..160,
        keep in 0_usize..8,
        fraction in 0_usize..=8,
    ) {
        let disk = Arc::new(prepared().stopping_after(stop));
        let names = ["a", "b", "c"];
        let mut before = [Some(1), Some(7), None];
        let mut after = before;
        if let Ok(records) = open(disk.clone()) {
            for (which, value) in &history {
                before = after;
                after[*which] = *value;
                let done = match value {
                    Some(v) => records.save(&name(names[*which]), &thing(*v)),
                    None => records.remove(&name(names[*which])),
                };
                if done.is_err() {
                    break;
                }
                before = after;
            }
        }
        let records = open(disk.after_power_loss(keep, fraction)).unwrap();
        for (i, which) in names.iter().enumerate() {
            let found = load(&records, which);
            prop_assert!(found == before[i] || found == after[i], "{which}: {found:?}");
        }
    }
}
