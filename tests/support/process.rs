//! The server as a process of its own.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use stillcast::base::clock::Clock;
use stillcast::base::threads::{STACK_PROTOCOL_BYTES, spawn};
use tempfile::TempDir;

use super::server::settings_in;

/// How long a test waits for what should take a moment.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What a finished process left.
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The program with these arguments, in `folder`, without variables of ours.
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stillcast"));
    command.current_dir(folder).args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("STILLCAST_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs the program to its end; one that does not end fails the test.
pub fn run(command: &mut Command) -> Finished {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdout = collect("test-stdout", child.stdout.take().unwrap());
    let stderr = collect("test-stderr", child.stderr.take().unwrap());
    // The pipes close when the process is gone.
    let Ok(stdout) = stdout.recv_timeout(PATIENCE) else {
        let _ = child.kill();
        panic!("the process does not end: {}", stderr.recv_timeout(PATIENCE).unwrap_or_default());
    };
    let stderr = stderr.recv_timeout(PATIENCE).unwrap();
    Finished { code: child.wait().unwrap().code(), stdout, stderr }
}

/// Reads a pipe to its end on a thread of its own.
fn collect(name: &str, mut pipe: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (whole, text) = sync_channel(1);
    spawn(name, STACK_PROTOCOL_BYTES, move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        let _ = whole.send(String::from_utf8_lossy(&bytes).into_owned());
    })
    .unwrap();
    text
}

/// A server that runs; killed when dropped.
pub struct Process {
    child: Child,
    /// Its banner, all lines up to `ready`.
    pub banner: Vec<String>,
    stderr: Receiver<String>,
    _folder: TempDir,
}

impl Process {
    /// Starts it on free ports with these further arguments, and waits for `ready`.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), |command| command, arguments)
    }

    /// As [`Process::start`], with a disk of so many KiB of its own at `disk`, that nobody else sees. `None` where the system
    /// does not let us mount one.
    pub fn start_with_disk(disk: &Path, kib: u32, arguments: &[&str]) -> Option<Self> {
        let wrap = |inner: Command| {
            let mount = "mount -t tmpfs -o size=\"$0\" none \"$1\" && shift && exec \"$@\"";
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--mount", "sh", "-c", mount, &format!("{kib}k")]);
            command.arg(disk).arg(inner.get_program()).args(inner.get_args()).stdin(Stdio::null());
            if let Some(folder) = inner.get_current_dir() {
                command.current_dir(folder);
            }
            command
        };
        let mut try_it = wrap(Command::new("true"));
        let is_allowed = try_it.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        is_allowed.then(|| Self::start_in(tempfile::tempdir().unwrap(), wrap, arguments))
    }

    fn start_in(folder: TempDir, wrap: impl FnOnce(Command) -> Command, arguments: &[&str]) -> Self {
        let mut command = wrap(command(folder.path(), arguments));
        for (name, text) in settings_in(folder.path(), &[]) {
            command.arg("--set").arg(format!("{name}={text}"));
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (lines, banner_lines) = sync_channel(1000);
        let stdout = child.stdout.take().unwrap();
        spawn("test-stdout", STACK_PROTOCOL_BYTES, move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = lines.try_send(line);
            }
        })
        .unwrap();
        let stderr = collect("test-stderr", child.stderr.take().unwrap());
        let mut process = Self { child, banner: Vec::new(), stderr, _folder: folder };
        let clock = Clock::real();
        let deadline = clock.now() + PATIENCE;
        loop {
            match banner_lines.recv_timeout(deadline.saturating_duration_since(clock.now())) {
                Ok(line) if line == "ready" => return process,
                Ok(line) => process.banner.push(line),
                Err(RecvTimeoutError::Timeout) => panic!("not ready in time: {:?}", process.banner),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("ended early: {}", process.stderr.recv_timeout(PATIENCE).unwrap_or_default())
                }
            }
        }
    }

    /// The value of a line of the banner.
    pub fn value(&self, name: &str) -> &str {
        let value = self.banner.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.unwrap_or_else(|| panic!("no {name} in {:?}", self.banner))
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success(), "{kill}");
    }

    /// Waits for its end; returns how it ended, how long that took, and its log.
    pub fn wait(mut self) -> (ExitStatus, Duration, String) {
        let clock = Clock::real();
        let start = clock.now();
        // The pipe closes when the process is gone.
        let log = self.stderr.recv_timeout(PATIENCE).expect("the process does not end");
        (self.child.wait().unwrap(), clock.now() - start, log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
