//! The demo loses nothing across its kill, and its ledger finds a delivery that is forgotten on purpose.

use std::io;
use std::process::{Command, Output};

/// Shorter and slower than the default, for debug builds on two cores.
fn demo(more: &[&str]) -> io::Result<Output> {
    let program = env!("CARGO_BIN_EXE_wabahook");
    let arguments = ["demo", "--seconds", "6", "--rate", "100"];
    Command::new(program).args(arguments).args(more).output()
}

fn check(more: &[&str], code: i32, sentence: &str) -> io::Result<()> {
    let output = demo(more)?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}\n{complaints}");
    let last = said.trim_end().lines().last().unwrap_or_default();
    assert!(last.starts_with(sentence), "{said}");
    assert!(last.ends_with("across one kill -9."), "{said}");
    assert!(said.contains("kill -9, without warning"), "{said}");
    assert!(said.contains("10 subscriptions"), "{said}");
    Ok(())
}

#[test]
fn nothing_is_lost_across_a_kill() -> io::Result<()> {
    check(&[], 0, "0 lost: ")
}

#[test]
fn one_forgotten_delivery_is_found() -> io::Result<()> {
    check(&["--lose-one"], 1, "1 lost: ")
}
