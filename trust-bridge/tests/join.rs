//! Joining end to end over values: tokens, proofs, invites and what goes wrong.
#![allow(missing_docs, clippy::unwrap_used, clippy::unwrap_in_result)]

mod common;

use std::time::Duration;

use common::noon;
use proptest::prelude::*;
use rustls_pki_types::UnixTime;
use strait_trust_bridge::envelope::encode_payload;
use strait_trust_bridge::invite::{Accepted, Invite, InviteContext, InviteState};
use strait_trust_bridge::join::{Exporter, JoinAttempt, JoinMessage, JoinRequest};
use strait_trust_bridge::testing::{TestCluster, later};
use strait_trust_bridge::{Address, Bundle, JoinToken, TrustDomain, TrustError};

const HOUR: Duration = Duration::from_secs(3600);
const SESSION: Exporter = Exporter([7; 32]);

fn token_of(cluster: &TestCluster) -> JoinToken {
    let addresses = vec![
        Address::parse("gw.east.example:7443").unwrap(),
        Address::parse("[::1]:7443").unwrap(),
    ];
    JoinToken::create(addresses, cluster.ca.pin().unwrap(), HOUR, noon()).unwrap()
}

/// East invites, west holds the token.
struct World {
    east: TestCluster,
    west: TestCluster,
    invite: Invite,
    attempt: JoinAttempt,
}

impl World {
    fn new() -> Self {
        let (east, west) = (TestCluster::new("east", noon()), TestCluster::new("west", noon()));
        let token = token_of(&east);
        let attempt = JoinAttempt::new(token.clone(), west.domain()).unwrap();
        Self {
            invite: Invite::new(token),
            east,
            west,
            attempt,
        }
    }

    fn offer(&self) -> Vec<u8> {
        encode_payload(&self.east.ca.bundle().unwrap())
    }

    fn request(&self) -> JoinRequest {
        self.attempt
            .answer(&self.offer(), &SESSION, &self.west.ca)
            .unwrap()
    }

    fn decide(&self, request: &JoinRequest, now: UnixTime) -> Result<Accepted, TrustError> {
        self.decide_beside(request, &[], now)
    }

    fn decide_beside(
        &self,
        request: &JoinRequest,
        taken: &[TrustDomain],
        now: UnixTime,
    ) -> Result<Accepted, TrustError> {
        let offer = self.offer();
        let context = InviteContext {
            own: self.east.domain(),
            offer: &offer,
            exporter: &SESSION,
            taken,
        };
        self.invite.decide(request, &context, now)
    }

    fn refused(&self, request: &JoinRequest) -> &'static str {
        self.decide(request, noon()).unwrap_err().code()
    }

    /// The same invite used by another cluster that got hold of the token.
    fn thief(&self) -> (TestCluster, JoinRequest) {
        let thief = TestCluster::new("thief", noon());
        let token = self.attempt.token().unwrap().clone();
        let attempt = JoinAttempt::new(token, thief.domain()).unwrap();
        let request = attempt.answer(&self.offer(), &SESSION, &thief.ca).unwrap();
        (thief, request)
    }
}

#[test]
fn a_join_ends_with_mutual_trust() {
    let world = World::new();
    let request = world.request();
    // Over the wire and back.
    let JoinMessage::Request(received) =
        JoinMessage::decode(&JoinMessage::Request(request.clone()).encode()).unwrap()
    else {
        panic!("another message")
    };
    assert_eq!(received, request);
    let accepted = world.decide(&received, noon()).unwrap();
    assert_eq!(*accepted.peer.bundle(), world.west.ca.bundle().unwrap());
    let joined = world
        .attempt
        .complete(&world.offer(), &request, &SESSION, &accepted.proof)
        .unwrap();
    let JoinAttempt::Joined { peer } = &joined else {
        panic!("not joined")
    };
    assert_eq!(*peer.bundle(), world.east.ca.bundle().unwrap());
    assert_eq!(joined.token().unwrap_err().code(), "WrongJoinState");
    // The secret is gone from the joiner's record, then from the inviter's.
    let secret = world.attempt.token().unwrap().encode();
    assert!(!serde_json::to_string(&joined).unwrap().contains(&**secret));
    let mut invite = accepted.invite;
    assert!(serde_json::to_string(&invite).unwrap().contains(&**secret));
    assert!(invite.activate(world.west.domain()).unwrap());
    assert!(!invite.activate(world.west.domain()).unwrap());
    assert!(!serde_json::to_string(&invite).unwrap().contains(&**secret));
    let stored: Invite = serde_json::from_str(&serde_json::to_string(&invite).unwrap()).unwrap();
    assert_eq!(stored, invite);
}

#[test]
fn a_lost_reply_is_harmless_until_expiry() {
    let mut world = World::new();
    world.invite = world.decide(&world.request(), noon()).unwrap().invite;
    let again = world.decide(&world.request(), later(noon(), 3599)).unwrap();
    assert_eq!(again.invite, world.invite);
    world
        .attempt
        .complete(&world.offer(), &world.request(), &SESSION, &again.proof)
        .unwrap();
    let expired = world.decide(&world.request(), later(noon(), 3600)).unwrap_err();
    assert_eq!(expired.code(), "InviteExpired");
}

#[test]
fn replayed_by_another_key_is_refused() {
    let mut world = World::new();
    let (thief, stolen) = world.thief();
    world.invite = world.decide(&world.request(), noon()).unwrap().invite;
    assert_eq!(world.refused(&stolen), "InviteBound");
    // Nor can the thief take west's place by naming west's domain with its own root.
    let mut forged = world.request();
    forged.chain = thief.ca.signing_chain().unwrap();
    assert_eq!(world.refused(&forged), "UnknownIssuer");
}

#[test]
fn the_same_domain_under_another_root_is_another_joiner() {
    let mut world = World::new();
    world.invite = world.decide(&world.request(), noon()).unwrap().invite;
    world.west.ca.begin_rotation(noon()).unwrap();
    world.invite = world.decide(&world.request(), noon()).unwrap().invite;
    let old = world.west.ca.rotation().current();
    world
        .west
        .ca
        .remove_root(old, &Default::default(), noon())
        .unwrap();
    assert_eq!(world.refused(&world.request()), "InviteBound");
}

#[test]
fn a_proof_of_another_session_is_refused() {
    let world = World::new();
    let request = world
        .attempt
        .answer(&world.offer(), &Exporter([8; 32]), &world.west.ca)
        .unwrap();
    assert_eq!(world.refused(&request), "BadProof");
}

#[test]
fn a_man_in_the_middle_cannot_swap_a_bundle() {
    let world = World::new();
    let spy = TestCluster::new("spy", noon());
    // The joiner's bundle, after the proof was made.
    let mut swapped = world.request();
    swapped.payload = encode_payload(&spy.ca.bundle().unwrap());
    swapped.chain = spy.ca.signing_chain().unwrap();
    assert_eq!(world.refused(&swapped), "BadProof");
    // The inviter's bundle, before.
    let other = encode_payload(&spy.ca.bundle().unwrap());
    let wrong = world
        .attempt
        .answer(&other, &SESSION, &world.west.ca)
        .unwrap_err();
    assert_eq!(wrong.code(), "WrongTrustDomain");
}

/// Even one that a joiner would accept: the inviter notices that another offer was answered.
#[test]
fn both_bundles_are_bound_into_the_proofs() {
    let world = World::new();
    let sent = world.east.ca.bundle().unwrap();
    let changed = Bundle::new(
        sent.trust_domain().clone(),
        sent.sequence() + 1,
        None,
        sent.roots().to_vec(),
        Default::default(),
    );
    let changed = encode_payload(&changed.unwrap());
    let request = world.attempt.answer(&changed, &SESSION, &world.west.ca).unwrap();
    assert_eq!(world.refused(&request), "BadProof");
    // And the joiner notices when its own answer was accepted for another offer.
    let accepted = world.decide(&world.request(), noon()).unwrap();
    let complete = world
        .attempt
        .complete(&changed, &world.request(), &SESSION, &accepted.proof);
    assert_eq!(complete.unwrap_err().code(), "BadProof");
}

#[test]
fn an_offer_without_the_pinned_root_is_refused() {
    let mut world = World::new();
    let old = world.east.ca.rotation().current();
    world
        .east
        .ca
        .remove_root(old, &Default::default(), noon())
        .unwrap();
    let wrong = world
        .attempt
        .answer(&world.offer(), &SESSION, &world.west.ca)
        .unwrap_err();
    assert_eq!(wrong.code(), "WrongRoot");
}

#[test]
fn the_inviter_must_prove_the_secret_too() {
    let world = World::new();
    let request = world.request();
    let complete = |proof: &[u8; 32]| {
        world
            .attempt
            .complete(&world.offer(), &request, &SESSION, proof)
            .unwrap_err()
            .code()
    };
    assert_eq!(complete(&[0; 32]), "BadProof");
    // Our own proof played back.
    assert_eq!(complete(&request.proof), "BadProof");
}

#[test]
fn without_the_secret_nothing_is_parsed() {
    let world = World::new();
    let other = JoinToken::create(vec![], world.attempt.token().unwrap().pin(), HOUR, noon()).unwrap();
    let stranger = JoinAttempt::new(other, world.west.domain()).unwrap();
    let mut request = stranger.answer(&world.offer(), &SESSION, &world.west.ca).unwrap();
    assert_eq!(world.refused(&request), "UnknownInvite");
    request.invite = world.invite.id();
    request.payload = b"not a payload".to_vec();
    assert_eq!(world.refused(&request), "BadProof");
}

#[test]
fn the_joiner_must_hold_the_issuing_key_it_submits() {
    let world = World::new();
    let mut request = world.request();
    let last = request.signature.len() - 1;
    request.signature[last] ^= 1;
    assert_eq!(world.refused(&request), "BadSignature");
    let (_, stolen) = world.thief();
    let mut request = world.request();
    request.signature = stolen.signature;
    assert_eq!(world.refused(&request), "BadSignature");
    let mut request = world.request();
    request.chain.clear();
    assert_eq!(world.refused(&request), "NoCertificate");
}

#[test]
fn a_leaf_cannot_join() {
    let world = World::new();
    let mut request = world.request();
    request.chain = world.west.issue("gw-0", HOUR, noon()).chain;
    assert_eq!(world.refused(&request), "SignerNotCa");
}

#[test]
fn our_own_domain_and_one_of_another_federation_are_refused() {
    let world = World::new();
    let own = world.east.domain();
    assert_eq!(
        JoinAttempt::new(token_of(&world.east), own).unwrap_err().code(),
        "OwnTrustDomain"
    );
    let as_ourselves = world
        .attempt
        .answer(&world.offer(), &SESSION, &world.east.ca)
        .unwrap();
    assert_eq!(world.refused(&as_ourselves), "OwnTrustDomain");
    let taken = [world.west.domain().clone()];
    let refused = world.decide_beside(&world.request(), &taken, noon()).unwrap_err();
    assert_eq!(refused.code(), "TrustDomainTaken");
    let namesake = [TestCluster::new("west", noon()).domain().clone()];
    let refused = world
        .decide_beside(&world.request(), &namesake, noon())
        .unwrap_err();
    assert_eq!(refused.code(), "ClusterIdTaken");
    let second_east = TestCluster::new("east", noon());
    let request = world
        .attempt
        .answer(&world.offer(), &SESSION, &second_east.ca)
        .unwrap();
    assert_eq!(world.refused(&request), "ClusterIdTaken");
}

#[test]
fn every_state_of_an_invite_answers_every_event() {
    let world = World::new();
    let request = world.request();
    let bound = world.decide(&request, noon()).unwrap().invite;
    let mut activated = bound.clone();
    activated.activate(world.west.domain()).unwrap();
    let mut expired = world.invite.clone();
    assert!(expired.sweep(later(noon(), 3600)));
    let mut bound_late = bound.clone();
    assert!(bound_late.sweep(later(noon(), 3600)));
    let mut revoked = world.invite.clone();
    assert_eq!(revoked.revoke().unwrap(), None);
    // state, request now, activate, revoke, sweep at expiry changes it
    let table = [
        (&world.invite, Ok(()), Err("WrongJoinState"), Ok(false), true),
        (&bound, Ok(()), Ok(true), Ok(true), true),
        (&bound_late, Err("InviteExpired"), Ok(true), Ok(true), false),
        (
            &activated,
            Err("InviteSpent"),
            Ok(false),
            Err("InviteSpent"),
            false,
        ),
        (
            &expired,
            Err("InviteExpired"),
            Err("WrongJoinState"),
            Ok(false),
            false,
        ),
        (
            &revoked,
            Err("InviteRevoked"),
            Err("WrongJoinState"),
            Ok(false),
            false,
        ),
    ];
    for (state, used, active, revoke, swept) in table {
        let this = World {
            invite: state.clone(),
            ..clone_world(&world)
        };
        let code = |e: TrustError| e.code();
        assert_eq!(
            this.decide(&request, noon()).map(|_| ()).map_err(code),
            used,
            "{:?}",
            state.state()
        );
        assert_eq!(state.is_usable(noon()), used.is_ok());
        assert_eq!(
            state.clone().activate(world.west.domain()).map_err(code),
            active,
            "{:?}",
            state.state()
        );
        assert_eq!(
            state.clone().revoke().map(|j| j.is_some()).map_err(code),
            revoke,
            "{:?}",
            state.state()
        );
        assert_eq!(
            state.clone().sweep(later(noon(), 3600)),
            swept,
            "{:?}",
            state.state()
        );
        assert!(!state.clone().sweep(later(noon(), 3599)));
        assert!(
            state.clone().activate(world.east.domain()).is_err(),
            "another peer"
        );
    }
    assert!(matches!(bound_late.state(), InviteState::Bound { .. }));
}

fn clone_world(world: &World) -> World {
    let cluster = |c: &TestCluster| {
        let store = std::sync::Arc::clone(&c.store);
        let key = strait_trust_bridge::GatewayKey::from_pem(&c.key.to_pem()).unwrap();
        TestCluster {
            ca: c.ca.clone(),
            store,
            key,
        }
    };
    World {
        east: cluster(&world.east),
        west: cluster(&world.west),
        invite: world.invite.clone(),
        attempt: world.attempt.clone(),
    }
}

/// Whoever alters a field and repairs the checksum still fails: every field is bound into the proofs' key.
#[test]
fn every_field_of_the_token_is_bound_into_the_proof() {
    let world = World::new();
    let token = world.attempt.token().unwrap();
    let bytes = data_encoding::BASE64URL_NOPAD
        .decode(&token.encode().as_bytes()["straitjoin1_".len()..])
        .unwrap();
    let body = bytes.len() - 4;
    let mut reached = 0;
    for at in 0..body {
        let mut altered = bytes[..body].to_vec();
        altered[at] ^= 1;
        let sum = aws_lc_rs::digest::digest(
            &aws_lc_rs::digest::SHA256,
            &[b"straitjoin1_", altered.as_slice()].concat(),
        );
        altered.extend_from_slice(&sum.as_ref()[..4]);
        let text = format!("straitjoin1_{}", data_encoding::BASE64URL_NOPAD.encode(&altered));
        let Ok(forged) = JoinToken::decode(&text) else {
            continue;
        };
        let Ok(attempt) = JoinAttempt::new(forged, world.west.domain()) else {
            continue;
        };
        let Ok(mut request) = attempt.answer(&world.offer(), &SESSION, &world.west.ca) else {
            continue;
        };
        request.invite = world.invite.id();
        assert_eq!(world.refused(&request), "BadProof", "byte {at}");
        reached += 1;
    }
    assert!(
        reached > 64,
        "addresses, invite id, expiry and secret reach the proof: {reached}"
    );
}

#[test]
fn nothing_but_encode_shows_the_secret() {
    let world = World::new();
    let token = world.attempt.token().unwrap();
    let text = token.encode();
    let secret = data_encoding::BASE64URL_NOPAD
        .decode(&text.as_bytes()["straitjoin1_".len()..])
        .unwrap();
    let secret = &secret[secret.len() - 36..secret.len() - 4];
    let shown = format!(
        "{token:?} {} {:?} {:?} {:?}",
        token.describe(),
        world.invite,
        world.attempt,
        world.east.ca
    );
    let list = format!("{secret:?}");
    for leak in [
        &**text,
        &data_encoding::HEXLOWER.encode(secret),
        &list[1..list.len() - 1],
        "PRIVATE KEY",
    ] {
        assert!(!shown.contains(leak));
    }
    assert!(token.describe().contains(world.east.domain().as_str()));
    assert!(token.describe().contains("gw.east.example:7443"));
}

#[test]
fn messages_are_bounded_and_exact() {
    let world = World::new();
    let messages = [
        JoinMessage::Hello(world.invite.id()),
        JoinMessage::Offer(world.offer()),
        JoinMessage::Request(world.request()),
        JoinMessage::Accept([1; 32]),
        JoinMessage::Refuse("InviteBound".into()),
    ];
    for message in messages {
        let bytes = message.encode();
        assert_eq!(JoinMessage::decode(&bytes).unwrap(), message);
        for cut in 0..bytes.len() {
            assert!(JoinMessage::decode(&bytes[..cut]).is_err());
        }
        assert!(JoinMessage::decode(&[bytes.as_slice(), b"x"].concat()).is_err());
        let mut newer = bytes.clone();
        newer[0] = 2;
        assert_eq!(
            JoinMessage::decode(&newer).unwrap_err().code(),
            "UnsupportedVersion"
        );
    }
    assert!(JoinMessage::decode(&JoinMessage::Refuse("no\nlog lines".into()).encode()).is_err());
}

// ---- crashes

/// Where a process may be killed, in the order of a join. What was persisted before stays, all else is lost.
const STEPS: usize = 7;

fn stored<T: serde::Serialize + serde::de::DeserializeOwned>(record: &T) -> T {
    serde_json::from_str(&serde_json::to_string(record).unwrap()).unwrap()
}

/// One try of a join over a session of its own, stopped by a crash before step `crash`. Records are what a restart would read.
fn try_join(world: &mut World, session: u8, crash: usize) {
    let exporter = Exporter([session; 32]);
    if let Ok(token) = world.attempt.token() {
        assert_eq!(token.invite(), world.invite.id());
        let offer = world.offer();
        if crash == 0 {
            return;
        }
        let request = world.attempt.answer(&offer, &exporter, &world.west.ca).unwrap();
        if crash == 1 {
            return;
        }
        let context = InviteContext {
            own: world.east.domain(),
            offer: &offer,
            exporter: &exporter,
            taken: &[],
        };
        let accepted = world.invite.decide(&request, &context, noon()).unwrap();
        if crash == 2 {
            return;
        }
        world.invite = stored(&accepted.invite);
        world
            .east
            .store
            .update(|view| view.insert(accepted.peer.clone()))
            .unwrap();
        if crash == 3 {
            return;
        }
        let joined = world
            .attempt
            .complete(&offer, &request, &exporter, &accepted.proof)
            .unwrap();
        if crash == 4 {
            return;
        }
        world.attempt = stored(&joined);
    }
    let JoinAttempt::Joined { peer } = &world.attempt else {
        panic!("joined by now")
    };
    world.west.store.update(|view| view.insert(peer.clone())).unwrap();
    if crash == 5 {
        return;
    }
    // The first control connection, seen by the inviter.
    let chain = world.west.issue("gw-0", HOUR, noon()).chain;
    let verified = world.east.store.view().verify(&chain, noon()).unwrap();
    world.invite.activate(verified.chain.id.trust_domain()).unwrap();
    world.invite = stored(&world.invite);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Killed at any steps, again and again: the next whole try ends the join, on both sides, without the secret.
    #[test]
    fn a_join_killed_anywhere_ends_joined(crashes in prop::collection::vec(0..STEPS, 0..5)) {
        let mut world = World::new();
        let secret = world.attempt.token().unwrap().encode();
        for (session, crash) in crashes.iter().enumerate() {
            world.attempt = stored(&world.attempt);
            world.invite = stored(&world.invite);
            try_join(&mut world, u8::try_from(session).unwrap(), *crash);
        }
        try_join(&mut world, 99, STEPS);
        prop_assert!(matches!(world.invite.state(), InviteState::Activated { .. }), "activated");
        prop_assert!(matches!(world.attempt, JoinAttempt::Joined { .. }), "joined");
        let records = serde_json::to_string(&(&world.invite, &world.attempt)).unwrap();
        prop_assert!(!records.contains(&**secret));
        let chain = world.east.issue("gw-0", HOUR, noon()).chain;
        prop_assert!(world.west.store.view().verify(&chain, noon()).is_ok());
    }
}
