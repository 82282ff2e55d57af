//! Starts a PostgreSQL primary and its synchronous standby from Debian's package, on loopback, in directories of their
//! own. Everything that makes a commit durable stays on. The tests and the bench of the replicated store use this file
//! too.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long a server may take to start, to copy another one and to follow it.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often to look whether a server is as far.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A primary and its standby. Both are killed, and their files removed, when this is dropped.
pub(super) struct Servers {
    programs: Programs,
    primary: ServerProcess,
    standby: Option<ServerProcess>,
    standbys_made: u32,
    /// Where the standbys are.
    directory: TempDir,
    _primary_directory: TempDir,
}

impl Servers {
    /// Starts both in temporary directories, or says why that is not possible here.
    pub(super) fn start() -> Result<Servers, String> {
        Servers::start_in(&std::env::temp_dir(), &std::env::temp_dir())
    }

    /// Starts the primary below one directory and its standby below another one. Every user must be able to enter them.
    pub(super) fn start_in(primary_below: &Path, below: &Path) -> Result<Servers, String> {
        let programs = Programs::find()?;
        let (primary_directory, directory) =
            (programs.directory_in(primary_below)?, programs.directory_in(below)?);
        let data = primary_directory.path().join("primary");
        let arguments = ["-A", "trust", "-U", "postgres", "--no-sync", "-D"].map(OsString::from);
        programs.run("initdb", arguments.into_iter().chain([data.clone().into()]))?;
        let primary = programs.launch(data, free_port()?, "")?;
        let mut servers = Servers {
            programs,
            primary,
            standby: None,
            standbys_made: 0,
            directory,
            _primary_directory: primary_directory,
        };
        servers.wait_for("SELECT 1", "1")?;
        servers.add_standby()?;
        Ok(servers)
    }

    /// How clients reach whichever server takes writes.
    pub(super) fn connection(&self) -> String {
        let primary = self.primary.port;
        let standby = self.standby.as_ref().map_or(primary, |standby| standby.port);
        format!(
            "host=127.0.0.1,127.0.0.1 port={primary},{standby} user=postgres dbname=postgres sslmode=disable"
        )
    }

    /// The port of the server that takes writes.
    pub(super) fn primary_port(&self) -> u16 {
        self.primary.port
    }

    /// Makes a standby of the primary, and lets the primary wait for it at each commit.
    pub(super) fn add_standby(&mut self) -> Result<(), String> {
        let data = self.directory.path().join(format!("standby-{}", self.standbys_made));
        self.standbys_made += 1;
        let from = self.primary.port.to_string();
        let copy = ["-h", "127.0.0.1", "-p", &from, "-U", "postgres", "-X", "stream"];
        let copy = copy.into_iter().chain(["-c", "fast", "--no-sync", "-D"]).map(OsString::from);
        self.programs.run("pg_basebackup", copy.chain([data.clone().into()]))?;
        // What the primary was told at run time does not hold for the standby.
        let _ = fs::remove_file(data.join("postgresql.auto.conf"));
        self.programs.write(&data.join("standby.signal"), "")?;
        let link = format!("host=127.0.0.1 port={from} user=postgres application_name=standby");
        let more = format!("primary_conninfo = '{link}'\nsynchronous_standby_names = ''\n");
        self.standby = Some(self.programs.launch(data, free_port()?, &more)?);
        let replicated = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
        self.wait_for(replicated, "1")?;
        self.query("ALTER SYSTEM SET synchronous_standby_names = 'standby'")?;
        self.query("SELECT pg_reload_conf()")?;
        self.wait_for("SELECT sync_state FROM pg_stat_replication", "sync")
    }

    /// Kills every process of the primary.
    pub(super) fn kill_primary(&mut self) {
        self.primary.kill();
    }

    /// Kills every process of the standby.
    pub(super) fn kill_standby(&mut self) {
        if let Some(standby) = &mut self.standby {
            standby.kill();
        }
    }

    /// Starts the standby again after it was killed.
    pub(super) fn restart_standby(&mut self) -> Result<(), String> {
        let standby = self.standby.as_mut().ok_or("there is no standby")?;
        standby.process = self.programs.spawn(&standby.data)?;
        Ok(())
    }

    /// Starts the primary again if it has ended by itself. Returns whether it had.
    pub(super) fn restart_ended_primary(&mut self) -> Result<bool, String> {
        let ended = self.primary.process.try_wait().map_err(|error| error.to_string())?;
        if ended.is_some() {
            self.primary.process = self.programs.spawn(&self.primary.data)?;
        }
        Ok(ended.is_some())
    }

    /// Makes the standby the primary. It has no standby then.
    pub(super) fn promote(&mut self) -> Result<(), String> {
        self.primary = self.standby.take().ok_or("there is no standby")?;
        let promote = ["promote", "-w", "-s", "-D"].map(OsString::from);
        let data = self.primary.data.clone();
        self.programs.run("pg_ctl", promote.into_iter().chain([data.into()])).map(drop)
    }

    /// Runs a query on the primary and returns the first column of the first row.
    pub(super) fn query(&self, query: &str) -> Result<String, String> {
        let port = self.primary.port.to_string();
        let arguments = ["-XAt", "-h", "127.0.0.1", "-U", "postgres", "-p", &port, "-c", query];
        let output = self.programs.run("psql", arguments.map(OsString::from))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Waits until a query returns this.
    pub(super) fn wait_for(&self, query: &str, expected: &str) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.query(query);
            if found.as_deref() == Ok(expected) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{query}: {found:?}\n{}", self.logs()));
            }
            std::thread::park_timeout(LOOK_EVERY);
        }
    }

    /// Writes a file that only the servers can read, into the primary's data directory.
    pub(super) fn write_secret(&self, name: &str, content: &str) -> Result<(), String> {
        use std::os::unix::fs::PermissionsExt;

        let path = self.primary.data.join(name);
        self.programs.write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(|e| e.to_string())
    }

    /// The last lines of both servers' logs.
    fn logs(&self) -> String {
        let servers = [Some(&self.primary), self.standby.as_ref()];
        let logs = servers.into_iter().flatten().map(|server| {
            let log = fs::read_to_string(log_of(&server.data)).unwrap_or_default();
            let lines: Vec<_> = log.lines().rev().take(8).collect();
            lines.into_iter().rev().collect::<Vec<_>>().join("\n")
        });
        logs.collect::<Vec<_>>().join("\n--\n")
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.kill_primary();
        self.kill_standby();
    }
}

/// A running server.
struct ServerProcess {
    data: PathBuf,
    port: u16,
    process: Child,
}

impl ServerProcess {
    fn kill(&mut self) {
        let children = children_of(self.process.id());
        let _ = self.process.kill();
        for child in children.into_iter().filter_map(Pid::from_raw) {
            let _ = kill_process(child, Signal::KILL);
        }
        let _ = self.process.wait();
        let _ = fs::remove_file(self.data.join("postmaster.pid"));
    }
}

/// The programs of the package, and the user who runs them.
struct Programs {
    directory: PathBuf,
    /// Servers refuse to run as root; `None` where this process does not.
    user: Option<(u32, u32)>,
}

impl Programs {
    /// Finds the programs of the newest PostgreSQL that is installed.
    fn find() -> Result<Programs, String> {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let installed = versions.filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            let directory = entry.path().join("bin");
            directory.join("initdb").exists().then_some((version, directory))
        });
        let (_, directory) =
            installed.max().ok_or("no PostgreSQL server is installed (Debian: postgresql)")?;
        Ok(Programs { directory, user: unprivileged_user()? })
    }

    /// A new directory of the servers' user.
    fn directory_in(&self, below: &Path) -> Result<TempDir, String> {
        let directory = tempfile::Builder::new().prefix("wabahook-").tempdir_in(below);
        let directory = directory.map_err(|error| format!("{}: {error}", below.display()))?;
        self.own(directory.path())?;
        Ok(directory)
    }

    /// Configures a server and starts it.
    fn launch(&self, data: PathBuf, port: u16, more: &str) -> Result<ServerProcess, String> {
        let sockets = data.parent().unwrap_or(&data).display();
        let lines = format!(
            "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{sockets}'\n\
             fsync = on\nfull_page_writes = on\nshared_buffers = '32MB'\nmax_connections = 200\n\
             wal_sender_timeout = '5s'\nwal_keep_size = '256MB'\nmax_wal_size = '512MB'\n{more}"
        );
        let file = fs::OpenOptions::new().append(true).open(data.join("postgresql.conf"));
        let written = file.and_then(|mut file| file.write_all(lines.as_bytes()));
        written.map_err(|error| format!("postgresql.conf: {error}"))?;
        let process = self.spawn(&data)?;
        Ok(ServerProcess { data, port, process })
    }

    fn spawn(&self, data: &Path) -> Result<Child, String> {
        let log = fs::OpenOptions::new().create(true).append(true).open(log_of(data));
        let log = log.map_err(|error| error.to_string())?;
        let mut server = self.command("postgres");
        server.arg("-D").arg(data).stdout(Stdio::null()).stderr(log);
        server.spawn().map_err(|error| format!("postgres: {error}"))
    }

    /// Runs a program to its end.
    fn run(
        &self,
        name: &str,
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Output, String> {
        let output = self.command(name).args(arguments).output();
        let output = output.map_err(|error| format!("{name}: {error}"))?;
        match output.status.success() {
            true => Ok(output),
            false => Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr))),
        }
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.directory.join(name));
        command.stdin(Stdio::null()).current_dir("/").env("LC_ALL", "C");
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn write(&self, path: &Path, content: &str) -> Result<(), String> {
        fs::write(path, content).map_err(|error| format!("{}: {error}", path.display()))?;
        self.own(path)
    }

    fn own(&self, path: &Path) -> Result<(), String> {
        let Some((uid, gid)) = self.user else { return Ok(()) };
        chown(path, Some(uid), Some(gid)).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// The user that runs the servers if this process runs as root.
fn unprivileged_user() -> Result<Option<(u32, u32)>, String> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").map_err(|error| error.to_string())?;
    let found = ["postgres", "nobody"].iter().find_map(|name| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    found.map(Some).ok_or_else(|| "there is no user postgres or nobody to run the servers".into())
}

/// The processes that a process started.
fn children_of(parent: u32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let found = processes.filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let after_name = stat.rsplit_once(')')?.1;
        let found: u32 = after_name.split_whitespace().nth(1)?.parse().ok()?;
        (found == parent).then_some(pid)
    });
    found.collect()
}

fn free_port() -> Result<u16, String> {
    let bound = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    bound.map(|address| address.port()).map_err(|error| format!("no free port: {error}"))
}

fn log_of(data: &Path) -> PathBuf {
    data.with_extension("log")
}
