//! `dead` lists, shows and replays dead letters, and only those that are named.

use serde_json::{Value, json};

use crate::host_process::{ACME, BETA, HostProcess, line};
use crate::program::ask;
use crate::receiver::Receiver;

fn listed(served: &HostProcess, more: &[&str]) -> Vec<Value> {
    let ran = ask(served, &[&["dead", "list", "--json"], more].concat()).done();
    ran.json()["items"].as_array().unwrap().clone()
}

#[test]
fn dead_letters_are_listed_shown_and_replayed() {
    let (_place, served) = HostProcess::fresh();
    let (gone, other) = (Receiver::answering(404), Receiver::answering(400));
    served.subscribe(ACME, &gone.url("/gone"), json!({"name": "gone"}));
    served.subscribe(ACME, &other.url("/other"), json!({"name": "other"}));
    served.subscribe(BETA, &other.url("/beta"), json!({}));
    ask(&served, &["dead", "list"]).done().says(&["no dead letters"]);
    (0..3).for_each(|n| assert_eq!(served.post("/events", ACME, line(n)).status, 202));
    served.until(|_| listed(&served, &[]).len() == 6);
    assert_eq!(listed(&served, &["--webhook", "gone"]).len(), 3);
    assert_eq!(listed(&served, &["--reason", "status:400", "--limit", "2"]).len(), 2);
    let id = listed(&served, &["--webhook", "gone"])[0]["id"].as_str().unwrap().to_owned();
    let shown = ask(&served, &["dead", "show", &id]).done();
    shown.says(&[&id, "status:404", "ATTEMPT"]);

    ask(&served, &["dead", "replay"]).failed(2, &["--all"]);
    let replayed = |more: &[&str]| {
        let ran = ask(&served, &[&["dead", "replay", "--dry-run", "--json"], more].concat()).done();
        ran.json()["replayed"].as_u64().unwrap()
    };
    assert_eq!((listed(&served, &["--since", "1h"]).len(), replayed(&["--since", "1h"])), (6, 6));
    assert_eq!(listed(&served, &["--until", "1h"]).len(), 0);
    assert_eq!(replayed(&["--until", "2020-01-31"]), 0);
    assert_eq!((replayed(&["--number", "9190"]), replayed(&["--type", "add_tag"])), (6, 0));
    ask(&served, &["dead", "list", "--since", "soon"]).failed(2, &["--since", "24h"]);
    gone.answer(200);
    ask(&served, &["dead", "replay", &id]).done().says(&["replayed: 1 dead letter\n"]);
    served.until(|_| listed(&served, &[]).len() == 5);
    let ran = ask(&served, &["dead", "replay", "--webhook", "gone", "--json"]).done();
    assert_eq!(ran.json(), json!({"replayed": 2}));
    served.until(|_| listed(&served, &["--webhook", "gone"]).is_empty());
    assert_eq!(listed(&served, &["--webhook", "other"]).len(), 3);
    other.answer(200);
    ask(&served, &["dead", "replay", "--all"]).done().says(&["replayed: 3 dead letters\n"]);
    served.until(|_| listed(&served, &[]).is_empty());

    ask(&served, &["dead", "show", "evt/../x"]).failed(2, &["not the id of a dead letter"]);
    ask(&served, &["dead", "show", &id]).failed(5, &["there is no dead letter"]);
    ask(&served, &["dead", "list", "--webhook", "nobody"]).failed(5, &["gone, other"]);
}

#[test]
fn letters_are_discarded_deliveries_cancelled_contacts_purged() {
    let (_place, served) = HostProcess::fresh();
    let gone = Receiver::answering(404);
    served.subscribe(ACME, &gone.url("/gone"), json!({"name": "gone"}));
    served.subscribe(ACME, &gone.url("/paused"), json!({"name": "paused"}));
    ask(&served, &["webhooks", "pause", "paused"]).done();
    (0..3).for_each(|n| assert_eq!(served.post("/events", ACME, line(n)).status, 202));
    served.until(|_| listed(&served, &[]).len() == 3);
    ask(&served, &["dead", "discard"]).failed(2, &["--all"]);
    let id = listed(&served, &[])[0]["id"].as_str().unwrap().to_owned();
    ask(&served, &["dead", "discard", &id]).done().says(&["discarded: 1 dead letter\n"]);
    assert_eq!(listed(&served, &[]).len(), 2, "the others stay");
    let discard = ["dead", "discard", "--webhook", "gone"];
    ask(&served, &discard).failed(2, &["discard 2 dead letters?", "--yes"]);
    assert_eq!(listed(&served, &[]).len(), 2, "nothing is discarded without a confirmation");
    ask(&served, &["deliveries", "cancel"]).failed(2, &["--webhook"]);
    ask(&served, &["deliveries", "cancel", "--state", "lost"]).failed(2, &["lost"]);
    let counted = ["deliveries", "cancel", "--number", "9190", "--dry-run"];
    ask(&served, &counted).done().says(&["would be cancelled: 3 deliveries\n"]);
    let cancel = ["deliveries", "cancel", "--webhook", "paused"];
    ask(&served, &cancel).failed(2, &["cancel 3 deliveries?", "--yes"]);
    ask(&served, &counted).done().says(&["would be cancelled: 3 deliveries\n"]);
    let cancelled = |more: &[&str]| ask(&served, &[&cancel[..], more].concat()).done();
    cancelled(&["--state", "retrying,owed", "--yes"]).says(&["cancelled: 0 deliveries\n"]);
    assert_eq!(cancelled(&["--json", "--yes"]).json(), json!({"cancelled": 3}));
    ask(&served, &["purge"]).failed(2, &["--contact"]);
    ask(&served, &["purge", "--contact", "nobody", "--yes"])
        .done()
        .says(&["purged: 0 deliveries and dead letters; erased from the history: 0 events"]);
    let purge = ["purge", "--number", "919000000001"];
    ask(&served, &purge).failed(2, &["purge 3 events?", "--yes"]);
    assert_eq!(listed(&served, &[]).len(), 2, "nothing is purged without a confirmation");
    ask(&served, &[&purge[..], &["--yes"]].concat())
        .done()
        .says(&["purged: 2 deliveries and dead letters; erased"]);
    assert!(listed(&served, &[]).is_empty());
}
