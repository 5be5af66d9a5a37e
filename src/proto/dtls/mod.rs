//! DTLS (RFC 6347) for SRTP keys (RFC 5764): a machine without sockets around the `dtls` crate.
//!
//! What belongs here: the handshake, the check of the other side's certificate, the keys, the end of the association.
//! What does not: which addresses may take part (`ice`), and what the keys are for (`srtp`).
//!
//! The one thing in this floor that reads a clock is the crate's retransmission timer. It therefore sits behind the
//! trait [`Session`], and whoever drives a session during a handshake calls [`Session::handle_timeout`] at least every
//! [`TURN_INTERVAL`].

pub mod certificate;
mod engine;
pub mod record;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use certificate::{Certificate, CertificateError, Fingerprint};

use self::engine::{Engine, Progress};
use self::record::{ContentType, Sieve, records};
use crate::proto::srtp::Keys;

/// How often a session wants to be called during a handshake, because its timer runs on the machine's clock.
pub const TURN_INTERVAL: Duration = Duration::from_millis(50);
/// How often we send a flight again that was not answered. The crate does not lengthen the pause; at 20 % loss each
/// way a flight of three datagrams gets through within a few of them.
const FLIGHT_INTERVAL: Duration = Duration::from_millis(200);
/// Shortest time between two repetitions of the last flight.
const REPEAT_INTERVAL: Duration = Duration::from_millis(50);
/// Largest datagram that is looked at. Browsers keep theirs below 1500.
pub const DATAGRAM_MAX_BYTES: usize = 2048;
/// Most records that one handshake may consist of, all repetitions included: ten seconds of repetitions every 50 ms.
const HANDSHAKE_RECORDS_MAX: usize = 2000;
/// Most bytes likewise.
const HANDSHAKE_BYTES_MAX: usize = 512 * 1024;
/// Most alerts that are decrypted after the handshake; forged ones cost time.
const ALERTS_MAX: usize = 256;
/// Most datagrams that are kept of the last flight. It is one.
const LAST_FLIGHT_MAX: usize = 4;

/// Why there are no keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DtlsFailure {
    /// The certificate is missing or has none of the fingerprints of the session description.
    #[error("the certificate does not match the fingerprint")]
    Fingerprint,
    /// The handshake took too long.
    #[error("the handshake did not end in time")]
    Timeout,
    /// The two sides do not understand each other.
    #[error("the handshake failed")]
    Handshake,
    /// Neither of our SRTP profiles was negotiated.
    #[error("no common srtp profile")]
    Profile,
}

/// What comes out of a [`Session`].
#[derive(Clone, Debug)]
pub enum SessionOutput {
    /// A datagram for the other side.
    Transmit(Vec<u8>),
    /// The handshake ended and the certificate is the right one.
    Connected(Keys),
    /// The handshake failed; the session is over.
    Failed(DtlsFailure),
    /// The other side closed; the session is over.
    Closed,
    /// Nothing more; call [`Session::handle_timeout`] then, where a time is given.
    Timeout(Option<Instant>),
}

/// A key agreement over datagrams. [`Dtls`] is the real one.
pub trait Session: Send {
    /// The way to the other side is open: a client begins, and the time of the handshake runs.
    fn start(&mut self, now: Instant);
    /// Takes a datagram of the other side. Says how many parts of it were of no use.
    fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) -> usize;
    /// Does what is due.
    fn handle_timeout(&mut self, now: Instant);
    /// Says goodbye (`close_notify`) where there is an association; what is to be sent follows from
    /// [`Session::poll_output`].
    fn close(&mut self);
    /// The next output; call until it is [`SessionOutput::Timeout`].
    fn poll_output(&mut self) -> SessionOutput;
}

/// Which side opens the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Opens it: `a=setup:active`.
    Client,
    /// Waits: `a=setup:passive`.
    Server,
}

/// What a [`Dtls`] must know.
#[derive(Clone, Debug)]
pub struct DtlsSettings {
    /// Which side we are.
    pub side: Side,
    /// What we show.
    pub certificate: Arc<Certificate>,
    /// The other side must show a certificate with one of these.
    pub fingerprints: Vec<Fingerprint>,
    /// How long the handshake may take, from [`Session::start`].
    pub handshake_timeout: Duration,
}

enum State {
    /// Nothing was begun.
    Idle,
    /// The handshake goes on.
    Handshake { engine: Engine, deadline: Instant, turned: Instant, records: usize, bytes: usize },
    /// Keys were given out. The engine stays to read and write alerts; it is only turned when one comes.
    Connected { engine: Engine, last_repeat: Option<Instant>, alerts: usize },
    /// Over.
    Closed,
}

/// A DTLS 1.2 association of the `dtls` crate, with what that lacks: the certificate's check against fingerprints, a
/// deadline, the repetition of a server's last flight (RFC 6347 section 4.2.4), and a guard before its parsers.
pub struct Dtls {
    settings: DtlsSettings,
    state: State,
    sieve: Sieve,
    outputs: VecDeque<SessionOutput>,
    /// Our datagrams from ChangeCipherSpec on, as a server: the other side may have missed them.
    last_flight: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Dtls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match self.state {
            State::Idle => "idle",
            State::Handshake { .. } => "handshake",
            State::Connected { .. } => "connected",
            State::Closed => "closed",
        };
        f.debug_struct("Dtls")
            .field("side", &self.settings.side)
            .field("state", &state)
            .finish_non_exhaustive()
    }
}

impl Dtls {
    /// A session that waits for its start.
    #[must_use]
    pub fn new(settings: DtlsSettings) -> Self {
        Self {
            settings,
            state: State::Idle,
            sieve: Sieve::default(),
            outputs: VecDeque::new(),
            last_flight: Vec::new(),
        }
    }

    /// Runs the handshake as far as it goes now.
    fn turn(&mut self, now: Instant) {
        let State::Handshake { engine, deadline, turned, .. } = &mut self.state else { return };
        *turned = now;
        let progress = engine.turn();
        let timed_out = now >= *deadline;
        self.take_datagrams();
        match progress {
            Progress::Going if timed_out => self.fail(DtlsFailure::Timeout),
            Progress::Going => {}
            Progress::Failed(failure) => self.fail(failure),
            Progress::Connected { keys, certificate } => {
                let proven = certificate.is_some_and(|der| {
                    self.settings.fingerprints.iter().any(|fingerprint| fingerprint.matches(&der))
                });
                if !proven {
                    self.fail(DtlsFailure::Fingerprint);
                    return;
                }
                self.outputs.push_back(SessionOutput::Connected(keys));
                if let State::Handshake { engine, .. } = std::mem::replace(&mut self.state, State::Closed) {
                    self.state = State::Connected { engine, last_repeat: None, alerts: 0 };
                }
            }
        }
    }

    /// Moves what the engine wants to send to the outputs.
    fn take_datagrams(&mut self) {
        let (State::Handshake { engine, .. } | State::Connected { engine, .. }) = &self.state else { return };
        let keep = self.settings.side == Side::Server && matches!(self.state, State::Handshake { .. });
        for datagram in engine.sent() {
            let begins = records(&datagram).any(|r| r.content_type == ContentType::ChangeCipherSpec);
            let goes_on = !self.last_flight.is_empty() && self.last_flight.len() < LAST_FLIGHT_MAX;
            if keep && begins {
                self.last_flight = vec![datagram.clone()];
            } else if keep && goes_on {
                self.last_flight.push(datagram.clone());
            }
            self.outputs.push_back(SessionOutput::Transmit(datagram));
        }
    }

    fn fail(&mut self, failure: DtlsFailure) {
        self.say_goodbye();
        self.outputs.push_back(SessionOutput::Failed(failure));
    }

    fn say_goodbye(&mut self) {
        if let State::Handshake { engine, .. } | State::Connected { engine, .. } = &mut self.state {
            engine.close();
        }
        self.take_datagrams();
        self.state = State::Closed;
        self.last_flight = Vec::new();
    }

    /// A datagram after the handshake: another repetition of the handshake, or an alert.
    fn handle_late(&mut self, now: Instant, datagram: &[u8]) -> usize {
        let State::Connected { engine, last_repeat, alerts } = &mut self.state else { return 1 };
        let mut refused = 0;
        let mut repeat = false;
        let mut closed = false;
        let mut seen = 0;
        for record in records(datagram) {
            seen += record.bytes.len();
            match (record.epoch, record.content_type) {
                (0 | 1, ContentType::Handshake) => repeat = true,
                (1, ContentType::Alert) if *alerts < ALERTS_MAX => {
                    *alerts += 1;
                    engine.receive(record.bytes.to_vec());
                    closed |= matches!(engine.turn(), Progress::Failed(_));
                }
                // Part of the flight that is repeated.
                (0, ContentType::ChangeCipherSpec) => {}
                _ => refused += 1,
            }
        }
        if seen < datagram.len() {
            refused += 1;
        }
        let due = last_repeat.is_none_or(|at| now.saturating_duration_since(at) >= REPEAT_INTERVAL);
        if repeat && due && !self.last_flight.is_empty() {
            *last_repeat = Some(now);
            self.outputs.extend(self.last_flight.iter().cloned().map(SessionOutput::Transmit));
        }
        self.take_datagrams();
        if closed {
            self.state = State::Closed;
            self.outputs.push_back(SessionOutput::Closed);
        }
        refused
    }
}

impl Session for Dtls {
    fn start(&mut self, now: Instant) {
        if !matches!(self.state, State::Idle) {
            return;
        }
        match Engine::start(self.settings.side, &self.settings.certificate) {
            Some(engine) => {
                let deadline = now + self.settings.handshake_timeout;
                self.state = State::Handshake { engine, deadline, turned: now, records: 0, bytes: 0 };
                self.turn(now);
            }
            None => self.fail(DtlsFailure::Handshake),
        }
    }

    fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) -> usize {
        if datagram.len() > DATAGRAM_MAX_BYTES {
            return 1;
        }
        match &mut self.state {
            State::Idle | State::Closed => 1,
            State::Connected { .. } => self.handle_late(now, datagram),
            State::Handshake { engine, records, bytes, .. } => {
                let sifted = self.sieve.sift(datagram);
                *records += sifted.records;
                *bytes += sifted.kept.len();
                if *records > HANDSHAKE_RECORDS_MAX || *bytes > HANDSHAKE_BYTES_MAX {
                    return sifted.records + sifted.refused;
                }
                if !sifted.kept.is_empty() {
                    engine.receive(sifted.kept);
                    self.turn(now);
                }
                sifted.refused
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.turn(now);
    }

    fn close(&mut self) {
        self.say_goodbye();
    }

    fn poll_output(&mut self) -> SessionOutput {
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        SessionOutput::Timeout(match &self.state {
            State::Handshake { deadline, turned, .. } => Some((*turned + TURN_INTERVAL).min(*deadline)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests;
