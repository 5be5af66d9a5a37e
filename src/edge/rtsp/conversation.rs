//! One connection from its first request to its end: the loop of its thread.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use super::Inner;
use super::datagrams::Datagrams;
use super::playing::{Finding, Playing, Pumped};
use super::publishing::{Publishing, announce};
use crate::base::stop::StopToken;
use crate::base::wait::{Interest, Ready, Waiter};
use crate::hub::EndReason;
use crate::proto::rtsp::media::MediaOutput;
use crate::proto::rtsp::message::StatusCode;
use crate::proto::rtsp::server::{Answer, CloseCause, Refusal, Server, ServerOutput};

/// Readings of the connection before other things are looked at.
const READ_BATCH: usize = 16;
/// Bytes written to the connection after which what is left is moved to the front of its buffer.
const SENT_BYTES_KEPT: usize = 128 * 1024;
/// A buffer that grew beyond this is given back when it is empty.
const OUT_BYTES_KEPT: usize = 1024 * 1024;
/// While so many bytes wait for the socket nothing is read: each request makes an answer, and whoever asks without
/// reading would fill the memory. More than a player may have waiting, so that its requests are heard.
const OUT_BYTES_UNREAD: usize = 1024 * 1024;
/// From one reading of the counts to the next.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// Why a connection is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The client closed it.
    ByClient,
    /// It broke.
    Broken(io::ErrorKind),
    /// The machine closes it.
    Machine(CloseCause),
    /// The client takes nothing.
    NotReading,
    /// Somebody asked for it.
    Asked(EndReason),
    /// The stream that is played is over.
    StreamEnded,
    /// The server stops.
    Stop,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByClient => f.write_str("client left"),
            Self::Broken(kind) => write!(f, "connection broke: {kind}"),
            Self::Machine(cause) => write!(f, "{cause}"),
            Self::NotReading => f.write_str("client does not read"),
            Self::Asked(reason) => write!(f, "{reason}"),
            Self::StreamEnded => f.write_str("stream ended"),
            Self::Stop => f.write_str("server stops"),
        }
    }
}

impl Ending {
    /// With what reason a publication ends.
    fn reason(&self) -> EndReason {
        match self {
            Self::Machine(CloseCause::Silence) => EndReason::RtpActivity,
            Self::Asked(reason) => reason.clone(),
            Self::Stop => EndReason::Shutdown,
            _ => EndReason::SessionDisconnect,
        }
    }
}

pub(super) struct Conversation<'a> {
    service: &'a Inner,
    stream: TcpStream,
    peer: SocketAddr,
    session_id: String,
    waiter: Waiter,
    stop: StopToken,
    server: Server,
    datagrams: Datagrams,
    finding: Option<Finding>,
    publishing: Option<Publishing>,
    playing: Option<Playing>,
    /// Bytes of the machine's output that the socket has taken.
    sent: usize,
    /// Since when the socket takes nothing.
    stalled: Option<Instant>,
    count_at: Instant,
    /// When datagrams may go on.
    pump_at: Option<Instant>,
}

impl<'a> Conversation<'a> {
    pub(super) fn new(
        service: &'a Inner,
        stream: TcpStream,
        (peer, local): (SocketAddr, SocketAddr),
        stop: StopToken,
    ) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let waiter = Waiter::new()?;
        stop.wakes(&waiter.waker());
        let now = service.clock.now();
        Ok(Self {
            service,
            stream,
            peer,
            session_id: format!("/{peer}/{local}"),
            waiter,
            stop,
            server: Server::new(service.settings.server.clone(), &mut rand::rng(), now),
            datagrams: Datagrams::new(peer, local),
            finding: None,
            publishing: None,
            playing: None,
            sent: 0,
            stalled: None,
            count_at: now + COUNT_INTERVAL,
            pump_at: None,
        })
    }

    /// Serves the connection to its end.
    pub(super) fn run(mut self) -> Ending {
        let ending = self.converse().unwrap_or_else(|ending| ending);
        if let Ending::Machine(CloseCause::Invalid(invalid)) = &ending {
            self.service.metrics.bad_input("rtsp");
            tracing::info!("{}: {invalid}", self.peer);
        }
        if let Some(playing) = &mut self.playing {
            playing.finish(self.service.clock.now(), &mut self.server, &self.datagrams);
        }
        self.end_publication(ending.reason());
        // What is left is said as far as the socket takes it at once.
        let _ = self.flush(self.service.clock.now());
        let _ = self.stream.shutdown(Shutdown::Both);
        ending
    }

    fn converse(&mut self) -> Result<Ending, Ending> {
        loop {
            let deadline = self.drain()?;
            let now = self.service.clock.now();
            let pumped = match &mut self.playing {
                Some(playing) => playing.pump(now, &mut self.server, &self.datagrams),
                None => Pumped::Waits,
            };
            self.pump_at = match pumped {
                Pumped::Ended => return Ok(Ending::StreamEnded),
                Pumped::Until(at) => Some(at),
                Pumped::Waits => None,
            };
            // Room that writing made is for units that wait.
            if self.flush(now)? && self.playing.is_some() && pumped == Pumped::Waits && self.has_more() {
                continue;
            }
            let ready = self.wait(deadline)?;
            if ready.woken {
                self.look_around()?;
            }
            if ready.readable & 1 != 0 {
                if self.server.is_asking() || self.is_backed_up() {
                    // It was not waited for bytes: the connection is gone.
                    return Ok(Ending::ByClient);
                }
                self.read()?;
            }
            if ready.readable >> 1 != 0 {
                let (server, clock) = (&mut self.server, &self.service.clock);
                let now = clock.now();
                self.datagrams
                    .read(|track, is_rtcp, bytes| server.handle_datagram(now, track, is_rtcp, bytes));
            }
            self.look_for_stream();
            let now = self.service.clock.now();
            if now >= self.count_at {
                self.count_at = now + COUNT_INTERVAL;
                self.count();
            }
            self.server.handle_timeout(now);
        }
    }

    /// Whether units wait that the last round of sending had no room for.
    fn has_more(&self) -> bool {
        self.playing.as_ref().is_some_and(Playing::has_more)
    }

    /// Whether too much waits for the socket to make more of it.
    fn is_backed_up(&mut self) -> bool {
        self.server.out().len() - self.sent >= OUT_BYTES_UNREAD
    }

    fn wait(&mut self, deadline: Instant) -> Result<Ready, Ending> {
        let is_backed_up = self.is_backed_up();
        let Self { waiter, stream, datagrams, server, finding, .. } = self;
        let has_out = server.out().len() > self.sent;
        let interest = match (server.is_asking(), has_out) {
            // While a question is open nothing is read, and a socket that may be read would not let us sleep.
            (true, _) => Interest::Write,
            (false, true) if is_backed_up => Interest::Write,
            (false, true) => Interest::Both,
            (false, false) => Interest::Read,
        };
        let mut sockets = Vec::with_capacity(5);
        let leaves_out = server.is_asking() && !has_out;
        if !leaves_out {
            sockets.push((stream.as_fd(), interest));
        }
        sockets.extend(datagrams.sockets());
        let stalled = self.stalled.map(|since| since + self.service.settings.write_limit);
        let looks = [finding.as_ref().map(Finding::looks_at), stalled, self.pump_at];
        let counts = self.publishing.is_some().then_some(self.count_at);
        let deadline = looks.into_iter().flatten().chain(counts).fold(deadline, Instant::min);
        let now = self.service.clock.now();
        let mut ready = waiter.wait_until(&sockets, now, Some(deadline)).map_err(broken)?;
        if leaves_out {
            ready.readable <<= 1;
            ready.writable <<= 1;
        }
        Ok(ready)
    }

    /// Somebody rang: is there something to end for?
    fn look_around(&mut self) -> Result<(), Ending> {
        if self.stop.is_set() {
            return Err(Ending::Stop);
        }
        let of_publisher = self.publishing.as_ref().and_then(Publishing::asked_to_end);
        let of_player = self.playing.as_ref().and_then(Playing::asked_to_end);
        of_publisher.or(of_player).map_or(Ok(()), |reason| Err(Ending::Asked(reason)))
    }

    fn read(&mut self) -> Result<(), Ending> {
        for _ in 0..READ_BATCH {
            let room = self.server.room();
            let size = room.len();
            match self.stream.read(room) {
                Ok(0) => return Err(Ending::ByClient),
                Ok(count) => {
                    self.server.handle_read(self.service.clock.now(), count);
                    self.drain()?;
                    // A short reading took all there was.
                    if count < size || self.server.is_asking() || self.is_backed_up() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(error)),
            }
        }
        Ok(())
    }

    /// Writes what the socket takes; returns whether it took all.
    fn flush(&mut self, now: Instant) -> Result<bool, Ending> {
        let out = self.server.out();
        while let Some(rest) = out.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(0) => return Err(Ending::Broken(io::ErrorKind::WriteZero)),
                Ok(count) => {
                    self.sent += count;
                    self.stalled = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.sent >= SENT_BYTES_KEPT {
                        out.drain(..self.sent);
                        self.sent = 0;
                    }
                    let since = *self.stalled.get_or_insert(now);
                    let is_over = now.saturating_duration_since(since) >= self.service.settings.write_limit;
                    return if is_over { Err(Ending::NotReading) } else { Ok(false) };
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(error)),
            }
        }
        out.clear();
        if out.capacity() > OUT_BYTES_KEPT {
            *out = Vec::new();
        }
        (self.sent, self.stalled) = (0, None);
        Ok(true)
    }

    /// Carries out what the machine wants; returns when it wants to be called again.
    fn drain(&mut self) -> Result<Instant, Ending> {
        loop {
            let now = self.service.clock.now();
            match self.server.poll_output() {
                ServerOutput::Timeout(at) => return Ok(at),
                ServerOutput::Media(output) => self.push(output),
                ServerOutput::Report { track, bytes } => self.datagrams.send(track, true, &bytes),
                ServerOutput::Announce { name, query, description, sdp } => {
                    let session_id = self.session_id.clone();
                    let described = (&description, sdp);
                    let waker = self.waiter.waker();
                    let announced = announce(self.service, &name, &query, described, session_id, waker);
                    let answer = match announced {
                        Ok(publishing) => {
                            self.publishing = Some(publishing);
                            Answer::Done
                        }
                        Err(refusal) => Answer::Refused(refusal),
                    };
                    self.server.answer(now, answer);
                }
                ServerOutput::Find { name } => match Finding::begin(self.service, &name, now) {
                    Ok(finding) => {
                        self.finding = Some(finding);
                        self.look_for_stream();
                    }
                    Err(refusal) => self.server.answer(now, Answer::Refused(refusal)),
                },
                ServerOutput::OpenPorts { track, client } => {
                    let opened = self.datagrams.open(&self.service.ports, track, client);
                    let answer = opened.map_or_else(
                        |error| {
                            tracing::warn!("{}: {error}", self.peer);
                            Answer::Refused(Refusal::new(StatusCode::UnsupportedTransport, error))
                        },
                        |(rtp, rtcp)| Answer::Ports(rtp, rtcp),
                    );
                    self.server.answer(now, answer);
                }
                ServerOutput::Record => {
                    if let Some(publisher) = self.publishing.as_ref().and_then(Publishing::publisher) {
                        publisher.set_publishing();
                    }
                }
                ServerOutput::Play => {
                    let (session_id, waker) = (self.session_id.clone(), self.waiter.waker());
                    let answer = match Playing::begin(self.service, &self.server, session_id, &waker) {
                        Ok((playing, first)) => {
                            self.playing = Some(playing);
                            Answer::Playing(first)
                        }
                        Err(refusal) => Answer::Refused(refusal),
                    };
                    self.server.answer(now, answer);
                }
                ServerOutput::Pause => self.playing = None,
                ServerOutput::Teardown => {
                    self.playing = None;
                    self.end_publication(EndReason::ByUser);
                    self.datagrams.close();
                }
                ServerOutput::Close(cause) => return Err(Ending::Machine(cause)),
            }
        }
    }

    fn push(&self, output: MediaOutput) {
        let Some(publisher) = self.publishing.as_ref().and_then(Publishing::publisher) else { return };
        match output {
            MediaOutput::Video(unit) => publisher.push_video(unit),
            MediaOutput::Audio(frame) => publisher.push_audio(frame),
            MediaOutput::Gap => publisher.mark_gap(),
            MediaOutput::Rtcp { .. } | MediaOutput::Timeout(_) => {}
        }
    }

    fn look_for_stream(&mut self) {
        let now = self.service.clock.now();
        if let Some(answer) = self.finding.as_mut().and_then(|finding| finding.look(now)) {
            self.finding = None;
            self.server.answer(now, answer);
        }
    }

    fn count(&mut self) {
        let bad = self.server.bad_packets();
        if let (Some(publishing), Some(stats)) = (&mut self.publishing, self.server.media_stats()) {
            publishing.count(stats, bad);
        }
    }

    fn end_publication(&mut self, reason: EndReason) {
        self.count();
        if let Some(mut publishing) = self.publishing.take() {
            publishing.end_with(reason);
        }
    }
}

fn broken(error: io::Error) -> Ending {
    Ending::Broken(error.kind())
}
