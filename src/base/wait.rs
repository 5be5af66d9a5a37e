//! One thread, one place to wait: sockets, queues and a deadline at once.
//!
//! A [`Waiter`] belongs to one thread, which names the sockets it waits for at each call. Whoever holds its
//! [`Waker`] (a queue, a [`StopToken`](super::stop::StopToken)) can end the sleep. So a thread sleeps until there
//! is something to do: no short read time-outs, no second thread that only pumps a socket.
//!
//! Built on `poll(2)` and an eventfd: level-triggered, so that a loop which leaves bytes in a socket is called again.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

#[derive(Debug)]
struct Bell {
    fd: OwnedFd,
    /// Rung since the last sleep: a second ring need not enter the kernel.
    rung: AtomicBool,
}

/// The sleeping side: one a thread.
#[derive(Debug)]
pub struct Waiter {
    bell: Arc<Bell>,
}

/// Ends the sleep of one [`Waiter`]; cheap to clone, harmless when the waiter is gone or awake.
#[derive(Clone, Debug)]
pub struct Waker(Weak<Bell>);

/// What to wait for on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Bytes, a connection, or the end of the stream.
    Read,
    /// Room to write (an error counts as room: the write then tells it).
    Write,
    /// Either.
    Both,
}

/// Which of the sockets given to [`Waiter::wait`] are ready, by position, and whether somebody rang.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Bit n: socket n has something to read, or ended.
    pub readable: u32,
    /// Bit n: socket n has room to write, or failed.
    pub writable: u32,
    /// A [`Waker`] was used since the last wait.
    pub woken: bool,
}

/// Most sockets that one [`Waiter::wait`] can watch; no thread here has more than a handful.
pub const SOCKETS_MAX: usize = 32;

impl Waiter {
    /// A waiter with its own bell.
    ///
    /// # Errors
    /// When the process is out of file descriptors.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { bell: Arc::new(Bell { fd, rung: AtomicBool::new(false) }) })
    }

    /// A handle that ends this waiter's sleep from any thread.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker(Arc::downgrade(&self.bell))
    }

    /// Sleeps until a socket is ready, a [`Waker`] is used, or `timeout` passed (`None`: no limit).
    ///
    /// A ring that came before the call ends it at once: nothing is lost between looking at a queue and sleeping.
    ///
    /// # Errors
    /// When the system call fails, or more than [`SOCKETS_MAX`] sockets are given.
    pub fn wait(
        &mut self,
        sockets: &[(BorrowedFd<'_>, Interest)],
        timeout: Option<Duration>,
    ) -> io::Result<Ready> {
        if sockets.len() > SOCKETS_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut fds = Vec::with_capacity(sockets.len() + 1);
        fds.push(PollFd::new(&self.bell.fd, PollFlags::IN));
        for (socket, interest) in sockets {
            let flags = match interest {
                Interest::Read => PollFlags::IN,
                Interest::Write => PollFlags::OUT,
                Interest::Both => PollFlags::IN | PollFlags::OUT,
            };
            fds.push(PollFd::new(socket, flags));
        }
        let timeout = timeout.map(|t| Timespec {
            tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: t.subsec_nanos().into(),
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Ready::default()),
            Err(error) => return Err(error.into()),
        }
        let mut ready = Ready::default();
        for (position, fd) in fds.iter().enumerate() {
            let got = fd.revents();
            if position == 0 {
                if got.contains(PollFlags::IN) {
                    // Empty the bell before `rung` is cleared: a ring in between is kept by the flag's order.
                    let mut count = [0_u8; 8];
                    let _ = rustix::io::read(&self.bell.fd, &mut count);
                    self.bell.rung.store(false, Ordering::SeqCst);
                    ready.woken = true;
                }
                continue;
            }
            let bit = 1_u32 << (position - 1);
            let failed = got.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL);
            if got.contains(PollFlags::IN) || failed {
                ready.readable |= bit;
            }
            if got.contains(PollFlags::OUT) || failed {
                ready.writable |= bit;
            }
        }
        Ok(ready)
    }

    /// [`Waiter::wait`] up to a moment; `now` is the caller's clock.
    ///
    /// # Errors
    /// As [`Waiter::wait`].
    pub fn wait_until(
        &mut self,
        sockets: &[(BorrowedFd<'_>, Interest)],
        now: Instant,
        deadline: Option<Instant>,
    ) -> io::Result<Ready> {
        self.wait(sockets, deadline.map(|at| at.saturating_duration_since(now)))
    }
}

/// Whether a non-blocking socket says that its connection has begun (`connect(2)`: EINPROGRESS): it has room to write when it
/// is there, or failed.
#[must_use]
pub fn is_under_way(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error())
}

impl Waker {
    /// Ends the waiter's sleep, or its next one if it is awake.
    pub fn wake(&self) {
        let Some(bell) = self.0.upgrade() else { return };
        if !bell.rung.swap(true, Ordering::SeqCst) {
            // The counter cannot overflow: it is written at most once between two reads.
            let _ = rustix::io::write(&bell.fd, &1_u64.to_ne_bytes());
        }
    }

    /// Whether the waiter still exists.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_ring_before_the_wait_is_not_lost_and_rings_only_once() {
        let mut waiter = Waiter::new().unwrap();
        let waker = waiter.waker();
        waker.wake();
        waker.wake();
        assert!(waiter.wait(&[], None).unwrap().woken);
        assert!(!waiter.wait(&[], Some(Duration::ZERO)).unwrap().woken);
        waker.wake();
        assert!(waiter.wait(&[], None).unwrap().woken, "a second ring after the first was heard");
        drop(waiter);
        assert!(!waker.is_alive());
        waker.wake();
    }

    #[test]
    fn a_readable_socket_ends_the_wait_and_is_told_by_position() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.write_all(b"x").unwrap();
        let mut waiter = Waiter::new().unwrap();
        let sockets = [(listener.as_fd(), Interest::Read), (server.as_fd(), Interest::Read)];
        let ready = waiter.wait(&sockets, None).unwrap();
        assert_eq!((ready.readable, ready.woken), (0b10, false));
    }
}
