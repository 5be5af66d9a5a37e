//! A transport with deadlines: reads and writes that end in time, or when the server stops.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use crate::base::clock::Clock;
use crate::base::stop::StopToken;
use crate::base::wait::{Interest, Waiter};
use crate::edge::tls::Transport;

/// How long an answer under way may still take once the server stops.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// Bytes taken from the socket at once.
const READ_BYTES: usize = 8 * 1024;

/// A connection as its thread sees it: what has come and is not used yet, and one place to sleep.
pub(super) struct Line {
    transport: Transport,
    waiter: Waiter,
    clock: Clock,
    stop: StopToken,
    /// Read and not used yet.
    pub(super) buffer: Vec<u8>,
}

/// Why nothing more was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadEnd {
    /// The other end closed, or the connection broke.
    Closed,
    /// The deadline passed.
    Late,
    /// The server stops.
    Stopping,
}

impl Line {
    pub(super) fn new(transport: Transport, clock: Clock, stop: StopToken) -> io::Result<Self> {
        transport.socket().set_nonblocking(true)?;
        let waiter = Waiter::new()?;
        stop.wakes(&waiter.waker());
        Ok(Self { transport, waiter, clock, stop, buffer: Vec::new() })
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stop.is_set()
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Adds at least one byte to the buffer.
    pub(super) fn read_more(&mut self, deadline: Instant) -> Result<(), ReadEnd> {
        let mut piece = [0; READ_BYTES];
        loop {
            // Looked at before each read: bytes that come without end must not keep the deadline from being heard.
            if self.stop.is_set() {
                return Err(ReadEnd::Stopping);
            }
            let now = self.clock.now();
            if now >= deadline {
                return Err(ReadEnd::Late);
            }
            match self.transport.read(&mut piece) {
                Ok(0) => return Err(ReadEnd::Closed),
                Ok(length) => {
                    self.buffer.extend_from_slice(piece.get(..length).unwrap_or_default());
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let interest = if self.transport.wants_write() { Interest::Both } else { Interest::Read };
                    self.wait(interest, now, deadline).map_err(|_| ReadEnd::Closed)?;
                }
                Err(_) => return Err(ReadEnd::Closed),
            }
        }
    }

    /// Writes everything, unless the client takes nothing for `stall` or the whole lasts longer than `deadline`.
    pub(super) fn write_all(
        &mut self,
        mut bytes: &[u8],
        stall: Duration,
        deadline: Instant,
    ) -> io::Result<()> {
        let mut moved_at = self.clock.now();
        let mut stopping_since: Option<Instant> = None;
        let mut flushed = false;
        while !bytes.is_empty() || !flushed {
            let step = if bytes.is_empty() {
                self.transport.flush().map(|()| 0)
            } else {
                self.transport.write(bytes)
            };
            let now = self.clock.now();
            let mut limit = deadline.min(moved_at + stall);
            if self.stop.is_set() {
                limit = limit.min(*stopping_since.get_or_insert(now) + STOP_GRACE);
            }
            match step {
                Ok(0) if bytes.is_empty() => flushed = true,
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => {
                    bytes = bytes.get(length..).unwrap_or_default();
                    moved_at = now;
                    if now >= deadline {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if now >= limit {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    self.wait(Interest::Write, now, limit)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Closes in a way that lets the client read the last answer: a socket closed with unread bytes in it resets the
    /// connection, and the reset may overtake the answer (RFC 9112 section 9.6).
    pub(super) fn close_gently(mut self, patience: Duration, bytes_max: usize) {
        self.transport.close();
        let deadline = self.clock.now() + patience;
        let mut left = bytes_max;
        while left > 0 {
            self.buffer.clear();
            if self.read_more(deadline).is_err() {
                return;
            }
            left = left.saturating_sub(self.buffer.len());
        }
    }

    fn wait(&mut self, interest: Interest, now: Instant, deadline: Instant) -> io::Result<()> {
        self.waiter.wait_until(&[(self.transport.as_fd(), interest)], now, Some(deadline)).map(|_| ())
    }
}
