//! Joins between real controllers: completed, lost, replayed, killed.

use strait_federation_api::{Reason, view::ConditionStatus};
use zeroize::Zeroizing;

use super::world::{Node, World, both_trust, join, until};

fn pair(world: &World) -> (Node, Node) {
    let (mut east, mut west) = (world.node("east", 17001), world.node("west", 17002));
    east.start();
    west.start();
    (east, west)
}

/// Every file under a state directory that holds this text. Files come and go meanwhile.
fn files_with(dir: &std::path::Path, text: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if std::fs::read(&path).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text)) {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn a_join_completes_and_the_secret_is_gone_on_both_sides() {
    let world = World::default();
    let (east, west) = pair(&world);
    let invited = east.handle().invite("west", None).await.unwrap();
    let token = invited.token.to_string();
    assert_eq!(invited.invite.state, Reason::InviteOpen);
    assert!(
        east.read("west.yaml").contains("invite"),
        "the manifest says what was asked for"
    );
    west.handle().join(invited.token, Some("east")).await.unwrap();
    both_trust(&east, &west).await;
    until("the invite is done", || {
        east.view().invites.iter().all(|i| i.state == Reason::Trusted)
    })
    .await;
    assert!(
        files_with(&east.state_dir(), &token).is_empty(),
        "the inviter kept the token"
    );
    until("the joiner erased the token", || {
        files_with(&west.state_dir(), &token).is_empty()
    })
    .await;
    assert!(west.read("east.yaml").contains("join"));
    assert!(east.store().view().peer(&west.domain()).is_some());
    assert!(west.store().view().peer(&east.domain()).is_some());
    until("control is up", || {
        east.is("west", "Connected", Reason::Connected)
    })
    .await;
}

#[tokio::test]
async fn asking_again_shows_the_same_open_invite() {
    let world = World::default();
    let (east, _west) = pair(&world);
    let first = east.handle().invite("west", None).await.unwrap();
    until("the manifest was read", || {
        east.federation("west", "Trusted").is_some()
    })
    .await;
    let second = east.handle().invite("west", None).await.unwrap();
    assert_eq!(*first.token, *second.token);
    let third = east.handle().invite("west", Some(60)).await.unwrap();
    assert_ne!(*first.token, *third.token, "another life is another token");
    assert_eq!(third.invite.serial, first.invite.serial + 1);
}

#[tokio::test]
async fn the_token_of_one_cluster_is_refused_to_another() {
    let world = World::default();
    let (east, west) = pair(&world);
    let mut north = world.node("north", 17003);
    north.start();
    world.allow_control(false);
    let token = east.handle().invite("west", None).await.unwrap().token;
    west.handle().join(token.clone(), Some("east")).await.unwrap();
    until("west is bound", || west.trusts("east")).await;
    until("east shows it", || {
        east.view().invites[0].state == Reason::JoinPending
    })
    .await;
    north.handle().join(token.clone(), Some("east")).await.unwrap();
    until("north is refused", || {
        north.is("east", "Trusted", Reason::InviteBoundToOther)
    })
    .await;
    assert!(east.store().view().peer(&north.domain()).is_none());
    world.allow_control(true);
    both_trust(&east, &west).await;
    // Once used up, it is inert for everybody.
    let mut south = world.node("south", 17004);
    south.start();
    south.handle().join(token, Some("east")).await.unwrap();
    until("south is not let in", || {
        south
            .federation("east", "Trusted")
            .is_some_and(|(status, reason, _)| {
                status == ConditionStatus::False
                    && matches!(reason, Reason::AlpnRefused | Reason::InviteSpent)
            })
    })
    .await;
    assert!(east.store().view().peer(&south.domain()).is_none());
}

#[tokio::test]
async fn a_lost_reply_is_retried_with_the_same_key() {
    // In the offer, at its end, and in the answer; the last is beyond everything that is said.
    let mut cuts = 0;
    for cut in (0..2000).step_by(130) {
        let world = World::default();
        let (east, west) = pair(&world);
        world.cut_next_join_after(cut);
        join(&east, &west).await;
        let done = || {
            east.view()
                .invites
                .iter()
                .all(|invite| invite.state == Reason::Trusted)
        };
        until("the invite is done", done).await;
        cuts += world.join_sessions() - 1;
    }
    assert!(cuts >= 6, "only {cuts} sessions were cut");
}

#[tokio::test]
async fn a_revoked_invite_lets_nobody_in_and_drops_who_was_bound() {
    let world = World::default();
    let (east, west) = pair(&world);
    world.allow_control(false);
    let token = east.handle().invite("west", None).await.unwrap().token;
    west.handle().join(token, Some("east")).await.unwrap();
    until("west is bound", || west.trusts("east")).await;
    east.handle().revoke_invite("west").await.unwrap();
    assert!(east.store().view().peer(&west.domain()).is_none());
    world.allow_control(true);
    assert!(east.handle().revoke_invite("nobody").await.is_err());
}

#[tokio::test]
async fn our_own_token_and_a_torn_one_are_refused_at_once() {
    let world = World::default();
    let (east, west) = pair(&world);
    let token = east.handle().invite("west", None).await.unwrap().token;
    let own = east.handle().join(token.clone(), Some("me")).await.unwrap_err();
    assert!(
        matches!(own.reason(), Reason::SelfJoin | Reason::ClusterIdTaken),
        "{own}"
    );
    let torn = Zeroizing::new(token[..token.len() - 5].to_string());
    assert_eq!(
        west.handle().join(torn, Some("east")).await.unwrap_err().reason(),
        Reason::TokenInvalid
    );
    assert!(west.view().federations.is_empty(), "nothing was written for it");
}

#[tokio::test]
async fn a_second_cluster_of_one_name_is_refused_with_its_name() {
    let world = World::default();
    let (east, west) = pair(&world);
    join(&east, &west).await;
    let mut other = world.node("west", 17005);
    other.start();
    let token = east.handle().invite("west2", None).await.unwrap().token;
    other.handle().join(token, Some("east")).await.unwrap();
    until("refused", || other.is("east", "Trusted", Reason::ClusterIdTaken)).await;
    assert!(east.store().view().peer(&other.domain()).is_none());
    assert!(east.trusts("west"));
    let token = other.handle().invite("east", Some(60)).await.unwrap().token;
    let refused = east.handle().join(token, Some("west3")).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::ClusterIdTaken);
    assert!(refused.to_string().contains("'west'"), "{refused}");
}

#[tokio::test]
async fn a_federation_that_is_removed_ends_its_trust_at_once() {
    let world = World::default();
    let (east, west) = pair(&world);
    join(&east, &west).await;
    let generation = east.store().generation();
    let domain = west.domain();
    east.remove("west.yaml");
    until("trust ended", || east.store().view().peer(&domain).is_none()).await;
    assert!(east.store().generation() > generation);
    until("the records are gone", || {
        files_with(&east.state_dir(), domain.as_str()).is_empty()
    })
    .await;
    until("the view is empty", || {
        east.view().federations.is_empty() && east.snapshot().peers.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_federation_that_is_missing_at_a_start_has_no_trust_and_can_come_back() {
    let world = World::default();
    let (mut east, west) = pair(&world);
    join(&east, &west).await;
    let domain = west.domain();
    let manifest = east.read("west.yaml");
    east.stop().await;
    east.remove("west.yaml");
    east.start();
    assert!(
        east.store().view().peer(&domain).is_none(),
        "no manifest, no trust"
    );
    assert!(east.snapshot().peers.is_empty());
    east.write("west.yaml", &manifest);
    until("trust is back", || {
        east.trusts("west") && east.store().view().peer(&domain).is_some()
    })
    .await;
    // Taken out while it runs, it is forgotten: what comes back under the name is new.
    east.remove("west.yaml");
    until("forgotten", || east.view().federations.is_empty()).await;
    east.write("west.yaml", &manifest);
    until("an invite is open again", || {
        east.is("west", "Trusted", Reason::InviteOpen)
    })
    .await;
    assert!(east.store().view().peer(&domain).is_none());
}

#[tokio::test]
async fn a_join_written_as_manifests_only_works_the_same() {
    let world = World::default();
    let (east, west) = pair(&world);
    let token = east.handle().invite("west", None).await.unwrap().token;
    west.write("east.token", &format!("{}\n", *token));
    west.write(
        "peer.yaml",
        "apiVersion: strait.dev/v1alpha1\nkind: Federation\nmetadata: {name: east}\nspec: {trust: {join: {tokenFile: east.token}}}\n",
    );
    both_trust(&east, &west).await;
    west.remove("east.token");
    west.edit("peer.yaml", "spec: {", "spec: {imports: [{}], ");
    until("the change is seen", || {
        west.view().federations.len() == 1 && west.trusts("east")
    })
    .await;
}

#[tokio::test]
async fn an_invite_whose_time_is_over_lets_nobody_in_and_holds_no_secret() {
    let world = World::default();
    let (east, west) = pair(&world);
    let token = east.handle().invite("west", Some(1)).await.unwrap().token;
    until("expired", || {
        east.view()
            .invites
            .first()
            .is_some_and(|i| i.state == Reason::InviteExpired)
    })
    .await;
    assert!(files_with(&east.state_dir(), &token).is_empty());
    west.handle().join(token, Some("east")).await.unwrap();
    until("the joiner is told", || {
        west.is("east", "Trusted", Reason::AlpnRefused)
    })
    .await;
    assert!(east.store().view().peer(&west.domain()).is_none());
    // A new one is asked for, and is made.
    let token = east.handle().invite("west", None).await.unwrap().token;
    west.handle().join(token, Some("east")).await.unwrap();
    both_trust(&east, &west).await;
}

/// Kills one side before the `n`th step of its disk while a join is under way, starts it again, and expects the join to end well,
/// or to be repeatable with the command that was interrupted.
async fn killed_at(n: usize, inviter_dies: bool) -> bool {
    let world = World::default();
    let (mut east, mut west) = pair(&world);
    let token = east.handle().invite("west", None).await.unwrap().token;
    until("the invite's manifest was read", || {
        east.federation("west", "Trusted").is_some()
    })
    .await;
    let victim = if inviter_dies { &mut east } else { &mut west };
    victim.disk.arm(n);
    let told = west.handle().join(token.clone(), Some("east")).await;
    let victim = if inviter_dies { &mut east } else { &mut west };
    let disk = victim.disk.clone();
    let died = tokio::time::timeout(std::time::Duration::from_millis(400), async {
        while !disk.stopped() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    })
    .await
    .is_ok();
    if !died {
        both_trust(&east, &west).await;
        return false;
    }
    victim.bury().await;
    victim.start();
    if told.is_err() {
        // The command failed before the process died, or with it: the operator runs it again.
        west.handle().join(token, Some("east")).await.unwrap();
    }
    both_trust(&east, &west).await;
    true
}

#[tokio::test]
async fn the_joiner_may_be_killed_at_every_step() {
    let mut deaths = 0;
    for n in 0.. {
        if !killed_at(n, false).await {
            break;
        }
        deaths += 1;
    }
    assert!(deaths >= 10, "only {deaths} steps were tried");
}

#[tokio::test]
async fn the_inviter_may_be_killed_at_every_step() {
    let mut deaths = 0;
    for n in 0.. {
        if !killed_at(n, true).await {
            break;
        }
        deaths += 1;
    }
    assert!(deaths >= 10, "only {deaths} steps were tried");
}
