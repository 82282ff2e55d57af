//! `GET /metrics` is Prometheus text of the account, and `bench` prints each figure with its limit.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::host_process::{ACME, BETA, HostProcess, OPERATOR, line};
use crate::program::alone;
use crate::receiver::Receiver;

#[test]
fn metrics_are_of_the_account_and_pass_promtool() {
    let (_place, served) = HostProcess::fresh();
    let (good, dead) = (Receiver::answering(200), Receiver::answering(404));
    served.subscribe(ACME, &good.url("/good"), json!({"name": "good"}));
    served.subscribe(ACME, &dead.url("/dead"), json!({"name": "dead"}));
    served.subscribe(BETA, &good.url("/beta"), json!({"name": "theirs"}));
    (0..5).for_each(|n| assert_eq!(served.post("/events", ACME, line(n)).status, 202));
    served.until(|stats| stats["owed"] == 0);
    served.get("/metrics", "nobody").assert_refused(401, "unauthorized", None);
    let answer = served.get("/metrics", ACME);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    answer.assert_says(&[
        "\nwabahook_events_accepted_total 5\n",
        "\nwabahook_deliveries_delivered_total 5\n",
        "\nwabahook_subscription_deliveries_delivered_total{subscription=\"1\"} 5\n",
        "\nwabahook_subscription_deliveries_dead_total{subscription=\"2\"} 5\n",
        "\nwabahook_attempt_duration_seconds_count 10\n",
    ]);
    assert!(!answer.body.contains("theirs") && !answer.body.contains("subscription=\"3\""));
    let groups = answer.body.lines().find(|line| line.starts_with("wabahook_groups_total "));
    let timed =
        answer.body.lines().find(|line| line.starts_with("wabahook_group_duration_seconds_count "));
    let value = |line: Option<&str>| line.unwrap().rsplit(' ').next().unwrap().to_owned();
    assert_eq!(value(groups), value(timed));
    check_by_promtool(&answer.body);
}

/// The operator sees every account's series, and a customer its own alone.
#[test]
fn the_operator_has_series_of_every_account() {
    let (_place, served) = HostProcess::operated();
    let receiver = Receiver::answering(200);
    let acme = served.subscribe(ACME, &receiver.url("/acme"), json!({"name": "acme hook"}));
    served.subscribe(BETA, &receiver.url("/beta"), json!({"name": "beta hook"}));
    (0..3).for_each(|n| assert_eq!(served.post("/events", ACME, line(n)).status, 202));
    let beta = json!({"type": "T", "number": "919000000003", "payload": 1}).to_string();
    served.post("/events", BETA, beta).with_status(202);
    served.until(|stats| stats["delivered"] == 3);
    (0..4).for_each(|_| drop(receiver.next()));
    let accounts = served.items("/admin/accounts", OPERATOR);
    let id = |name: &str| {
        let found = accounts.iter().find(|account| account["name"] == name).unwrap();
        found["id"].as_str().unwrap().to_owned()
    };
    let (acme_id, beta_id) = (id("acme"), id("beta"));
    let series = |name: &str, id: &str| format!("\nwabahook_account_{name}{{account=\"{id}\"}} ");
    let all = served.get("/metrics", OPERATOR);
    all.assert_says(&[
        &format!("{}3\n", series("deliveries_delivered_total", &acme_id)),
        &format!("{}1\n", series("events_accepted_total", &beta_id)),
        &format!(
            "\nwabahook_account_info{{account=\"{beta_id}\",name=\"beta\",state=\"active\"}} 1\n"
        ),
        "name=\"acme hook\"",
        "name=\"beta hook\"",
    ]);
    check_by_promtool(&all.body);
    let named = served.get("/metrics?account=acme", OPERATOR).body;
    for own in [served.get("/metrics", ACME).body, named] {
        assert!(own.contains("\nwabahook_deliveries_delivered_total 3\n"), "{own}");
        assert!(own.contains("acme hook") && !own.contains("beta hook"), "{own}");
        assert!(!own.contains(&beta_id) && !own.contains("wabahook_account_"), "{own}");
        assert!(!own.contains("wabahook_groups_total"), "of the engine: {own}");
        check_by_promtool(&own);
    }
    // A counter never falls, also when a webhook is removed with its figures.
    served.delete(&format!("/subscriptions/{acme}"), ACME).with_status(204);
    served.get("/metrics", ACME).assert_says(&["\nwabahook_deliveries_delivered_total 3\n"]);
}

/// Checks the text with Prometheus' own tool where that is installed.
fn check_by_promtool(text: &str) {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut promtool) = command.stderr(Stdio::piped()).spawn() else {
        println!("skipped: promtool is not installed");
        return;
    };
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn the_dashboard_names_no_metric_that_is_not_there() {
    let (_place, served) = HostProcess::operated();
    served.subscribe(ACME, "https://crm.example/hook", json!({}));
    let metrics = served.get("/metrics", OPERATOR).body;
    let dashboard = include_str!("../../docs/grafana.json");
    let _: Value = serde_json::from_str(dashboard).unwrap();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names: Vec<_> = dashboard
        .match_indices("wabahook_")
        .map(|(at, _)| dashboard[at..].split(|c| !is_name(c)).next().unwrap())
        .collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(metrics.contains(&format!("\n{name}")), "{name} is in no reading");
    }
}

#[test]
fn bench_prints_each_figure_beside_its_limit() {
    let ran = alone(&["bench", "--events", "500", "--json"]).done();
    let figures = ran.json();
    for (place, what) in ["accepted", "delivered"].into_iter().enumerate() {
        let figure = &figures[place];
        assert_eq!(figure["what"], what);
        let value = |name: &str| figure[name].as_f64().unwrap();
        assert!(value("figure") > 0.0 && value("limit") > 0.0, "{figure}");
        assert!((value("ratio") - value("figure") / value("limit")).abs() < 1e-9, "{figure}");
    }
}
