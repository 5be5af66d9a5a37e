//! Threads with a name, a caught panic and a join that does not wait for ever.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};

/// Stack of a thread that runs protocol code: small, as there may be thousands.
pub const STACK_PROTOCOL_BYTES: usize = 512 * 1024;
/// Stack of a thread that decodes or encodes pictures through C libraries.
pub const STACK_CODEC_BYTES: usize = 2 * 1024 * 1024;

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Panics caught in threads since the process began. Each is a bug.
#[must_use]
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// A running thread. Dropping the handle lets the thread run on.
#[derive(Debug)]
pub struct Thread {
    name: String,
    handle: JoinHandle<()>,
    ended: Receiver<()>,
}

/// Starts a named thread. A panic inside is logged and counted, and ends only this thread: its guards fall as usual.
///
/// # Errors
/// When the system refuses a thread; `body` is then dropped, so that what it owns is released.
#[allow(clippy::disallowed_methods, reason = "the one place that spawns")]
pub fn spawn(
    name: impl Into<String>,
    stack_bytes: usize,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<Thread> {
    let name = name.into();
    let (alive, ended) = bounded::<()>(0);
    let in_thread = name.clone();
    let handle = std::thread::Builder::new().name(name.clone()).stack_size(stack_bytes).spawn(move || {
        let _alive = alive;
        let _ = caught(&in_thread, body);
    })?;
    Ok(Thread { name, handle, ended })
}

/// Runs `body`; a panic inside is logged under this name and counted, and gives `None`.
pub fn caught<T>(name: &str, body: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(value) => Some(value),
        Err(panic) => {
            PANICS.fetch_add(1, Ordering::Relaxed);
            tracing::error!(thread = name, "panicked: {}", panic_text(panic.as_ref()));
            None
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

impl Thread {
    /// Whether the thread has ended.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.handle.is_finished()
    }

    /// Waits up to `limit`; returns whether the thread ended. One that did not is logged by name and left behind.
    pub fn join(self, limit: Duration) -> bool {
        // The sender is dropped when the body is over, which disconnects the channel.
        if matches!(self.ended.recv_timeout(limit), Err(crossbeam_channel::RecvTimeoutError::Timeout)) {
            tracing::error!(thread = self.name, "thread did not end in {limit:?}");
            return false;
        }
        let _ = self.handle.join();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_counted_and_its_guards_fall() {
        let (guard, fallen) = bounded::<()>(0);
        let before = panics();
        let thread = spawn("test-panic", STACK_PROTOCOL_BYTES, move || {
            let _guard = guard;
            panic!("on purpose");
        })
        .unwrap();
        assert!(fallen.recv().is_err());
        assert!(thread.join(Duration::from_secs(10)));
        assert!(panics() > before);
    }

    #[test]
    fn a_join_gives_up_at_its_limit() {
        let (release, wait) = bounded::<()>(0);
        let thread = spawn("test-stuck", STACK_PROTOCOL_BYTES, move || {
            let _ = wait.recv();
        })
        .unwrap();
        assert!(!thread.join(Duration::ZERO));
        drop(release);
    }
}
