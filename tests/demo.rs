//! The demo loses nothing across its kill, and its ledger finds a delivery that is forgotten on purpose. The replicated
//! demo loses nothing when a host and the primary of two PostgreSQL servers are killed.

use std::io;
use std::process::{Command, Output};

/// Shorter and slower than the default, for debug builds on two cores.
fn demo(more: &[&str]) -> io::Result<Output> {
    let program = env!("CARGO_BIN_EXE_wabahook");
    let arguments = ["demo", "--seconds", "6", "--rate", "100"];
    Command::new(program).args(arguments).args(more).output()
}

fn check(output: &Output, code: i32, sentence: &str, killed: &str) {
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}\n{complaints}");
    let last = said.trim_end().lines().last().unwrap_or_default();
    assert!(last.starts_with(sentence), "{said}");
    assert!(last.ends_with(&format!("across {killed}.")), "{said}");
    assert!(said.contains("kill -9, without warning"), "{said}");
    assert!(said.contains("10 subscriptions"), "{said}");
}

#[test]
fn nothing_is_lost_across_a_kill() -> io::Result<()> {
    check(&demo(&[])?, 0, "0 lost: ", "one kill -9");
    Ok(())
}

#[test]
fn one_forgotten_delivery_is_found() -> io::Result<()> {
    check(&demo(&["--lose-one"])?, 1, "1 lost: ", "one kill -9");
    Ok(())
}

#[test]
fn a_killed_host_and_a_killed_primary_lose_nothing() -> io::Result<()> {
    let output = demo(&["--replicated"])?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    let may_be_missing = std::env::var_os("WABAHOOK_POSTGRES_INSTALLED").is_none();
    if may_be_missing && complaints.contains("the demo needs two PostgreSQL servers") {
        println!("skipped: {complaints}");
        return Ok(());
    }
    check(&output, 0, "0 lost: ", "one killed host and one killed primary");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("the standby is the primary now"), "{said}");
    Ok(())
}
