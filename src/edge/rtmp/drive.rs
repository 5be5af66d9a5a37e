//! The loop of a connection's thread.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::time::Instant;

use super::RtmpSettings;
use super::roles::{Playing, Publishing, Role, Start};
use crate::base::clock::Clock;
use crate::base::metrics::Metrics;
use crate::base::stop::StopToken;
use crate::base::wait::{Interest, Waiter};
use crate::edge::tls::Transport;
use crate::hub::{EndReason, Registry};
use crate::proto::rtmp::MediaOutput;
use crate::proto::rtmp::server::{Request, ServerCause, ServerOutput, ServerSession};

/// Bytes taken from the socket at once: a keyframe in a few readings.
const READ_BYTES: usize = 64 * 1024;
/// Readings before other affairs are looked at.
const READ_BATCH: usize = 16;
/// While so much waits for the socket, a player is given no more, and nobody is read.
const OUTPUT_PAUSE_BYTES: usize = 256 * 1024;
/// Bytes thrown away while the other end takes in that we closed.
const LINGER_BYTES: usize = 4 << 20;

/// Why a connection is over.
#[derive(Debug)]
pub(super) enum Ending {
    /// The other end closed it.
    Left,
    /// It broke.
    Broken(io::Error),
    /// The client reads nothing of what it asked for.
    Stalled,
    /// The session says so.
    Session(ServerCause),
    /// The server stops.
    Stop,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left => f.write_str("client left"),
            Self::Broken(error) => write!(f, "{error}"),
            Self::Stalled => f.write_str("client does not read"),
            Self::Session(cause) => write!(f, "{cause}"),
            Self::Stop => f.write_str("server stops"),
        }
    }
}

impl Ending {
    /// As the end of a publication that lasted until then.
    fn reason(&self) -> EndReason {
        match self {
            Self::Session(ServerCause::Silent) => EndReason::RtpActivity,
            Self::Stop => EndReason::Shutdown,
            _ => EndReason::SessionDisconnect,
        }
    }
}

/// What a connection's thread owns.
pub(super) struct Drive {
    settings: RtmpSettings,
    transport: Transport,
    waiter: Waiter,
    session: ServerSession,
    role: Role,
    peer: SocketAddr,
    /// Id of the connection, as clients and REST know it.
    session_id: String,
    stop: StopToken,
    registry: Registry,
    metrics: Metrics,
    clock: Clock,
    /// The client may have sent more than was read, though the socket is silent.
    more: bool,
    /// Since when the socket takes nothing, and how much it had taken by then.
    stalled: Option<(Instant, u64)>,
    /// Bytes received and sent that are counted already.
    counted: [u64; 2],
}

impl Drive {
    #[allow(clippy::too_many_arguments, reason = "what one thread owns, side by side")]
    pub(super) fn new(
        settings: RtmpSettings,
        transport: Transport,
        waiter: Waiter,
        session: ServerSession,
        [peer, local]: [SocketAddr; 2],
        stop: StopToken,
        registry: Registry,
        metrics: Metrics,
        clock: Clock,
    ) -> Self {
        Self {
            settings,
            transport,
            waiter,
            session,
            role: Role::None,
            peer,
            session_id: format!("/{peer}/{local}"),
            stop,
            registry,
            metrics,
            clock,
            more: false,
            stalled: None,
            counted: [0; 2],
        }
    }

    /// Serves the connection to its end.
    pub(super) fn run(mut self) -> Ending {
        let mut buffer = vec![0; READ_BYTES];
        let ending = loop {
            if let Err(ending) = self.turn(&mut buffer) {
                break ending;
            }
        };
        self.finish(&ending, &mut buffer);
        ending
    }

    /// Once round: outputs, units for a player, writing, waiting, reading.
    fn turn(&mut self, buffer: &mut [u8]) -> Result<(), Ending> {
        let session_deadline = self.drain()?;
        self.feed()?;
        self.write()?;
        self.count();
        let now = self.clock.now();
        let deadline = self.stall_deadline(now)?.map_or(session_deadline, |at| at.min(session_deadline));
        let is_backed_up = self.session.output().len() >= OUTPUT_PAUSE_BYTES;
        // What TLS holds back is read when there is room for answers, and until then there is nothing to wake up for.
        let deadline = if self.more && !is_backed_up { now } else { deadline };
        let interest = match (self.wants_write(), is_backed_up) {
            (false, _) => Interest::Read,
            (true, false) => Interest::Both,
            (true, true) => Interest::Write,
        };
        let ready = self
            .waiter
            .wait_until(&[(self.transport.as_fd(), interest)], now, Some(deadline))
            .map_err(Ending::Broken)?;
        if ready.woken {
            if self.stop.is_set() {
                return Err(Ending::Stop);
            }
            self.hear();
        }
        // A connection that broke counts as readable whatever is waited for; reading tells it.
        if (ready.readable != 0 || self.more) && !is_backed_up {
            self.read(buffer)?;
        }
        self.session.handle_timeout(self.clock.now());
        Ok(())
    }

    fn wants_write(&self) -> bool {
        !self.session.output().is_empty() || self.transport.wants_write()
    }

    /// Empties the session; returns its deadline.
    fn drain(&mut self) -> Result<Instant, Ending> {
        loop {
            match self.session.poll_output() {
                ServerOutput::Media(media) => self.take_media(media),
                ServerOutput::Publish(request) => self.publish(request),
                ServerOutput::Play(request) => self.play(request),
                ServerOutput::Ended => self.role.end(EndReason::ByUser),
                ServerOutput::Closed(cause) => return Err(Ending::Session(cause)),
                ServerOutput::Timeout(at) => return Ok(at),
            }
        }
    }

    fn take_media(&mut self, media: MediaOutput) {
        let Role::Publishing(Publishing { publisher: Some(publisher), .. }) = &self.role else { return };
        match media {
            MediaOutput::Video(unit) => publisher.push_video(unit),
            MediaOutput::Audio(frame) => publisher.push_audio(frame),
            MediaOutput::AudioParams(params) => publisher.set_audio_params(params),
            MediaOutput::Tracks { video, audio } => publisher.expect_tracks(video, audio),
            MediaOutput::Gap => publisher.mark_gap(),
            MediaOutput::Damaged(kind, why) => {
                self.metrics.bad_input(kind);
                tracing::debug!("{}: {why}", publisher.stream().publication().name);
            }
            MediaOutput::Unsupported { error, .. } => {
                tracing::warn!("{}: published without sound: {error}", publisher.stream().publication().name);
            }
        }
    }

    fn start(&self, request: Request) -> Start<'_> {
        Start {
            registry: &self.registry,
            metrics: &self.metrics,
            request,
            session_id: &self.session_id,
            created: self.clock.wall(),
            waker: self.waiter.waker(),
        }
    }

    fn publish(&mut self, request: Request) {
        let (app, name) = (request.app.clone(), request.name.clone());
        match Publishing::start(self.start(request)) {
            Ok(publishing) => {
                tracing::info!("{name} is published by RTMP from {} to {app:?}", self.peer);
                self.session.accept_publish(self.clock.now());
                self.role = Role::Publishing(publishing);
            }
            Err(why) => {
                tracing::info!("{name:?} is not published by RTMP from {}: {why}", self.peer);
                self.session.refuse_publish(&why);
            }
        }
    }

    fn play(&mut self, request: Request) {
        let name = request.name.clone();
        match Playing::start(self.start(request)) {
            Ok(playing) => {
                tracing::info!("{name:?} is played by RTMP at {}", self.peer);
                self.session.accept_play(self.clock.now());
                self.role = Role::Playing(Box::new(playing));
            }
            Err(refusal) => {
                tracing::info!("{name:?} is not played by RTMP at {}: {}", self.peer, refusal.why);
                self.session.refuse_play(refusal.not_found, &refusal.why);
            }
        }
    }

    /// Somebody rang: the hub, or an operator.
    fn hear(&mut self) {
        match &self.role {
            Role::Publishing(publishing) => {
                if let Some(reason) = publishing.asked_to_end() {
                    self.session.end_publish(&reason.to_string());
                    self.role.end(reason);
                }
            }
            Role::Playing(playing) => {
                if playing.asked_to_end().is_some() {
                    self.session.end_play();
                    self.role.end(EndReason::Terminated);
                }
            }
            Role::None => {}
        }
    }

    /// Gives a player what there is, as long as it takes it.
    fn feed(&mut self) -> Result<(), Ending> {
        loop {
            let Role::Playing(playing) = &mut self.role else { return Ok(()) };
            while self.session.output().len() < OUTPUT_PAUSE_BYTES {
                match playing.next() {
                    Some(Ok(unit)) => self.session.write(&unit),
                    Some(Err(_over)) => {
                        self.session.end_play();
                        self.role.end(EndReason::SourceGone);
                        break;
                    }
                    None => return self.drain().map(|_| ()),
                }
            }
            self.drain()?;
            self.write()?;
            if self.session.output().len() >= OUTPUT_PAUSE_BYTES {
                return Ok(());
            }
        }
    }

    /// Writes what the socket takes.
    fn write(&mut self) -> Result<(), Ending> {
        while !self.session.output().is_empty() {
            match self.transport.write(self.session.output()) {
                Ok(0) => return Err(Ending::Left),
                Ok(count) => self.session.sent(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(Ending::Broken(error)),
            }
        }
        match self.transport.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(Ending::Broken(error)),
            _ => Ok(()),
        }
    }

    /// When a client that has something to read must have read some of it; `None` while nothing waits.
    fn stall_deadline(&mut self, now: Instant) -> Result<Option<Instant>, Ending> {
        if !self.wants_write() {
            self.stalled = None;
            return Ok(None);
        }
        let sent = self.transport.bytes_sent();
        let since = match self.stalled {
            Some((since, before)) if before == sent => since,
            _ => now,
        };
        self.stalled = Some((since, sent));
        let deadline = since + self.settings.write_limit;
        if now >= deadline { Err(Ending::Stalled) } else { Ok(Some(deadline)) }
    }

    /// Takes what has come.
    fn read(&mut self, buffer: &mut [u8]) -> Result<(), Ending> {
        self.more = false;
        for _ in 0..READ_BATCH {
            match self.transport.read(buffer) {
                Ok(0) => return Err(self.left()),
                Ok(count) => {
                    let now = self.clock.now();
                    self.session.handle_bytes(now, buffer.get(..count).unwrap_or_default());
                    self.drain()?;
                    if self.session.output().len() >= OUTPUT_PAUSE_BYTES {
                        self.more = self.transport.is_tls();
                        return Ok(());
                    }
                    // The socket is empty, and tells when it is not; TLS may hold something back.
                    if count < buffer.len() && !self.transport.is_tls() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(Ending::Broken(error)),
            }
        }
        self.more = self.transport.is_tls();
        Ok(())
    }

    /// The other end said that nothing more comes.
    fn left(&self) -> Ending {
        Ending::Left
    }

    fn count(&mut self) {
        let now = [self.session.received(), self.transport.bytes_sent()];
        let counters = [&self.metrics.rtmp_received_bytes_total, &self.metrics.rtmp_sent_bytes_total];
        for ((counter, now), counted) in counters.into_iter().zip(now).zip(&mut self.counted) {
            counter.inc_by(now - *counted);
            *counted = now;
        }
    }

    /// The name becomes free first; then the client is told, as far as it listens.
    fn finish(&mut self, ending: &Ending, buffer: &mut [u8]) {
        match ending {
            Ending::Session(ServerCause::Protocol(error)) => {
                self.metrics.bad_input(error.kind());
                tracing::info!("{}: not RTMP as it should be: {error}", self.peer);
            }
            Ending::Session(ServerCause::Unsupported(error)) => {
                self.metrics.bad_input("rtmp_codec");
                tracing::warn!("{}: publication refused: {error}", self.peer);
            }
            Ending::Session(ServerCause::Idle) => self.metrics.bad_input("rtmp_idle"),
            Ending::Stalled => self.metrics.bad_input("rtmp_stalled"),
            _ => {}
        }
        if matches!(ending, Ending::Stop) {
            match self.role {
                Role::Publishing(_) => self.session.end_publish(&EndReason::Shutdown.to_string()),
                Role::Playing(_) => self.session.end_play(),
                Role::None => {}
            }
        }
        self.role.end(ending.reason());
        if let Ending::Session(_) | Ending::Stop = ending {
            self.say_goodbye(buffer);
        }
        self.count();
    }

    /// Sends the last words, then reads what the client still sends, a little of it: closing over unread bytes would
    /// reset the connection and take our words with it.
    fn say_goodbye(&mut self, buffer: &mut [u8]) {
        let stopping = self.stop.is_set();
        let deadline = self.clock.now() + self.settings.close_limit;
        let (mut is_closed, mut thrown_away) = (false, 0);
        loop {
            if self.write().is_err() {
                return;
            }
            if !is_closed && !self.wants_write() {
                self.transport.close();
                is_closed = true;
            }
            while let Ok(count @ 1..) = self.transport.read(buffer) {
                thrown_away += count;
                if thrown_away > LINGER_BYTES {
                    return;
                }
            }
            let now = self.clock.now();
            if now >= deadline || (self.stop.is_set() && (is_closed || !stopping)) {
                return;
            }
            let interest = if is_closed { Interest::Read } else { Interest::Both };
            let Ok(ready) =
                self.waiter.wait_until(&[(self.transport.as_fd(), interest)], now, Some(deadline))
            else {
                return;
            };
            // Readable, and nothing to read: the other end closed too.
            if ready.readable != 0 && matches!(self.transport.read(buffer), Ok(0)) {
                return;
            }
        }
    }
}
