//! The files of `docs/packaging` are accepted by the programs that read them. Where a program is missing the test
//! says so and checks nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::authority::self_signed;

fn sample(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/packaging").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whether the program is installed.
fn is_there(program: &str, version: &str) -> bool {
    let found = Command::new(program).arg(version).output().is_ok();
    if !found {
        println!("skipped: no {program}");
    }
    found
}

#[test]
fn systemd_accepts_the_units() {
    if !is_there("systemd-analyze", "--version") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut units = Vec::new();
    for name in ["wabahook.service", "wabahook.socket"] {
        let unit = sample(name).replace("/usr/local/bin/wabahook", env!("CARGO_BIN_EXE_wabahook"));
        units.push(directory.path().join(name));
        fs::write(units.last().unwrap(), unit).unwrap();
    }
    let analyze = |arguments: &[&str], units: &[std::path::PathBuf]| {
        Command::new("systemd-analyze").args(arguments).args(units).output().unwrap()
    };
    let verified = analyze(&["verify", "--man=no"], &units);
    assert!(verified.status.success() && verified.stderr.is_empty(), "{verified:?}");
    let scored = analyze(&["security", "--offline=true", "--no-pager"], &units[..1]);
    let text = String::from_utf8_lossy(&scored.stdout).into_owned();
    let line = text.lines().find(|line| line.contains("Overall exposure")).unwrap_or_default();
    println!("{line}");
    let score = line.split_whitespace().find_map(|word| word.parse::<f64>().ok());
    assert!(score.is_some_and(|score| score < 2.0), "{text}");
}

#[test]
fn nginx_accepts_the_sample() {
    if !is_there("nginx", "-v") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let pair = self_signed("hooks.example.com", false);
    fs::write(path("cert.pem"), pair.certificate).unwrap();
    fs::write(path("key.pem"), pair.key).unwrap();
    let server = sample("nginx.conf")
        .replace("/etc/ssl/hooks.example.com.pem", &path("cert.pem"))
        .replace("/etc/ssl/hooks.example.com.key", &path("key.pem"));
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {};\n", path(kind)))
        .concat();
    let whole = format!(
        "pid {};\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{paths}{server}}}\n",
        path("pid")
    );
    fs::write(path("nginx.conf"), whole).unwrap();
    let tested = Command::new("nginx").args(["-t", "-c", &path("nginx.conf")]).output().unwrap();
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stderr));
}

#[test]
fn caddy_accepts_the_sample() {
    if !is_there("caddy", "version") {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/packaging/Caddyfile");
    let arguments = ["validate", "--adapter", "caddyfile", "--config"];
    let tested = Command::new("caddy").args(arguments).arg(path).output().unwrap();
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stderr));
}
