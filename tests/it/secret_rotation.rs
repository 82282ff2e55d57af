//! A secret is rotated between the attempts of one delivery. Each attempt is signed with the secrets
//! valid at its time, and keeps the delivery's `webhook-id`.

use std::time::Duration;

use wabahook::signature::{SignatureHeaders, TOLERANCE, verify};
use wabahook::{Secret, SubscriptionId};

use crate::world::{BEGIN_WALL_MS, World, quick};
use wabahook::testing::Arrival;
use wabahook::testing::ScriptedReply;

const SECRETS: [&str; 5] = [
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
    "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX",
    "whsec_GBkaGxwdHh8gISIjJCUmJygpKissLS4v",
    "whsec_MDEyMzQ1Njc4OTo7PD0+P0BBQkNERUZH",
];
const OF_THE_BYSTANDER: &str = "whsec_SElKS0xNTk9QUVJTVFVWV1hZWltcXV5f";

/// Whether a receiver with this secret accepts the attempt at that time, by our own verification and
/// by Svix's, which must agree.
fn is_accepted_with(secret: &str, arrival: &Arrival, now_s: u64) -> bool {
    let value = |name: &str| arrival.headers[name].to_str().unwrap();
    let (timestamp, signature) = (value("webhook-timestamp"), value("webhook-signature"));
    let received = SignatureHeaders { id: value("webhook-id"), timestamp, signature };
    let own = verify(&Secret::new(secret), &received, &arrival.body, now_s, TOLERANCE);
    let svix = svix::webhooks::Webhook::new(secret).unwrap();
    let svix = svix.verify_ignoring_timestamp(&arrival.body, &arrival.headers);
    assert_eq!(own.is_ok(), svix.is_ok(), "{own:?} and {svix:?}");
    own.is_ok()
}

/// The indexes of the secrets with which the newest attempt at `host` is accepted.
fn accepted_with(world: &World, host: &str, attempts: usize) -> Vec<usize> {
    let arrivals = world.receivers.wait_for(host, attempts);
    let arrival = arrivals.last().unwrap();
    let elapsed_ms = [0, 1_000, 3_000, 6_000, 9_000, 12_000][attempts - 1];
    let now_s = (BEGIN_WALL_MS + elapsed_ms) / 1_000;
    assert_eq!(arrival.headers["webhook-timestamp"], now_s.to_string(), "the attempt's own");
    let all = SECRETS.iter().chain([&OF_THE_BYSTANDER]).enumerate();
    all.filter(|(_, secret)| is_accepted_with(secret, arrival, now_s)).map(|(n, _)| n).collect()
}

#[test]
fn each_attempt_is_signed_with_the_secrets_valid_then() {
    let world = World::new();
    let script = [503, 503, 503, 503, 503, 200].map(ScriptedReply::Status);
    let subscribe = |host: &str, secret: &str| {
        world.receivers.script(host, &script);
        world.engine.subscribe(quick(host).secret(secret)).unwrap()
    };
    let id: SubscriptionId = subscribe("crm", SECRETS[0]);
    subscribe("bystander", OF_THE_BYSTANDER);
    let accepted = world.publish("ADD_TAG", "{}");
    let rotate = |place: usize, overlap_ms: u64| {
        let secret = Secret::new(SECRETS[place]);
        world.engine.rotate_secret(id, Some(secret), Duration::from_millis(overlap_ms)).unwrap();
    };
    // Before each attempt: the secret to rotate to, the overlap, and the secrets that accept it.
    let steps = [
        (None, 0, &[0][..]),
        (Some((1, 2_500)), 1_000, &[0, 1]),
        (None, 2_000, &[1]),
        (Some((2, 0)), 3_000, &[2]),
        (Some((3, 3_600_000)), 3_000, &[2, 3]),
        (Some((4, 0)), 3_000, &[4]),
    ];
    for (attempt, (rotated, wait_ms, holders)) in (1..).zip(steps) {
        let failed = 2 * (u64::try_from(attempt).unwrap() - 1);
        world.wait_until(|stats| stats.retried >= failed);
        if let Some((place, overlap_ms)) = rotated {
            rotate(place, overlap_ms);
        }
        world.clock.advance(Duration::from_millis(wait_ms));
        assert_eq!(accepted_with(&world, "crm", attempt), holders, "attempt {attempt}");
        assert_eq!(accepted_with(&world, "bystander", attempt), [5], "attempt {attempt}");
    }
    world.wait_until(|stats| stats.delivered == 2);
    for host in ["crm", "bystander"] {
        let arrivals = world.receivers.at(host);
        assert!(arrivals.iter().all(|arrival| arrival.id == accepted.id.to_string()), "{host}");
        assert_eq!(arrivals.iter().map(|one| one.attempt).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    }
}
