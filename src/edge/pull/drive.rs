//! One connection to a source: the loop that drives its machine and pushes what comes into the hub.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use crossbeam_channel::Receiver;

use super::book::Outcome;
use super::machine::{self, Cause, Machine, Step};
use super::source::Source;
use super::{PullError, PullKind, Pulls};
use crate::base::id::{MediaSessionId, StreamName};
use crate::base::stop::StopToken;
use crate::base::wait::{Interest, Waiter};
use crate::edge::ports::{MediaSocket, RECEIVE_BYTES};
use crate::edge::tls::Transport;
use crate::hub::{Bell, EndReason, Publication, PublishError, Publisher, SourceProtocol};

/// Readings of one socket before deadlines and other sockets are looked at.
const READ_BATCH: usize = 64;
/// Bytes that may wait for a source which does not read what we say.
const OUTBOX_BYTES_MAX: usize = 256 * 1024;
/// From one look at who watches to the next.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Time for the goodbye.
const FAREWELL: Duration = Duration::from_millis(500);

/// What one connection is driven with.
pub(super) struct Link<'a> {
    pub(super) pulls: &'a Pulls,
    pub(super) number: u64,
    pub(super) name: &'a StreamName,
    pub(super) media_session_id: &'a MediaSessionId,
    pub(super) waiter: &'a mut Waiter,
    pub(super) stop: &'a StopToken,
}

/// How one connection ended.
pub(super) enum Turn {
    /// With the attempt.
    Over(Outcome),
    /// The source sends us there.
    Redirected(String),
    /// Media should be asked for in the other way.
    OtherTransport,
}

/// A stream that is being published.
struct Published {
    publisher: Publisher,
    bell: Receiver<()>,
    /// Who waits was told.
    is_up: bool,
    has_video: bool,
}

/// What the loop changes.
struct Driven<'a> {
    link: Link<'a>,
    transport: Transport,
    peer: IpAddr,
    machine: Box<dyn Machine>,
    sockets: Vec<MediaSocket>,
    outbox: VecDeque<Bytes>,
    outbox_bytes: usize,
    published: Option<Published>,
    protocol: SourceProtocol,
}

impl Link<'_> {
    /// Drives the connection to its end.
    pub(super) fn drive(self, transport: Transport, target: &Source, interleaved: bool) -> Turn {
        let inner = &self.pulls.0;
        let failed = |error: &dyn std::fmt::Display| {
            tracing::warn!("{} cannot be pulled: {error}", target.url());
            Turn::Over(Outcome::Failed(PullError::TooMany))
        };
        let peer = match transport.socket().peer_addr() {
            Ok(peer) => peer.ip(),
            Err(_) => return Turn::Over(Outcome::Failed(target.unreachable())),
        };
        let mut sockets = Vec::new();
        if target.kind() == PullKind::Rtsp && !interleaved {
            for _ in 0..machine::UDP_TRACKS {
                match inner.ports.take_pair() {
                    Ok((rtp, rtcp)) => sockets.extend([rtp, rtcp]),
                    Err(error) => return failed(&error),
                }
            }
        }
        let ports: Vec<u16> = sockets.iter().map(|socket: &MediaSocket| socket.local().port()).collect();
        let machine = machine::make(&inner.settings, target, &ports, inner.clock.now());
        let protocol = match target.kind() {
            PullKind::Rtsp => SourceProtocol::RtspPull,
            PullKind::Rtmp => SourceProtocol::RtmpPull,
        };
        let mut driven = Driven {
            link: self,
            transport,
            peer,
            machine,
            sockets,
            outbox: VecDeque::new(),
            outbox_bytes: 0,
            published: None,
            protocol,
        };
        let (turn, reason) = driven.run();
        driven.count();
        driven.end(reason);
        turn
    }
}

impl Driven<'_> {
    fn run(&mut self) -> (Turn, EndReason) {
        let mut buffer = vec![0; if self.sockets.is_empty() { 0 } else { RECEIVE_BYTES }];
        let mut look_at = self.now() + LOOK_INTERVAL;
        loop {
            let deadline = match self.drain() {
                Ok(deadline) => deadline,
                Err(end) => return end,
            };
            if let Err(error) = self.write() {
                return self.lost(&format!("cannot be written to: {error}"));
            }
            let mut waited = Vec::with_capacity(1 + self.sockets.len());
            let writes = !self.outbox.is_empty() || self.transport.wants_write();
            waited.push((self.transport.as_fd(), if writes { Interest::Both } else { Interest::Read }));
            waited.extend(self.sockets.iter().map(|socket| (socket.socket().as_fd(), Interest::Read)));
            let now = self.link.pulls.0.clock.now();
            let ready = match self.link.waiter.wait_until(&waited, now, Some(deadline.min(look_at))) {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::error!("cannot wait for a source: {error}");
                    return (Turn::Over(Outcome::Lost), EndReason::Internal);
                }
            };
            if ready.readable & 1 != 0
                && let Err(end) = self.read()
            {
                return end;
            }
            for number in 0..self.sockets.len() {
                if ready.readable >> (number + 1) & 1 != 0
                    && let Err(end) = self.receive(number, &mut buffer)
                {
                    return end;
                }
            }
            let now = self.now();
            if ready.woken
                && let Some(end) = self.told(now)
            {
                return end;
            }
            if now >= look_at {
                look_at = now + LOOK_INTERVAL;
                self.count();
                if let Some(end) = self.look(now) {
                    return end;
                }
            }
            if now >= deadline {
                self.machine.timeout(now);
            }
        }
    }

    fn now(&self) -> Instant {
        self.link.pulls.0.clock.now()
    }

    /// Whether somebody wants it to end.
    fn told(&mut self, now: Instant) -> Option<(Turn, EndReason)> {
        let by_pull = {
            let mut book = self.link.pulls.0.book.lock();
            match book.find(self.link.number) {
                Some(pull) => pull.asked_to_end.clone(),
                None => Some(EndReason::SourceGone),
            }
        };
        let by_stream = self.published.as_ref().and_then(|published| {
            let _ = published.bell.try_recv();
            published.publisher.asked_to_end()
        });
        let reason = if self.link.stop.is_set() { Some(EndReason::Shutdown) } else { by_pull.or(by_stream) }?;
        self.farewell(now);
        Some((Turn::Over(Outcome::Told), reason))
    }

    /// Whether anybody still watches, and who has waited too long.
    fn look(&mut self, now: Instant) -> Option<(Turn, EndReason)> {
        let facts = self.published.as_ref().map(|published| published.publisher.stream().facts());
        let watched = facts.as_ref().is_some_and(|facts| facts.watchers > 0);
        let asked = facts.and_then(|facts| facts.asked);
        let (idle, answers) = {
            let mut book = self.link.pulls.0.book.lock();
            let answers = book.expire(self.link.number, now);
            (book.is_idle(self.link.number, now, watched, asked), answers)
        };
        answers.give();
        idle.then(|| {
            self.farewell(now);
            (Turn::Over(Outcome::Idle), EndReason::SourceGone)
        })
    }

    /// Empties the machine. Returns its deadline.
    fn drain(&mut self) -> Result<Instant, (Turn, EndReason)> {
        loop {
            match self.machine.step() {
                Step::Send(bytes) => {
                    self.outbox_bytes += bytes.len();
                    self.outbox.push_back(bytes);
                    if self.outbox_bytes > OUTBOX_BYTES_MAX {
                        return Err(self.lost("does not read what it is sent"));
                    }
                }
                Step::Datagram { socket, port, bytes } => {
                    if let Some(socket) = self.sockets.get(socket) {
                        // A datagram that is not taken is a lost datagram.
                        let _ = socket.send(&bytes, SocketAddr::new(self.peer, port), None);
                    }
                }
                Step::Begins { video, audio } => self.publish(video, audio)?,
                Step::Video(unit) => {
                    let key = unit.key;
                    if let Some(published) = &self.published {
                        published.publisher.push_video(unit);
                    }
                    if key {
                        self.up();
                    }
                }
                Step::Audio(frame) => {
                    let Some(published) = &self.published else { continue };
                    published.publisher.push_audio(frame);
                    if !published.has_video {
                        self.up();
                    }
                }
                Step::AudioParams(params) => {
                    if let Some(published) = &self.published {
                        published.publisher.set_audio_params(params);
                    }
                }
                Step::Damaged(kind, text) => {
                    self.link.pulls.0.metrics.bad_input(kind);
                    tracing::debug!("{}: {text}", self.link.name);
                }
                Step::Gap => {
                    if let Some(published) = &self.published {
                        published.publisher.mark_gap();
                    }
                }
                Step::Redirect(location) => {
                    return Err((Turn::Redirected(location), EndReason::SourceGone));
                }
                Step::Over(cause) => return Err(self.over(cause)),
                Step::Timeout(at) => return Ok(at),
            }
        }
    }

    fn over(&mut self, cause: Cause) -> (Turn, EndReason) {
        let is_up = self.published.as_ref().is_some_and(|published| published.is_up);
        // What the machine wanted to say last.
        let _ = self.write();
        if cause.other_transport && !is_up {
            return (Turn::OtherTransport, EndReason::SourceGone);
        }
        tracing::info!("{}: {}", self.link.name, cause.text);
        let outcome = if is_up { Outcome::Lost } else { Outcome::Failed(cause.error) };
        (Turn::Over(outcome), EndReason::SourceGone)
    }

    /// The connection is of no use any more, and the machine does not know it.
    fn lost(&mut self, why: &str) -> (Turn, EndReason) {
        let error = match self.protocol {
            SourceProtocol::RtmpPull => PullError::RtmpConnect,
            _ => PullError::RtspConnect,
        };
        self.over(Cause { error, text: why.to_owned(), other_transport: false })
    }

    /// Takes the stream's name.
    fn publish(&mut self, video: bool, audio: bool) -> Result<(), (Turn, EndReason)> {
        if let Some(published) = &mut self.published {
            published.has_video = video;
            published.publisher.expect_tracks(video, audio);
            return Ok(());
        }
        let inner = &self.link.pulls.0;
        let (name, id) = (self.link.name.clone(), self.link.media_session_id.clone());
        let publication = Publication {
            has_video: video,
            has_audio: audio,
            ..Publication::new(name, id, self.protocol, inner.clock.wall())
        };
        let (bell, rung) = Bell::without_keyframes(Some(self.link.waiter.waker()));
        match inner.registry.publish(publication, Some(bell)) {
            Ok(publisher) => {
                self.published = Some(Published { publisher, bell: rung, is_up: false, has_video: video });
                Ok(())
            }
            Err(error) => {
                tracing::warn!("{} is not published: {error}", self.link.name);
                let error = match error {
                    PublishError::TooMany => PullError::TooMany,
                    PublishError::NameInUse | PublishError::SessionInUse | PublishError::Address => {
                        PullError::NameInUse
                    }
                };
                let now = self.now();
                self.farewell(now);
                Err((Turn::Over(Outcome::Failed(error)), EndReason::SourceGone))
            }
        }
    }

    /// The stream can be watched.
    fn up(&mut self) {
        let now = self.now();
        let Some(published) = self.published.as_mut().filter(|published| !published.is_up) else { return };
        published.is_up = true;
        published.publisher.set_publishing();
        let stream = published.publisher.stream().clone();
        let answers = self.link.pulls.0.book.lock().up(self.link.number, &stream, now);
        answers.give();
        tracing::info!("{} is up", self.link.name);
    }

    /// Takes what has come on the connection.
    fn read(&mut self) -> Result<(), (Turn, EndReason)> {
        for _ in 0..READ_BATCH {
            match self.transport.read(self.machine.room()) {
                Ok(0) => {
                    let now = self.now();
                    self.machine.end_of_input(now);
                    self.drain()?;
                    return Err(self.lost("closed the connection"));
                }
                Ok(count) => {
                    let now = self.now();
                    self.machine.filled(now, count);
                    self.drain()?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.lost(&format!("connection lost: {error}"))),
            }
        }
        Ok(())
    }

    /// Takes what has come to one socket. Only the source's own address is heard: anybody can send to an open port.
    fn receive(&mut self, number: usize, buffer: &mut [u8]) -> Result<(), (Turn, EndReason)> {
        for _ in 0..READ_BATCH {
            let Some(socket) = self.sockets.get(number) else { return Ok(()) };
            match socket.receive(buffer) {
                Ok(received) => {
                    if received.from.ip() != self.peer.to_canonical() {
                        self.link.pulls.0.metrics.bad_input("pull_stranger");
                        continue;
                    }
                    let now = self.link.pulls.0.clock.now();
                    for datagram in received.datagrams {
                        self.machine.datagram(now, number, datagram);
                    }
                    self.drain()?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => tracing::debug!("media socket: {error}"),
            }
        }
        Ok(())
    }

    /// Sends as much as the socket takes.
    fn write(&mut self) -> io::Result<()> {
        let not_now = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
        };
        if self.transport.wants_write() {
            match self.transport.flush() {
                Err(error) if not_now(&error) => return Ok(()),
                other => other?,
            }
        }
        while let Some(bytes) = self.outbox.front_mut() {
            match self.transport.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes.advance(count);
                    self.outbox_bytes -= count;
                    if bytes.is_empty() {
                        self.outbox.pop_front();
                    }
                }
                Err(error) if not_now(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Says goodbye to the source, as far as it takes that in half a second.
    fn farewell(&mut self, now: Instant) {
        self.machine.close(now);
        let deadline = now + FAREWELL;
        while self.drain().is_ok() && self.write().is_ok() {
            let now = self.now();
            let done = self.outbox.is_empty() && !self.transport.wants_write();
            let socket = (self.transport.as_fd(), Interest::Write);
            if done || now >= deadline || self.link.waiter.wait_until(&[socket], now, Some(deadline)).is_err()
            {
                break;
            }
        }
        self.transport.close();
    }

    /// Adds what the machine counted to the server's counts.
    fn count(&mut self) {
        let (received, missing) = self.machine.counts();
        let metrics = &self.link.pulls.0.metrics;
        metrics.rtp_received_total.inc_by(received);
        metrics.rtp_lost_total.inc_by(missing);
    }

    fn end(&mut self, reason: EndReason) {
        if let Some(published) = self.published.take() {
            tracing::info!("{} ended: {reason}", self.link.name);
            self.link.pulls.0.metrics.publications_ended_total.with_label_values(&[reason.label()]).inc();
            published.publisher.end(reason);
        }
    }
}
