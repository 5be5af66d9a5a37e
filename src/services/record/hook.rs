//! The operator's program that is run after each recording: name of the stream and path of the file are its arguments, and no
//! shell ever sees them.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::base::clock::Clock;
use crate::base::queue::{Offer, queue};
use crate::base::stop::StopToken;
use crate::base::threads::{STACK_PROTOCOL_BYTES, Thread, spawn};

/// Runs at once.
const RUNNING_MAX: usize = 4;
/// Files that wait for a run. When full, a file's run is left out, which is logged.
const WAITING_MAX: usize = 256;
/// From one look at running programs to the next.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A file to run the program for.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) stream: String,
    pub(super) path: PathBuf,
}

/// Hands files to the thread that runs programs.
#[derive(Clone, Debug)]
pub(super) struct Hook(Option<Offer<Run>>);

struct Running {
    child: Child,
    until: Instant,
    path: PathBuf,
}

impl Hook {
    /// Starts the thread, when there is a program. Each of its runs may last up to `limit`.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(super) fn start(
        script: Option<PathBuf>,
        limit: Duration,
        clock: Clock,
        stop: StopToken,
    ) -> std::io::Result<(Self, Option<Thread>)> {
        let Some(script) = script else { return Ok((Self(None), None)) };
        let (offer, runs) = queue(WAITING_MAX, None);
        let body = move || run(&script, limit, &clock, &stop, &runs);
        let thread = spawn("record-hook", STACK_PROTOCOL_BYTES, body)?;
        Ok((Self(Some(offer)), Some(thread)))
    }

    /// The file is complete.
    pub(super) fn run(&self, run: Run) {
        if let Some(offer) = &self.0
            && let Err(refused) = offer.offer(run)
        {
            let (crate::base::queue::Refused::Full(run) | crate::base::queue::Refused::Closed(run)) = refused;
            tracing::error!("on_record_hook_script is not run for {}: too many wait", run.path.display());
        }
    }
}

fn run(script: &std::path::Path, limit: Duration, clock: &Clock, stop: &StopToken, runs: &Receiver<Run>) {
    let mut running: Vec<Running> = Vec::new();
    loop {
        running.retain_mut(|one| one.look(clock.now()));
        let next = match (running.len(), stop.is_set()) {
            // What is complete when the server stops is still told of.
            (_, true) if runs.is_empty() && running.is_empty() => return,
            (RUNNING_MAX.., _) => {
                let _ = crossbeam_channel::after(LOOK_INTERVAL).recv();
                continue;
            }
            (0, false) => runs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            _ => runs.recv_timeout(LOOK_INTERVAL),
        };
        match next {
            Ok(run) => match start(script, &run) {
                Ok(child) => running.push(Running { child, until: clock.now() + limit, path: run.path }),
                Err(error) => {
                    tracing::error!("on_record_hook_script {} cannot be run: {error}", script.display());
                }
            },
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) if running.is_empty() => return,
            Err(RecvTimeoutError::Disconnected) => {
                let _ = crossbeam_channel::after(LOOK_INTERVAL).recv();
            }
        }
    }
}

fn start(script: &std::path::Path, run: &Run) -> std::io::Result<Child> {
    Command::new(script)
        .arg(&run.stream)
        .arg(&run.path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

impl Running {
    /// Whether it goes on.
    fn look(&mut self, now: Instant) -> bool {
        match self.child.try_wait() {
            Ok(None) if now < self.until => true,
            Ok(None) => {
                tracing::error!(
                    "on_record_hook_script takes too long for {} and is killed",
                    self.path.display()
                );
                let _ = self.child.kill();
                let _ = self.child.wait();
                false
            }
            Ok(Some(status)) => {
                if !status.success() {
                    tracing::warn!("on_record_hook_script for {}: {status}", self.path.display());
                }
                false
            }
            Err(error) => {
                tracing::error!("on_record_hook_script: {error}");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::base::stop::StopSource;

    #[test]
    fn arguments_are_given_as_they_are_and_a_program_that_hangs_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("hook");
        let out = folder.path().join("out");
        let text = format!(
            "#!/bin/sh\nprintf '%s|%s\\n' \"$1\" \"$2\" >> '{}'\n[ \"$1\" != hang ] || exec sleep 100\n",
            out.display()
        );
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut stop = StopSource::new();
        let limit = Duration::from_secs(2);
        let (hook, thread) = Hook::start(Some(script), limit, Clock::real(), stop.token()).unwrap();
        hook.run(Run { stream: "hang".into(), path: "/a".into() });
        hook.run(Run { stream: "$(touch x); `id` \"'".into(), path: "/b c.mp4".into() });
        stop.set();
        drop(hook);
        assert!(thread.unwrap().join(Duration::from_secs(20)), "it was not killed");
        let mut lines: Vec<_> = std::fs::read_to_string(out).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        assert_eq!(lines, ["$(touch x); `id` \"'|/b c.mp4", "hang|/a"]);
    }
}
