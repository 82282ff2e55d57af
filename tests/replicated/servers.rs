//! A primary and its synchronous standby from Debian's package, on loopback, in a directory of their own. Nothing of
//! them is turned off that makes a commit durable.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(60);

/// The servers, and who runs them.
pub struct Servers {
    programs: PathBuf,
    user: Option<(u32, u32)>,
    root: tempfile::TempDir,
    primary: Server,
    standby: Option<Server>,
    made: u32,
}

struct Server {
    directory: PathBuf,
    port: u16,
    process: Child,
}

impl Servers {
    /// Starts both in a temporary directory, or says why that is not possible here.
    pub fn start() -> Result<Servers, String> {
        Servers::start_in(&std::env::temp_dir())
    }

    /// Starts both in a directory of their own below another one, which every user must be able to enter.
    pub fn start_in(below: &Path) -> Result<Servers, String> {
        let programs =
            programs().ok_or("no PostgreSQL server is installed (Debian: postgresql)")?;
        let user = unprivileged_user()?;
        let root = tempfile::tempdir_in(below).map_err(|error| error.to_string())?;
        if let Some((uid, gid)) = user {
            chown(root.path(), Some(uid), Some(gid)).map_err(|error| error.to_string())?;
        }
        let directory = root.path().join("server-0");
        let port = free_port();
        let arguments = ["-D", text(&directory), "-A", "trust", "-U", "postgres", "--no-sync"];
        run(user, &programs.join("initdb"), &arguments)?;
        configure(&directory, port, root.path())?;
        let process = launch(user, &programs, &directory)?;
        let primary = Server { directory, port, process };
        let mut servers = Servers { programs, user, root, primary, standby: None, made: 1 };
        servers.wait_for("SELECT 1", "1")?;
        servers.add_standby()?;
        Ok(servers)
    }

    /// How clients reach whichever server takes writes.
    pub fn connection(&self) -> String {
        let standby = self.standby.as_ref().map_or(self.primary.port, |standby| standby.port);
        let (primary, user) = (self.primary.port, "user=postgres dbname=postgres sslmode=disable");
        format!("host=127.0.0.1,127.0.0.1 port={primary},{standby} {user}")
    }

    /// The port of the server that takes writes.
    pub fn primary_port(&self) -> u16 {
        self.primary.port
    }

    /// Makes a standby of the primary, and lets the primary wait for it at each commit.
    pub fn add_standby(&mut self) -> Result<(), String> {
        let directory = self.root.path().join(format!("server-{}", self.made));
        self.made += 1;
        let (port, from) = (free_port(), self.primary.port.to_string());
        let copy = ["-D", text(&directory), "-h", "127.0.0.1", "-p", &from, "-U", "postgres"];
        let copy = [&copy[..], &["-X", "stream", "-c", "fast", "--no-sync"]].concat();
        run(self.user, &self.programs.join("pg_basebackup"), &copy)?;
        configure(&directory, port, self.root.path())?;
        let link = format!("host=127.0.0.1 port={from} user=postgres application_name=standby");
        append(
            &directory,
            &format!("primary_conninfo = '{link}'\nsynchronous_standby_names = ''\n"),
        )?;
        let _ = fs::remove_file(directory.join("postgresql.auto.conf"));
        fs::write(directory.join("standby.signal"), "").map_err(|error| error.to_string())?;
        self.own(&directory.join("standby.signal"))?;
        let process = launch(self.user, &self.programs, &directory)?;
        self.standby = Some(Server { directory, port, process });
        let replicated = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
        self.wait_for(replicated, "1")?;
        self.query("ALTER SYSTEM SET synchronous_standby_names = 'standby'")?;
        self.query("SELECT pg_reload_conf()")?;
        self.wait_for("SELECT sync_state FROM pg_stat_replication", "sync")
    }

    /// Kills every process of the primary.
    pub fn kill_primary(&mut self) {
        self.primary.kill();
    }

    /// Kills every process of the standby.
    pub fn kill_standby(&mut self) {
        self.standby.as_mut().unwrap().kill();
    }

    /// Starts the standby again.
    pub fn restart_standby(&mut self) -> Result<(), String> {
        let standby = self.standby.as_mut().unwrap();
        standby.process = launch(self.user, &self.programs, &standby.directory)?;
        Ok(())
    }

    /// Makes the standby the primary. It has no standby then.
    pub fn promote(&mut self) -> Result<(), String> {
        self.primary = self.standby.take().ok_or("there is no standby")?;
        let directory = self.primary.directory.clone();
        let promote = ["promote", "-w", "-s", "-D", text(&directory)];
        run(self.user, &self.programs.join("pg_ctl"), &promote)
    }

    /// Runs a query on the primary and returns the first column of the first row.
    pub fn query(&self, query: &str) -> Result<String, String> {
        let port = self.primary.port.to_string();
        let mut command = command(self.user, &self.programs.join("psql"));
        command.args([
            "-X",
            "-A",
            "-t",
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-U",
            "postgres",
            "-c",
            query,
        ]);
        let output = command.output().map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Waits until a query returns this.
    pub fn wait_for(&self, query: &str, expected: &str) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.query(query);
            if found.as_deref() == Ok(expected) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{query}: {found:?}\n{}", self.logs()));
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn logs(&self) -> String {
        let servers = [Some(&self.primary), self.standby.as_ref()];
        let logs = servers.into_iter().flatten().map(|server| {
            let log = fs::read_to_string(log_of(&server.directory)).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            lines[lines.len().saturating_sub(8)..].join("\n")
        });
        logs.collect::<Vec<_>>().join("\n--\n")
    }

    fn own(&self, path: &Path) -> Result<(), String> {
        match self.user {
            Some((uid, gid)) => {
                chown(path, Some(uid), Some(gid)).map_err(|error| error.to_string())
            }
            None => Ok(()),
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.primary.kill();
        if let Some(standby) = &mut self.standby {
            standby.kill();
        }
    }
}

impl Server {
    fn kill(&mut self) {
        let parent = self.process.id();
        let children = children_of(parent);
        let _ = self.process.kill();
        for child in children {
            if let Some(pid) = Pid::from_raw(child) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = self.process.wait();
        let _ = fs::remove_file(self.directory.join("postmaster.pid"));
    }
}

/// The processes that a process started.
fn children_of(parent: u32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let found = processes.filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let after_name = stat.rsplit_once(')')?.1;
        let found: u32 = after_name.split_whitespace().nth(1)?.parse().ok()?;
        (found == parent).then_some(pid)
    });
    found.collect()
}

/// The directory of the newest server that is installed.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let programs = versions.filter_map(|entry| {
        let version: u32 = entry.file_name().to_str()?.parse().ok()?;
        let programs = entry.path().join("bin");
        programs.join("initdb").exists().then_some((version, programs))
    });
    programs.max().map(|(_, programs)| programs)
}

/// Who runs the servers, which refuse to run as root; `None` if that is who runs the test.
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
    found
        .map(Some)
        .ok_or_else(|| "there is no user postgres or nobody to run the servers".to_owned())
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn configure(directory: &Path, port: u16, sockets: &Path) -> Result<(), String> {
    let sockets = sockets.display();
    append(
        directory,
        &format!(
            "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{sockets}'\n\
             fsync = on\nfull_page_writes = on\nshared_buffers = '32MB'\nmax_connections = 60\n\
             wal_sender_timeout = '5s'\nwal_keep_size = '256MB'\nmax_wal_size = '512MB'\n"
        ),
    )
}

fn append(directory: &Path, lines: &str) -> Result<(), String> {
    let file = fs::OpenOptions::new().append(true).open(directory.join("postgresql.conf"));
    let written = file.and_then(|mut file| file.write_all(lines.as_bytes()));
    written.map_err(|error| format!("postgresql.conf: {error}"))
}

fn log_of(directory: &Path) -> PathBuf {
    directory.with_extension("log")
}

fn launch(user: Option<(u32, u32)>, programs: &Path, directory: &Path) -> Result<Child, String> {
    let log = fs::OpenOptions::new().create(true).append(true).open(log_of(directory));
    let log = log.map_err(|error| error.to_string())?;
    let mut command = command(user, &programs.join("postgres"));
    command.arg("-D").arg(directory).stdout(Stdio::null()).stderr(log);
    command.spawn().map_err(|error| format!("postgres: {error}"))
}

fn command(user: Option<(u32, u32)>, program: &Path) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).current_dir("/").env("LC_ALL", "C");
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}

fn run<A: AsRef<OsStr>>(
    user: Option<(u32, u32)>,
    program: &Path,
    arguments: &[A],
) -> Result<(), String> {
    let output = command(user, program).args(arguments).output();
    let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(format!("{}: {said}", program.display()))
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
