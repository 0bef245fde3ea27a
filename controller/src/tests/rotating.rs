//! Roots that rotate between real controllers, and leaves that are renewed.

use std::time::Duration;

use strait_federation_api::Reason;

use super::world::{World, join, until};
use crate::RotateAction;

#[tokio::test]
async fn a_planned_rotation_waits_for_acks_and_ends_with_one_root() {
    let world = World::default();
    let (mut east, mut west) = (world.node("east", 17001), world.node("west", 17002));
    east.start();
    west.start();
    join(&east, &west).await;
    until("control is up", || east.is("west", "Synced", Reason::Synced)).await;
    let first = east.handle().rotate_root(RotateAction::Status).await.unwrap();
    assert_eq!(first.phase, "Stable");
    let started = east.handle().rotate_root(RotateAction::Start).await.unwrap();
    assert!(started.next.is_some());
    until("the new root issues", || {
        let view = east.view();
        view.rotation.current != first.current
    })
    .await;
    until("the old one is retired", || {
        east.view().rotation.phase == "Stable"
    })
    .await;
    let domain = east.domain();
    until("west holds the new root alone", || {
        let held = west.store().view().peer(&domain).map(|p| p.bundle().clone());
        held.is_some_and(|b| b.roots().len() == 1 && b.removed().len() == 1 && b.sequence() == 3)
    })
    .await;
    assert!(
        east.handle().rotate_root(RotateAction::Force).await.is_err(),
        "nothing runs"
    );
}

#[tokio::test]
async fn a_peer_that_is_away_lags_until_it_is_forced() {
    let world = World::default();
    let (mut east, mut west) = (world.node("east", 17001), world.node("west", 17002));
    east.start();
    west.start();
    join(&east, &west).await;
    let domain = west.domain();
    west.stop().await;
    east.handle().rotate_root(RotateAction::Start).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let view = east.handle().rotate_root(RotateAction::Status).await.unwrap();
    assert_eq!((view.phase.as_str(), view.lagging), ("Published", vec![domain]));
    until("the Federation says so", || {
        east.is("west", "Trusted", Reason::PeerLagging)
    })
    .await;
    let forced = east.handle().rotate_root(RotateAction::Force).await.unwrap();
    assert_eq!(forced.phase, "Issuing");
    west.start();
    until("the rotation ends when it is back", || {
        east.view().rotation.phase == "Stable"
    })
    .await;
}

#[tokio::test]
async fn an_emergency_removal_cuts_at_once() {
    let world = World::default();
    let (mut east, mut west) = (world.node("east", 17001), world.node("west", 17002));
    east.start();
    west.start();
    join(&east, &west).await;
    let before = east.handle().rotate_root(RotateAction::Status).await.unwrap();
    let after = east
        .handle()
        .rotate_root(RotateAction::Remove(before.current[..12].into()))
        .await
        .unwrap();
    assert_ne!(after.current, before.current);
    assert!(
        east.handle()
            .rotate_root(RotateAction::Remove("ffff".into()))
            .await
            .is_err()
    );
    until("west refuses what it cannot verify", || {
        !west.is("east", "Trusted", Reason::Pending)
    })
    .await;
}

#[tokio::test]
async fn leaves_are_renewed_at_half_their_life() {
    let world = World::default();
    let mut east = world.node("east", 17001);
    east.timing().leaf_ttl = Duration::from_secs(4);
    east.start();
    let first = east.store().identity().unwrap().renew_at();
    until("renewed twice", || {
        east.store().identity().unwrap().renew_at().as_secs() >= first.as_secs() + 3
    })
    .await;
}
