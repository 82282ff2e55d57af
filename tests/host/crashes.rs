//! kill -9 and SIGTERM: an event answered with 202 is delivered after the restart with the same id; a request
//! without a response is kept whole or not at all.

use std::collections::BTreeSet;

use serde_json::json;

use crate::host_process::{ACME, BETA, HostProcess, line};
use crate::receiver::{HANG, HOLD, Receiver};

#[test]
fn kill_9_with_a_thousand_owed_loses_none_and_changes_no_id() {
    let (place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(HANG);
    served.subscribe(ACME, &receiver.url("/hook"), json!({}));
    let mut ids = BTreeSet::new();
    for n in 0..10 {
        let answer = served.post("/events", ACME, line(n));
        ids.insert(answer.json()["id"].as_str().unwrap().to_owned());
    }
    let lines: String = (10..1_000).map(line).collect();
    for item in served.post_lines(ACME, &lines).json().as_array().unwrap() {
        ids.insert(item["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids.len(), 1_000);
    let under_way = receiver.next();
    assert_eq!(served.stats()["owed"], 1_000);
    served.kill();

    receiver.answer(200);
    let served = place.start();
    assert_eq!(served.stats()["recovered"], 1_000);
    let arrived = served.all_arrived(&receiver);
    let found: BTreeSet<String> = arrived.iter().map(|attempt| attempt.id().to_owned()).collect();
    assert!(found == ids, "every delivery arrives under the id of its 202, and no other does");
    let again = arrived.iter().find(|attempt| attempt.id() == under_way.id()).unwrap();
    assert_eq!(again.body, under_way.body);
    // A kill may repeat a delivery, because its settlement may not be durable; an orderly end may not.
    assert!(served.signal("TERM").success());
    assert_eq!(place.start().stats()["owed"], 0);
}

/// When the host is killed while a request of 10,000 lines is under way.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Moment {
    /// After this many bytes of the body.
    Sent(usize),
    /// After the whole body, while its events wait for the device, and this many later responses.
    Queued(usize),
    /// After the response 202.
    Answered,
}

#[test]
fn kill_9_during_ten_thousand_lines_leaves_all_or_none() {
    let lines: String = (0..10_000).map(line).collect();
    let all = lines.len();
    // An undisturbed request shows for how many responses it waits for the device.
    let waited = check_killed(&lines, Moment::Answered);
    for sent in [0, all / 2, all - 2, all] {
        check_killed(&lines, Moment::Sent(sent));
    }
    for eighth in [0, 4, 6, 7, 8, 9, 10, 12, 16] {
        check_killed(&lines, Moment::Queued(waited * eighth / 8));
    }
}

/// Kills a host at that time and checks what the next one recovers. Returns how many other responses came
/// while the events waited for the device.
fn check_killed(lines: &str, moment: Moment) -> usize {
    let (place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(HANG);
    served.subscribe(ACME, &receiver.url("/one"), json!({}));
    served.subscribe(ACME, &receiver.url("/two"), json!({}));
    served.subscribe(BETA, &receiver.url("/bystander"), json!({}));
    let bystander = r#"{"type":"T","number":"919000000003","payload":1}"#;
    served.post("/events", BETA, bystander).with_status(202);
    let mut request = served.open_lines(ACME, lines.len());
    let sent = if let Moment::Sent(sent) = moment { sent } else { lines.len() };
    request.more(&lines.as_bytes()[..sent]);
    let mut waited = 0;
    if sent == lines.len() && moment != Moment::Sent(sent) {
        served.until(|stats| stats["queued_events"] != 0 || stats["accepted"] != 1);
        let enough = if let Moment::Queued(answers) = moment { answers } else { usize::MAX };
        while waited < enough && served.stats()["accepted"] == 1 {
            waited += 1;
        }
    }
    if moment == Moment::Answered {
        request.answer().with_status(202);
    }
    served.kill();
    let recovered = place.start().stats()["recovered"].as_u64().unwrap();
    match moment {
        Moment::Sent(_) if sent < lines.len() => assert_eq!(recovered, 1, "{moment:?}"),
        Moment::Answered => assert_eq!(recovered, 20_001),
        _ => assert!([1, 20_001].contains(&recovered), "{moment:?}: {recovered}"),
    }
    waited
}

#[test]
fn owed_deliveries_survive_sigterm_and_sigint() {
    for signal in ["TERM", "INT"] {
        let (place, served) = HostProcess::fresh();
        let (refusing, healthy) = (Receiver::answering(503), Receiver::answering(200));
        served.subscribe(ACME, &refusing.url("/"), json!({}));
        served.subscribe(ACME, &healthy.url("/"), json!({}));
        let lines: String = (0..100).map(line).collect();
        let answer = served.post_lines(ACME, &lines).json();
        let ids: BTreeSet<&str> =
            answer.as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect();
        refusing.next();
        served.until(|stats| stats["owed"] == 100);
        assert_eq!(served.signal(signal).code(), Some(0), "SIG{signal}");

        refusing.arrived();
        refusing.answer(200);
        let served = place.start();
        let arrived = served.all_arrived(&refusing);
        let found: BTreeSet<&str> = arrived.iter().map(|attempt| attempt.id()).collect();
        assert!(found == ids, "what was owed at SIG{signal} arrives");
        assert_eq!(healthy.arrived().len(), 100, "what was delivered before is not sent again");
    }
}

#[test]
fn sigterm_lets_attempts_and_requests_finish() {
    let (place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(HOLD);
    served.subscribe(ACME, &receiver.url("/"), json!({}));
    served.post("/events", ACME, line(0)).with_status(202);
    let under_way = receiver.next();
    let body = line(1) + &line(2);
    let mut request = served.open_lines(ACME, body.len());
    request.more(&body.as_bytes()[..10]);

    served.send_signal("TERM");
    receiver.answer(200);
    served.until_it_stops_listening();
    request.more(&body.as_bytes()[10..]);
    request.answer().with_status(202);
    assert_eq!(served.ended().code(), Some(0));

    let before: Vec<String> = receiver.arrived().iter().map(|a| a.text().to_owned()).collect();
    let served = place.start();
    let after = served.all_arrived(&receiver);
    assert!(!after.iter().any(|attempt| attempt.id() == under_way.id()), "it had finished");
    let mut rest: Vec<String> = after.iter().map(|attempt| attempt.text().to_owned()).collect();
    rest.extend(before);
    rest.sort();
    assert_eq!(rest, ["{\"n\":1}", "{\"n\":2}"]);
}

#[test]
fn sigterm_interrupts_attempts_after_the_deadline() {
    let (place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(HANG);
    served.subscribe(ACME, &receiver.url("/"), json!({}));
    served.post("/events", ACME, line(0)).with_status(202);
    let attempt = receiver.next();
    assert_eq!(served.signal("TERM").code(), Some(0));
    receiver.answer(200);
    let served = place.start();
    let again = receiver.next();
    assert_eq!((again.id(), again.header("x-webhook-attempt")), (attempt.id(), Some("1")));
    served.until(|stats| stats["owed"] == 0);
}
