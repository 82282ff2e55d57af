//! An error of the command line, the configuration or the directory is one line that names it, with its exit
//! code.

use std::fs;
use std::process::Command;

use crate::client;
use crate::host_process::{ACME, CONFIGURATION, HostDirectory, HostProcess};

fn check_refused(command: &mut Command, code: i32, says: &[&str]) {
    let output = command.output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{told}");
    assert!(told.starts_with("wabahook: ") && told.lines().count() == 1, "{told}");
    for part in says {
        assert!(told.contains(part), "{told} does not say {part}");
    }
    assert!(output.stdout.is_empty());
    assert!(!told.contains("acme-key"), "{told}");
}

#[test]
fn a_wrong_configuration_is_refused_with_code_2() {
    for (from, to, says) in [
        ("[network]", "[netwrk]", "`netwrk`"),
        ("name = \"beta\"", "nam = \"beta\"", "`nam`"),
        ("api_key = \"beta-key\"", "api_key = \"acme-key\"", "\"beta\""),
        ("\"919000000003\"", "\"919000000001\"", "account.waba.numbers"),
        ("\"919000000003\"", "\"ninety\"", "ninety"),
        ("id = \"100000000000002\"", "id = \"100000000000001\"", "account.waba.id"),
        ("127.0.0.0/8", "localhost", "network.allow[0]"),
    ] {
        let place = HostDirectory::new(&CONFIGURATION.replace(from, to));
        check_refused(&mut place.command(), 2, &["wabahook.toml: ", says]);
    }
}

#[test]
fn a_wrong_command_line_is_refused_with_code_2() {
    let place = HostDirectory::new(CONFIGURATION);
    check_refused(place.command().arg("--listen").arg("here"), 2, &["listen", "\"here\""]);
    check_refused(place.command().arg("--port").arg("1"), 2, &["--port"]);
    fs::remove_file(place.path("wabahook.toml")).unwrap();
    check_refused(&mut place.command(), 2, &["wabahook.toml"]);
}

#[test]
fn an_unusable_directory_is_refused_and_one_in_use() {
    let place = HostDirectory::new(CONFIGURATION);
    fs::write(place.path("a-file"), "").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_wabahook"));
    command.arg("serve").arg("--config").arg(place.path("wabahook.toml"));
    check_refused(command.arg("--data").arg(place.path("a-file")), 1, &["a-file"]);

    let served = place.start();
    check_refused(&mut place.command(), 6, &["data", "already open"]);
    served.get("/healthz", "").with_status(200);
    served.get("/subscriptions", ACME).with_status(200);
}

#[test]
fn a_used_address_is_refused_and_the_command_line_wins() {
    let (_place, first) = HostProcess::fresh();
    let other = HostDirectory::new(CONFIGURATION);
    let taken = first.address.to_string();
    check_refused(other.command().arg("--listen").arg(&taken), 1, &["listen", &taken]);
    client::send(first.address, "GET", "/healthz", &[], b"").with_status(200);
}

/// Each of a thousand threads that wait for receivers would get a page of 2 MB.
#[cfg(target_os = "linux")]
#[test]
fn its_memory_has_no_huge_pages() {
    let (_place, served) = HostProcess::fresh();
    assert_eq!(served.status_of("THP_enabled").as_deref(), Some("0"));
}

/// A warning on stderr, unless only the owner can read the file or it has no secret in it.
#[test]
#[cfg(unix)]
fn a_world_readable_file_with_keys_is_told_at_start() {
    use std::os::unix::fs::PermissionsExt as _;

    let directory = HostDirectory::new(CONFIGURATION);
    let warned = |mode: u32| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(directory.path("wabahook.toml"), permissions).unwrap();
        drop(directory.start());
        std::fs::read_to_string(directory.path("stderr.log")).unwrap().contains("chmod 600")
    };
    assert_eq!((warned(0o644), warned(0o640), warned(0o600)), (true, false, false));
}
