//! Loss, damage and repair on the real disk.

use std::{fs, os::unix::fs::PermissionsExt};

use strait_federation_api::{Epoch, Reason};

use super::{types::EpochRecord, *};
use crate::ControllerError;

fn name(text: &str) -> RecordName {
    RecordName::parse(text).unwrap()
}

fn open(dir: &tempfile::TempDir) -> Result<Records, ControllerError> {
    Records::open(dir.path(), std::sync::Arc::new(FileDisk))
}

fn epoch(n: u64) -> EpochRecord {
    EpochRecord { epoch: Epoch(n) }
}

fn filled() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let records = open(&dir).unwrap();
    records.save(&name("epoch"), &epoch(4)).unwrap();
    records.save(&name("vips"), &epoch(5)).unwrap();
    dir
}

fn damage(dir: &tempfile::TempDir) -> Vec<Damage> {
    match open(dir) {
        Err(ControllerError::RecordLost { damage, .. }) => damage,
        other => panic!("expected lost records, got {other:?}"),
    }
}

#[test]
fn files_are_private_and_come_back() {
    let dir = filled();
    let mode = |path: std::path::PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(records_dir(dir.path())), 0o700);
    assert_eq!(mode(records_dir(dir.path()).join("epoch.json")), 0o600);
    assert_eq!(mode(records_dir(dir.path()).join("manifest.json")), 0o600);
    let records = open(&dir).unwrap();
    assert_eq!(records.load(&name("epoch")).unwrap(), Some(epoch(4)));
    assert_eq!(records.load::<EpochRecord>(&name("nothing")).unwrap(), None);
}

#[test]
fn a_second_process_is_refused() {
    let dir = filled();
    let held = open(&dir).unwrap();
    let refused = open(&dir).unwrap_err();
    assert_eq!(refused.reason(), Reason::StateLocked);
    assert!(
        repair(dir.path(), &name("epoch")).is_err(),
        "repair must not run beside a running process"
    );
    drop(held);
    open(&dir).unwrap();
}

#[test]
fn every_loss_is_named_with_its_command() {
    let dir = filled();
    fs::remove_file(records_dir(dir.path()).join("epoch.json")).unwrap();
    let path = records_dir(dir.path()).join("vips.json");
    let text = fs::read_to_string(&path)
        .unwrap()
        .replace("\"epoch\":5", "\"epoch\":6");
    fs::write(&path, text).unwrap();
    let found = damage(&dir);
    assert_eq!(
        found.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(),
        ["epoch", "vips"]
    );
    assert!(found[0].why.contains("missing"));
    assert!(found[1].why.contains("checksum"));
    let text = open(&dir).unwrap_err().to_string();
    assert!(text.contains("strait repair epoch --state"), "{text}");
    assert!(text.contains("strait repair vips --state"), "{text}");
}

#[test]
fn damage_of_every_byte_is_noticed() {
    let dir = filled();
    let path = records_dir(dir.path()).join("epoch.json");
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x04;
        fs::write(&path, &bad).unwrap();
        let noticed = match open(&dir) {
            Err(_) => true,
            Ok(records) => records.load::<EpochRecord>(&name("epoch")).is_err(),
        };
        assert!(noticed, "byte {at} was changed unnoticed");
    }
    for len in 0..good.len() {
        fs::write(&path, &good[..len]).unwrap();
        assert!(open(&dir).is_err(), "cut at {len} unnoticed");
    }
}

#[test]
fn losing_the_list_or_the_directory_is_no_first_start() {
    let dir = filled();
    fs::remove_file(records_dir(dir.path()).join("manifest.json")).unwrap();
    assert_eq!(damage(&dir)[0].name.as_str(), "manifest");
    let dir = filled();
    fs::remove_dir_all(records_dir(dir.path())).unwrap();
    assert_eq!(damage(&dir)[0].name.as_str(), "manifest");
}

#[test]
fn repair_gives_up_one_record_and_only_that() {
    let dir = filled();
    fs::write(records_dir(dir.path()).join("vips.json"), "torn").unwrap();
    assert_eq!(damage(&dir).len(), 1);
    let told = repair(dir.path(), &name("vips")).unwrap();
    assert!(told.contains("virtual addresses"), "{told}");
    let records = open(&dir).unwrap();
    assert_eq!(records.load::<EpochRecord>(&name("vips")).unwrap(), None);
    assert_eq!(records.load(&name("epoch")).unwrap(), Some(epoch(4)));
    assert!(records_dir(dir.path()).join("vips.damaged").exists());
}

#[test]
fn repair_refuses_names_it_does_not_know_and_places_without_records() {
    let dir = filled();
    let unknown = repair(dir.path(), &name("vip")).unwrap_err().to_string();
    assert!(unknown.contains("epoch, manifest, vips"), "{unknown}");
    assert!(repair(&dir.path().join("elsewhere"), &name("vips")).is_err());
    assert!(!dir.path().join("elsewhere").exists());
}

#[test]
fn a_repaired_list_names_what_is_there() {
    let dir = filled();
    fs::write(records_dir(dir.path()).join("manifest.json"), "torn").unwrap();
    repair(dir.path(), &name("manifest")).unwrap();
    assert_eq!(open(&dir).unwrap().names(), [name("epoch"), name("vips")]);
}

#[test]
fn a_repaired_epoch_is_above_every_counted_one() {
    let dir = filled();
    fs::remove_file(records_dir(dir.path()).join("epoch.json")).unwrap();
    repair(dir.path(), &name("epoch")).unwrap();
    let records = open(&dir).unwrap();
    let found: EpochRecord = records.load(&name("epoch")).unwrap().unwrap();
    assert!(found.epoch > Epoch(1_000_000_000));
}

#[test]
fn a_newer_schema_is_refused_not_misread() {
    let dir = filled();
    let path = records_dir(dir.path()).join("epoch.json");
    let text = fs::read_to_string(&path)
        .unwrap()
        .replace("\"schema\":1", "\"schema\":2");
    fs::write(&path, text).unwrap();
    let records = open(&dir).unwrap();
    let refused = records
        .load::<EpochRecord>(&name("epoch"))
        .unwrap_err()
        .to_string();
    assert!(refused.contains("schema 2"), "{refused}");
}
