//! A PostgreSQL server of the test's own, which it may restart.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::fleet::signal;

pub(crate) struct Server {
    programs: PathBuf,
    directory: tempfile::TempDir,
    port: u16,
    /// PostgreSQL refuses to run as root.
    user: Option<(u32, u32)>,
    child: Child,
}

impl Server {
    pub(crate) fn start() -> Self {
        let programs = programs();
        let directory = tempfile::tempdir().unwrap();
        let is_root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
        let user = is_root.then(server_user);
        if let Some((user, group)) = user {
            chown(directory.path(), Some(user), Some(group)).unwrap();
        }
        let data = directory.path().join("data");
        let made = command(&programs.join("initdb"), user, directory.path())
            .args([
                "--auth=trust",
                "--username=larder",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                "-D",
            ])
            .arg(&data)
            .status()
            .unwrap();
        assert!(made.success(), "initdb failed");
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let child = run(&programs, &directory, port, user);
        let server = Self {
            programs,
            directory,
            port,
            user,
            child,
        };
        server.wait_until_ready();
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://larder@127.0.0.1:{}/postgres", self.port)
    }

    /// Stops it in the immediate mode, as a crash does, and starts it again.
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.child = run(&self.programs, &self.directory, self.port, self.user);
        self.wait_until_ready();
    }

    fn stop(&mut self) {
        signal("QUIT", self.child.id());
        self.child.wait().unwrap();
    }

    fn wait_until_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let is_ready = || {
            let pid = fs::read_to_string(self.directory.path().join("data/postmaster.pid"));
            // Its last line, once it is there, says how the server is.
            pid.is_ok_and(|text| {
                text.lines()
                    .nth(7)
                    .is_some_and(|line| line.trim() == "ready")
            })
        };
        while !is_ready() {
            assert!(Instant::now() < deadline, "PostgreSQL does not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(
    programs: &Path,
    directory: &tempfile::TempDir,
    port: u16,
    user: Option<(u32, u32)>,
) -> Child {
    let setting = |name: &str, value: &str| ["-c".to_owned(), format!("{name}={value}")];
    command(&programs.join("postgres"), user, directory.path())
        .arg("-D")
        .arg(directory.path().join("data"))
        .args(["-p", &port.to_string()])
        .args(setting("listen_addresses", "127.0.0.1"))
        .args(setting("unix_socket_directories", ""))
        // The machine itself does not crash: what the server has written, it finds again.
        .args(setting("fsync", "off"))
        .args(setting("max_connections", "200"))
        .spawn()
        .unwrap()
}

fn command(program: &Path, user: Option<(u32, u32)>, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(directory)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Some((user, group)) = user {
        command.uid(user).gid(group);
    }
    command
}

/// The user and group of `postgres`, or of `nobody`.
fn server_user() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let of = |name: &str| {
        let line = users
            .lines()
            .find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    of("postgres")
        .or_else(|| of("nobody"))
        .expect("there is a user to run PostgreSQL as")
}

/// The folder of the newest initdb and postgres.
fn programs() -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for entry in fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
    {
        let version = entry.file_name().to_string_lossy().parse().unwrap_or(0);
        found.push((version, entry.path().join("bin")));
    }
    found.retain(|(_, programs)| programs.join("initdb").exists());
    found.sort();
    if let Some((_, programs)) = found.pop() {
        return programs;
    }
    let said = Command::new("pg_config").arg("--bindir").output();
    let said = said.expect(
        "PostgreSQL's server programs are not there: run tests/run.sh, which installs them",
    );
    PathBuf::from(String::from_utf8(said.stdout).unwrap().trim())
}
