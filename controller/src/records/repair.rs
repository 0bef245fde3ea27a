//! What to do about a lost or damaged record, and doing it.
//!
//! Owns the one place that gives records up. Never called by a running controller: `strait repair` is an operator's decision.

use std::{fs, path::Path};

use super::{Disk, FileDisk, Record, RecordName, Records, frame, lock::DirLock, store::records_dir};
use strait_federation_api::Reason;

use crate::ControllerError;

/// The command that repairs a record and its price.
pub(crate) fn remedy(name: &RecordName, state: &Path) -> String {
    let price = price(name.as_str());
    format!(
        "restore {}/{name}.json from your backup, or run `strait repair {name} --state {}` ({price})",
        records_dir(state).display(),
        state.display()
    )
}

fn price(name: &str) -> &'static str {
    match name.split('.').next().unwrap_or(name) {
        "manifest" => "lists the records that are there again; what else is missing is not noticed any more",
        "ca" => "makes a new cluster CA at the next start: every peer must join again",
        "instance" => "gives this gateway a new name and keys: peers see it as a new instance",
        "epoch" => "starts from the clock: peers sync in full once",
        "vips" => "allots virtual addresses anew: clients that cached one must resolve again",
        "own-exports" => "exports get new ids and creation times: conflicts may be decided otherwise",
        "first-sights" => "peers' exports count as first seen now: conflicts may be decided otherwise",
        "trust" => "forgets this peer: it must join again, unless its trust is static",
        "invite" => "the invite is void: make a new one",
        "join" => "the join is given up: ask the other side for a new invite",
        _ => "the record is given up",
    }
}

/// Gives a record up so that the next start makes it anew, as [`Damage::repair`](super::Damage) describes. The damaged file is
/// kept beside the others with the ending `.damaged`.
///
/// # Errors
/// An unknown name; [`ControllerError::Locked`] while `strait run` holds the directory; [`ControllerError::Io`].
pub fn repair(state: &Path, name: &RecordName) -> Result<String, ControllerError> {
    let dir = records_dir(state);
    if !dir.is_dir() {
        return Err(ControllerError::refused(
            Reason::ConfigInvalid,
            format!(
                "{} holds no records; name the state directory with --state",
                state.display()
            ),
        ));
    }
    let _lock = DirLock::take(state)?;
    let records = Records::unchecked(state);
    let known = records.every_name()?;
    if !known.contains(name) {
        let known: Vec<_> = known.iter().map(RecordName::as_str).collect();
        return Err(ControllerError::refused(
            Reason::ConfigInvalid,
            format!(
                "there is no record '{name}' in {}; there are: {}",
                dir.display(),
                known.join(", ")
            ),
        ));
    }
    let file = dir.join(format!("{name}.json"));
    if file.exists() {
        let aside = dir.join(format!("{name}.damaged"));
        fs::rename(&file, &aside).map_err(ControllerError::io(format!("move {}", file.display())))?;
    }
    if name.as_str() == "epoch" {
        // Higher than any count of starts, so that peers do not take the next one for an old epoch.
        let epoch = super::types::EpochRecord::from_clock();
        write_loose(&dir, name, &epoch)?;
    }
    records.relist_without(name)?;
    Ok(format!("record '{name}' given up: {}", price(name.as_str())))
}

fn write_loose<R: Record>(dir: &Path, name: &RecordName, record: &R) -> Result<(), ControllerError> {
    let path = dir.join(format!("{name}.json"));
    let bytes = frame::encode(record).map_err(|e| ControllerError::Io {
        what: format!("encode record '{name}'"),
        source: std::io::Error::other(e),
    })?;
    FileDisk
        .write(&path, &bytes)
        .and_then(|()| FileDisk.sync_file(&path))
        .map_err(ControllerError::io(format!("write {}", path.display())))
}
