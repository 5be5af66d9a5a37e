//! Our side of RTSP as a machine: requests of one connection in, responses, questions and media out (RFC 2326 section 10).
//!
//! A connection carries one session at a time: a publication (`ANNOUNCE`, `SETUP`, `RECORD`) or a playback (`DESCRIBE`,
//! `SETUP`, `PLAY`). Whatever needs the world outside (names, ports, streams) is asked as an output and answered by
//! [`Server::answer`]; until then no further request is taken.

mod request;

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use rand::Rng;

use super::media::{MediaError, MediaOutput, MediaReceiver, MediaSettings, MediaStats};
use super::message::{Incoming, Invalid, Reader, Request, Response, StatusCode, write_frame_head};
use super::sdp::Description;
use super::transport::Lower;

/// Bytes of responses and packets that may wait to be taken by the connection before a client counts as one that does not
/// read: more than a picture of 4K at its largest.
pub const OUT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Longest sleep of a connection that has nothing to wait for.
const IDLE: Duration = Duration::from_secs(3600);

/// What the machine is set up with.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Time from the connection's beginning to `PLAY` or `RECORD`, and that without requests outside of them.
    pub setup_limit: Duration,
    /// Told to clients as the session's timeout (RFC 2326 section 12.37): a player by datagrams that is silent for longer
    /// is gone.
    pub session_timeout: Duration,
    /// Without packets of a publisher for so long its publication ends; `None` never ends it.
    pub silence_limit: Option<Duration>,
    /// How long a missing datagram is waited for.
    pub hold_back: Duration,
    /// Largest picture that is taken, in pixels.
    pub pixels_max: u64,
    /// `Server` header; empty leaves it out.
    pub product: String,
}

/// How the packets of one track travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Within the connection: channels of RTP and RTCP.
    Interleaved(u8, u8),
    /// As datagrams to these ports of the client, for RTP and RTCP.
    Datagrams(u16, u16),
}

/// What the machine wants.
#[derive(Debug)]
pub enum ServerOutput {
    /// Somebody wants to publish under this name. Answer [`Answer::Done`] or a refusal.
    Announce {
        /// The name, as the client wrote it but decoded.
        name: String,
        /// The query of its URL.
        query: String,
        /// What it will send.
        description: Description,
        /// The same as it came.
        sdp: String,
    },
    /// Somebody asks for a stream. Answer [`Answer::Found`] or a refusal.
    Find {
        /// The name.
        name: String,
    },
    /// A pair of ports is wanted for a track. Answer [`Answer::Ports`] or a refusal.
    OpenPorts {
        /// The track.
        track: usize,
        /// Ports of the client.
        client: (u16, u16),
    },
    /// Media comes from here on, or goes on. No answer.
    Record,
    /// Media is wanted from here on, on the ways of [`Server::ways`]. Answer [`Answer::Playing`] or a refusal.
    Play,
    /// No media is wanted for now. No answer.
    Pause,
    /// The session is over; its name, ports and media are let go. No answer.
    Teardown,
    /// What a publisher sent: pictures, sound, gaps. Never its timeouts and reports.
    Media(MediaOutput),
    /// A report to a publisher by datagram.
    Report {
        /// The track.
        track: usize,
        /// The compound packet.
        bytes: Vec<u8>,
    },
    /// The connection is over: write what is left and close it.
    Close(CloseCause),
    /// Nothing to do before this moment.
    Timeout(Instant),
}

/// Why the machine closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseCause {
    /// What came is not RTSP.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Neither `PLAY` nor `RECORD` in time.
    #[error("no session in time")]
    NoSession,
    /// A player by datagrams that did not show itself.
    #[error("player is silent")]
    SessionTimeout,
    /// A publisher that sends nothing.
    #[error("publisher is silent")]
    Silence,
}

/// An answer to a question of the machine.
#[derive(Debug)]
pub enum Answer {
    /// It is done.
    Done,
    /// The stream's tracks; their controls are `trackID=n`. And its name, for people.
    Found(Description, String),
    /// Ports of ours for RTP and RTCP.
    Ports(u16, u16),
    /// Media goes out: for each track that was set up, what its first packet will be.
    Playing(Vec<FirstPacket>),
    /// It cannot be.
    Refused(Refusal),
}

/// What `RTP-Info` tells of a track (RFC 2326 section 12.33).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstPacket {
    /// The track.
    pub track: usize,
    /// Its sequence number.
    pub sequence: u16,
    /// Its RTP time, where it is known.
    pub rtp_time: Option<u32>,
}

/// A refusal: its status, and the words that clients show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// The reason.
    pub reason: String,
}

impl Refusal {
    /// A refusal with words of its own.
    #[must_use]
    pub fn new(status: StatusCode, reason: impl fmt::Display) -> Self {
        Self { status, reason: reason.to_string() }
    }
}

impl From<StatusCode> for Refusal {
    fn from(status: StatusCode) -> Self {
        Self { status, reason: status.to_string() }
    }
}

/// What of a session exists.
#[derive(Debug)]
struct Session {
    id: String,
    role: Role,
    name: String,
    /// URL against which the controls of the tracks are read.
    base: String,
    description: Description,
    /// By track; `None` where it was not set up.
    ways: Vec<Option<Way>>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Publisher,
    Player,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Tracks are set up.
    Ready,
    /// Media flows.
    Active,
}

/// One connection.
#[derive(Debug)]
pub struct Server {
    settings: ServerSettings,
    reader: Reader,
    out: Vec<u8>,
    outputs: VecDeque<ServerOutput>,
    /// The request whose question is out.
    asked: Option<Asked>,
    /// What was described last, so that `SETUP` needs not ask again: name, URL, tracks.
    described: Option<(String, String, Description)>,
    session: Option<Session>,
    media: Option<MediaReceiver>,
    media_settings: MediaSettings,
    session_id: String,
    sessions: u32,
    last_request: Instant,
    last_heard: Instant,
    /// When a publisher's packets came last.
    last_media: Instant,
    last_timeout: Instant,
    closed: bool,
    bad_packets: u64,
}

#[derive(Debug)]
struct Asked {
    request: Request,
    question: Question,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Question {
    Announce(Box<Publication>),
    Describe,
    SetupFind,
    SetupPorts { track: usize, client: (u16, u16) },
    Play,
}

/// A publication that is being asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Publication {
    name: String,
    description: Description,
}

impl Server {
    /// A connection that just began.
    #[must_use]
    pub fn new(settings: ServerSettings, random: &mut impl Rng, now: Instant) -> Self {
        let ssrc = random.random();
        let media_settings = MediaSettings {
            pixels_max: settings.pixels_max,
            hold_back: None,
            ssrc,
            cname: format!("{:016x}", random.random::<u64>()),
        };
        Self {
            settings,
            reader: Reader::new(),
            out: Vec::new(),
            outputs: VecDeque::new(),
            asked: None,
            described: None,
            session: None,
            media: None,
            media_settings,
            session_id: format!("{:016x}", random.random::<u64>()),
            sessions: 0,
            last_request: now,
            last_heard: now,
            last_media: now,
            last_timeout: now,
            closed: false,
            bad_packets: 0,
        }
    }

    /// Room to read the connection into. Do not read while [`Server::is_asking`].
    pub fn room(&mut self) -> &mut [u8] {
        self.reader.room()
    }

    /// So many bytes of [`Server::room`] were read.
    pub fn handle_read(&mut self, now: Instant, bytes: usize) {
        self.reader.filled(bytes);
        self.last_heard = now;
        self.proceed(now);
    }

    /// A question is out and not answered yet.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        self.asked.is_some()
    }

    /// Answers the question that is out.
    pub fn answer(&mut self, now: Instant, answer: Answer) {
        let Some(asked) = self.asked.take() else { return };
        self.take_answer(now, asked, answer);
        self.proceed(now);
    }

    /// Takes a datagram of a track.
    pub fn handle_datagram(&mut self, now: Instant, track: usize, is_rtcp: bool, packet: &[u8]) {
        self.last_heard = now;
        self.take_packet(now, track, is_rtcp, packet);
        self.drain_media();
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(media) = &mut self.media {
            media.handle_timeout(now);
            self.drain_media();
        }
        self.last_timeout = now;
        if self.closed || self.session_deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        let cause = match &self.session {
            Some(session) if session.state == State::Active => match session.role {
                Role::Publisher => CloseCause::Silence,
                Role::Player => CloseCause::SessionTimeout,
            },
            _ => CloseCause::NoSession,
        };
        self.close(cause);
    }

    /// The next output; call until it is [`ServerOutput::Timeout`], after each call of another method.
    pub fn poll_output(&mut self) -> ServerOutput {
        self.outputs.pop_front().unwrap_or_else(|| {
            let deadline = self.session_deadline().unwrap_or(self.last_timeout + IDLE);
            let media = self.media.as_mut().map(|media| match media.poll_output() {
                MediaOutput::Timeout(at) => at,
                // Emptied after each change; the deadline is never lost.
                _ => deadline,
            });
            ServerOutput::Timeout(media.map_or(deadline, |media| media.min(deadline)))
        })
    }

    /// Bytes to write to the connection; take away what was written.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Puts a packet of a track that is interleaved into [`Server::out`]. `false` when it cannot be: the track does not
    /// travel so, or too much waits there already.
    pub fn send(&mut self, track: usize, is_rtcp: bool, packet: &[u8]) -> bool {
        let Some(Way::Interleaved(rtp, rtcp)) = self.way(track) else { return false };
        if self.out.len() + packet.len() > OUT_BYTES_MAX {
            return false;
        }
        let written = write_frame_head(if is_rtcp { rtcp } else { rtp }, packet.len(), &mut self.out);
        if written.is_some() {
            self.out.extend_from_slice(packet);
        }
        written.is_some()
    }

    /// How a track travels; `None` where it was not set up.
    #[must_use]
    pub fn way(&self, track: usize) -> Option<Way> {
        self.session.as_ref().and_then(|session| session.ways.get(track).copied().flatten())
    }

    /// How all tracks travel.
    #[must_use]
    pub fn ways(&self) -> Vec<Option<Way>> {
        self.session.as_ref().map(|session| session.ways.clone()).unwrap_or_default()
    }

    /// Name of the stream of the session.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.session.as_ref().map(|session| session.name.as_str())
    }

    /// The tracks of the session.
    #[must_use]
    pub fn description(&self) -> Option<&Description> {
        self.session.as_ref().map(|session| &session.description)
    }

    /// Counts of a publisher's media.
    #[must_use]
    pub fn media_stats(&self) -> Option<MediaStats> {
        self.media.as_ref().map(MediaReceiver::stats)
    }

    /// Packets that could not be used.
    #[must_use]
    pub fn bad_packets(&self) -> u64 {
        self.bad_packets
    }

    /// When the session is given up unless something comes; `None` where somebody else finds out.
    fn session_deadline(&self) -> Option<Instant> {
        match &self.session {
            Some(session) if session.state == State::Active => match session.role {
                Role::Publisher => self.settings.silence_limit.map(|limit| self.last_media + limit),
                // Who does not read is found out by what waits for it, and who vanished by the system.
                Role::Player if session.is_interleaved() => None,
                // Some more than was told: clients call at the last moment.
                Role::Player => Some(self.last_heard + self.settings.session_timeout * 3 / 2),
            },
            // A name that was taken and brings no media is given back soon; a pause may last as long as the client calls.
            Some(session) if session.role == Role::Player || self.media.is_some() => {
                Some(self.last_request + self.settings.session_timeout)
            }
            _ => Some(self.last_request + self.settings.setup_limit),
        }
    }

    fn close(&mut self, cause: CloseCause) {
        if !self.closed {
            self.closed = true;
            self.outputs.push_back(ServerOutput::Close(cause));
        }
    }

    /// Takes messages and frames as far as there are any and nothing is asked.
    fn proceed(&mut self, now: Instant) {
        while !self.closed && self.asked.is_none() {
            let Self { reader, session, media, .. } = self;
            match reader.incoming() {
                Ok(None) => break,
                Ok(Some(Incoming::Interleaved { channel, packet })) => {
                    // Borrowed from the reader: the packet goes straight to its track.
                    let active = session.as_ref().filter(|session| session.state == State::Active);
                    let track = active.and_then(|session| session.track_of_channel(channel));
                    let result = match (track, media) {
                        (Some((track, false)), Some(media)) => {
                            self.last_media = now;
                            media.handle_rtp(now, track, packet)
                        }
                        (Some((track, true)), Some(media)) => media.handle_rtcp(now, track, packet),
                        // Receiver reports of players, tracks that we pass over, and what still comes after a pause.
                        (Some(_), None) => Ok(()),
                        (None, _) if session.is_some() => Ok(()),
                        (None, _) => Err(MediaError::NoTrack),
                    };
                    self.note(result);
                    self.drain_media();
                }
                Ok(Some(Incoming::Request(request))) => {
                    self.last_request = now;
                    self.take_request(now, request);
                }
                // Nobody was asked anything.
                Ok(Some(Incoming::Response(_))) => {}
                Err(invalid) => {
                    self.out_response(None, Response::new(StatusCode::BadRequest));
                    self.close(invalid.into());
                }
            }
        }
    }

    fn take_packet(&mut self, now: Instant, track: usize, is_rtcp: bool, packet: &[u8]) {
        let is_active = self.session.as_ref().is_some_and(|session| session.state == State::Active);
        let result = match &mut self.media {
            Some(media) if is_active && is_rtcp => media.handle_rtcp(now, track, packet),
            Some(media) if is_active => {
                self.last_media = now;
                media.handle_rtp(now, track, packet)
            }
            _ => Ok(()),
        };
        self.note(result);
    }

    /// Tracks that are passed over are no fault of the sender.
    fn note(&mut self, result: Result<(), MediaError>) {
        self.bad_packets += u64::from(result.is_err_and(|error| error != MediaError::NoTrack));
    }

    fn drain_media(&mut self) {
        loop {
            let Some(media) = &mut self.media else { return };
            match media.poll_output() {
                MediaOutput::Timeout(_) => return,
                MediaOutput::Rtcp { track, bytes } => match self.way(track) {
                    Some(Way::Interleaved(..)) => {
                        self.send(track, true, &bytes);
                    }
                    Some(Way::Datagrams(..)) => self.outputs.push_back(ServerOutput::Report { track, bytes }),
                    None => {}
                },
                output => self.outputs.push_back(ServerOutput::Media(output)),
            }
        }
    }
}

impl Session {
    fn lower(&self) -> Option<Lower> {
        self.ways.iter().flatten().next().map(|way| match way {
            Way::Interleaved(..) => Lower::Tcp,
            Way::Datagrams(..) => Lower::Udp,
        })
    }

    fn is_interleaved(&self) -> bool {
        self.lower() == Some(Lower::Tcp)
    }

    /// The track of a channel, and whether it is that of its reports.
    fn track_of_channel(&self, channel: u8) -> Option<(usize, bool)> {
        self.ways.iter().enumerate().find_map(|(track, way)| match way {
            Some(Way::Interleaved(rtp, _)) if *rtp == channel => Some((track, false)),
            Some(Way::Interleaved(_, rtcp)) if *rtcp == channel => Some((track, true)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests;
