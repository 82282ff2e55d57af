//! Every error is one line that says what to do, with the exit code of `docs/commands.md`.

use std::net::TcpListener;

use serde_json::Value;

use crate::host_process::HostProcess;
use crate::program::{alone, ask, command, run};

const COMMANDS: [&[&str]; 5] = [
    &["webhooks", "list"],
    &["webhooks", "pause", "crm"],
    &["dead", "list"],
    &["tail"],
    &["publish", "/dev/null", "--type", "T", "--number", "1"],
];

#[test]
fn nothing_is_sent_without_a_key() {
    for arguments in COMMANDS {
        alone(arguments).failed(4, &["WABAHOOK_API_KEY is not set", "--key-env"]);
    }
}

#[test]
fn an_unreachable_host_is_told_with_how_to_start_one() {
    // Bound and released, so that nothing listens there.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{free}");
    for arguments in [&["webhooks", "list"][..], &["dead", "list"][..], &["tail"][..]] {
        let mut command = command();
        command.args(arguments).args(["--url", &url]).env("WABAHOOK_API_KEY", "hidden-key");
        let ran = run(&mut command, "").failed(3, &[&url, "wabahook serve", "--url"]);
        assert!(!ran.err.contains("hidden-key"));
    }
}

#[test]
fn an_unknown_key_is_refused_and_never_shown() {
    let (_place, served) = HostProcess::fresh();
    for arguments in [&["webhooks", "list"][..], &["dead", "list"][..], &["tail"][..]] {
        let mut command = crate::program::against(&served, arguments);
        command.args(["--key-env", "OTHER_KEY"]).env("OTHER_KEY", "hidden-key");
        let ran = run(&mut command, "").failed(4, &["no account has this key"]);
        assert!(!ran.err.contains("hidden-key"));
    }
    let ran = ask(&served, &["webhooks", "pause", "crm", "--json"]);
    assert_eq!(ran.code, 5);
    let error: Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!(error["error"]["code"], "not_found");
}

/// A refusal of the host has the code of the same mistake on the command line.
#[test]
fn refusals_have_the_exit_code_of_their_kind() {
    let (_place, served) = HostProcess::fresh();
    let add = ["webhooks", "add", "https://crm.example/hook", "--name", "crm"];
    ask(&served, &add).done();
    for (arguments, code, says) in [
        (&add[..], 1, "crm"),
        (&["webhooks", "add", "ftp://crm.example/hook"], 2, "url"),
        (&["webhooks", "list", "--sort", "colour"], 2, "sort"),
        (&["unowned", "--limit", "0"], 2, "limit"),
        (&["audit"], 4, "operator"),
        (&["stats", "--account", "beta"], 4, "another account"),
        (&["webhooks", "show", "nobody"], 5, "nobody"),
        (&["dead", "show", "evt_00000000000000070000000000000009.3"], 5, "evt_"),
    ] {
        ask(&served, arguments).failed(code, &[says]);
    }
}

#[test]
fn serving_a_directory_in_use_is_busy() {
    let (place, _served) = HostProcess::fresh();
    let [config, data] = ["wabahook.toml", "data"].map(|name| place.path(name));
    let serve = ["serve", "--config", config.to_str().unwrap(), "--data", data.to_str().unwrap()];
    alone(&serve).failed(6, &["already open in another engine"]);
}

#[test]
fn a_wrong_command_line_is_told_in_one_line() {
    for (arguments, says) in [
        (&["webhooks"][..], "see wabahook --help"),
        (&["dead", "shwo"][..], "shwo"),
        (&["inspect"][..], "<DIR>"),
        (&["completions", "tcsh"][..], "tcsh"),
        (&["serve", "--config", "x", "--log", "loud"][..], "loud"),
    ] {
        alone(arguments).failed(2, &[says]);
    }
    let mut command = command();
    command.args(["webhooks", "list", "--url", "nowhere"]).env("WABAHOOK_API_KEY", "k");
    run(&mut command, "").failed(2, &["--url", "http://127.0.0.1:7001"]);
}

#[test]
fn completions_name_every_command_that_help_names() {
    let help = alone(&["--help"]).done().out;
    for shell in ["bash", "zsh", "fish"] {
        let script = alone(&["completions", shell]).done().out;
        for word in ["serve", "publish", "webhooks", "dead", "tail", "verify", "inspect", "bench"] {
            assert!(script.contains(word) && help.contains(word), "{shell}: {word}");
        }
        assert!(!script.contains("demo-engine"), "{shell}");
    }
}

#[test]
fn every_command_and_every_exit_code_is_documented() {
    let document = include_str!("../../docs/commands.md");
    for code in 0..=6 {
        assert!(document.contains(&format!("| {code} |")), "exit code {code}");
    }
    let help = alone(&["--help"]).done().out;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.take_while(|line| line.starts_with("  "));
    let names: Vec<_> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.contains(&"serve") && names.len() > 9, "{names:?}");
    for name in names.into_iter().filter(|name| *name != "help") {
        assert!(document.contains(&format!("wabahook {name}")), "{name}");
    }
}
