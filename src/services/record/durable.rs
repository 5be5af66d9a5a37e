//! Recordings forced onto the disk about once a second, by a thread of their own: neither a stream nor its recorder waits for it.
//!
//! What a kill of the process may cost is told by how often fragments are written; what a power failure may cost, by this. A disk
//! that is behind makes it more; one that fails ends the recording.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};
use rustix::fs::{fdatasync, fsync};

use crate::base::clock::Clock;
use crate::base::stop::StopToken;
use crate::base::threads::{STACK_PROTOCOL_BYTES, Thread, spawn};

/// Files that wait to be forced onto the disk, each once. When full, a file waits until its recorder asks again.
const WAITING_MAX: usize = 256;
/// So long, and the operator is told that the disk is behind.
const SLOW: Duration = Duration::from_secs(5);

/// A file that is to survive a power failure.
#[derive(Debug)]
pub(super) struct Durable {
    file: File,
    /// The folder that names it, until that is on the disk.
    folder: OwnedFd,
    is_named: AtomicBool,
    is_waiting: AtomicBool,
    failure: OnceLock<String>,
}

impl Durable {
    /// A new file, in this folder.
    pub(super) fn new(file: File, folder: OwnedFd) -> Arc<Self> {
        let (is_named, is_waiting) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { file, folder, is_named, is_waiting, failure: OnceLock::new() })
    }

    /// Why the disk did not take it, if it did not.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    fn force(&self) -> io::Result<()> {
        // What comes from here on asks anew.
        self.is_waiting.store(false, Ordering::Release);
        fdatasync(&self.file)?;
        if !self.is_named.load(Ordering::Relaxed) {
            fsync(&self.folder)?;
            self.is_named.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Asks for files to be forced onto the disk; clones share the thread.
#[derive(Clone, Debug)]
pub(super) struct Disk(Sender<Arc<Durable>>);

impl Disk {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system refuses it.
    pub(super) fn start(clock: Clock, stop: StopToken) -> io::Result<(Self, Thread)> {
        let (asked, waiting) = bounded(WAITING_MAX);
        let thread = spawn("record-sync", STACK_PROTOCOL_BYTES, move || run(&waiting, &clock, &stop))?;
        Ok((Self(asked), thread))
    }

    /// Asks for a file; one that waits already is not asked for twice.
    pub(super) fn ask(&self, durable: &Arc<Durable>) {
        let waits = durable.is_waiting.swap(true, Ordering::AcqRel);
        if !waits && self.0.try_send(durable.clone()).is_err() {
            durable.is_waiting.store(false, Ordering::Release);
        }
    }
}

fn run(waiting: &Receiver<Arc<Durable>>, clock: &Clock, stop: &StopToken) {
    loop {
        let durable = select! {
            recv(waiting) -> durable => durable,
            recv(stop.channel()) -> _ => return,
        };
        let Ok(durable) = durable else { return };
        let begun = clock.now();
        if let Err(error) = durable.force() {
            let _ = durable.failure.set(error.to_string());
        }
        let took = clock.now().saturating_duration_since(begun);
        if took > SLOW {
            tracing::warn!("the disk of recordings took {:.1} s for one of them", took.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::base::stop::StopSource;

    const LIMIT: Duration = Duration::from_secs(20);

    fn folder() -> OwnedFd {
        File::open(std::env::temp_dir()).unwrap().into()
    }

    fn until(what: &str, holds: impl Fn() -> bool) {
        let clock = Clock::real();
        let end = clock.now() + LIMIT;
        while !holds() {
            assert!(clock.now() < end, "{what}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_file_is_forced_onto_the_disk_with_its_name_and_what_cannot_be_is_told() {
        let stop = StopSource::new();
        let (disk, thread) = Disk::start(Clock::real(), stop.token()).unwrap();
        let good = Durable::new(tempfile::tempfile().unwrap(), folder());
        disk.ask(&good);
        until("it is named", || good.is_named.load(Ordering::Relaxed));
        assert!(good.failure().is_none() && !good.is_waiting.load(Ordering::Relaxed));
        // A pipe is no disk: the system refuses, as it does when a disk fails.
        let (_end, pipe) = io::pipe().unwrap();
        let bad = Durable::new(File::from(OwnedFd::from(pipe)), folder());
        disk.ask(&bad);
        until("it is told", || bad.failure().is_some());
        drop(stop);
        assert!(thread.join(LIMIT));
    }

    #[test]
    fn a_file_waits_once_and_a_full_queue_leaves_it_to_ask_again() {
        let (asked, waiting) = bounded(1);
        let disk = Disk(asked);
        let durables: Vec<_> =
            (0..2).map(|_| Durable::new(tempfile::tempfile().unwrap(), folder())).collect();
        disk.ask(&durables[0]);
        disk.ask(&durables[0]);
        assert_eq!(waiting.len(), 1);
        disk.ask(&durables[1]);
        assert!(!durables[1].is_waiting.load(Ordering::Relaxed), "there was no room");
        waiting.try_recv().unwrap().force().unwrap();
        disk.ask(&durables[1]);
        assert!(Arc::ptr_eq(&waiting.try_recv().unwrap(), &durables[1]));
    }
}
