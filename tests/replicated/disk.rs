//! A primary whose disk fills up and has room again. The disk is a memory file system in a mount namespace, so this
//! round runs in a process of its own: the test starts itself there again.

use std::env;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::ledger::Ledger;
use crate::process::{HostOptions, HostProcess};
use crate::rounds::{SOME, Verdict, ledger_after_drain};
use crate::servers::Servers;
use crate::support::{DEADLINE, wait_until};

/// Set in the namespace, to where the disk is mounted.
pub const NAME: &str = "WABAHOOK_REPLICATED_DISK";

/// Runs the round, or says why there is no namespace for it.
pub fn fill_in_a_namespace() -> Verdict {
    let disk = tempfile::tempdir().map_err(|error| error.to_string())?;
    let tried = inside(disk.path(), Path::new("true"))?;
    if !tried.status.success() {
        let why = String::from_utf8_lossy(&tried.stderr).trim().to_owned();
        return Ok(format!("skipped: no file system can be mounted here: {why}"));
    }
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let ran = inside(disk.path(), &program)?;
    let (said, failed) =
        (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    match ran.status.success() {
        true => Ok(said.trim().to_owned()),
        false => Err(format!("{said}{failed}")),
    }
}

/// Runs a program where a small file system is mounted at `disk`. Servers refuse to run as root, which the user of a new
/// user namespace is, so another namespace gives them a number.
fn inside(disk: &Path, program: &Path) -> Result<std::process::Output, String> {
    let (unshare, run) = match rustix::process::geteuid().is_root() {
        true => ("-m", "exec"),
        false => ("-rm", "exec unshare -U --map-user=1000 --map-group=1000"),
    };
    let script = format!("mount -t tmpfs -o size=300m,mode=777 tmpfs \"$1\" && {run} \"$2\"");
    let mut command = Command::new("unshare");
    command.args([unshare, "sh", "-c", &script, "sh"]).arg(disk).arg(program).env(NAME, disk);
    command.output().map_err(|error| format!("unshare: {error}"))
}

/// The round itself, in the namespace.
pub fn run(disk: &Path) {
    match fill(disk) {
        Ok(told) => println!("{told}"),
        Err(why) => {
            eprintln!("{why}");
            std::process::exit(1);
        }
    }
}

fn fill(disk: &Path) -> Verdict {
    let mut servers = Servers::start_in(disk, &env::temp_dir())?;
    let mut ledger = Ledger::default();
    let options = HostOptions { connection: servers.connection(), ..HostOptions::default() };
    let owner = HostProcess::start("owner", &options);
    owner.wait_for_many("accepted", SOME, &mut ledger)?;
    let ballast = Ballast::fill(disk)?;
    owner.wait_for("notice stalled", &mut ledger)?;
    owner.wait_for("busy", &mut ledger)?;
    ballast.remove()?;
    let freed = Instant::now();
    let ended = restart_where_it_ended(&mut servers)?;
    owner.wait_for("notice resumed", &mut ledger)?;
    let goes_on = owner.accepts_after(freed, &mut ledger)?;
    owner.wait_for_many("accepted", SOME, &mut ledger)?;
    owner.stop(&mut ledger)?;
    let told = ledger_after_drain(ledger, &options)?.judge()?;
    let server =
        if ended { "the server had ended and was started again" } else { "the server stayed" };
    Ok(format!(
        "{told}; {server}; accepted again {:.1} s after there was room",
        goes_on.as_secs_f64()
    ))
}

/// A server that cannot write its log ends. The test starts it again when there is room, as an administrator would.
fn restart_where_it_ended(servers: &mut Servers) -> Result<bool, String> {
    let (mut ended, mut failure) = (false, None);
    let is_back = wait_until(|| {
        match servers.restart_ended_primary() {
            Ok(restarted) => ended |= restarted,
            Err(error) => failure = Some(error),
        }
        failure.is_some() || servers.query("SELECT 1").is_ok()
    });
    match failure {
        Some(error) => Err(error),
        None if is_back => Ok(ended),
        None => Err(format!("the server has not come back within {} s", DEADLINE.as_secs())),
    }
}

/// A file that takes all room that is left.
struct Ballast(PathBuf);

impl Ballast {
    fn fill(disk: &Path) -> Result<Ballast, String> {
        let path = disk.join("ballast");
        let mut file = File::create(&path).map_err(|error| error.to_string())?;
        let mut piece = vec![7; 1024 * 1024];
        while !piece.is_empty() {
            match file.write_all(&piece) {
                Ok(()) => {}
                // What is left is less than a piece.
                Err(error) if error.kind() == ErrorKind::StorageFull => {
                    piece.truncate(piece.len() / 2);
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(Ballast(path))
    }

    fn remove(self) -> Result<(), String> {
        fs::remove_file(self.0).map_err(|error| error.to_string())
    }
}
