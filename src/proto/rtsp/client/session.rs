//! What the client says in which order, and what the answers mean.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::auth::{Answers, Challenged, Login};
use super::{ClientError, ClientSettings, Output, TRACKS_RECEIVED, Wanted};
use crate::proto::rtp::rtcp::{self, RtcpPacket};
use crate::proto::rtsp::media::{MediaOutput, MediaReceiver, MediaStats};
use crate::proto::rtsp::message::{Method, Request, Response, StatusCode, write_frame_head};
use crate::proto::rtsp::sdp::Description;
use crate::proto::rtsp::transport::{Lower, Transport};

/// Seconds that a session lives without a request where the server does not tell (RFC 2326 section 12.37).
const SESSION_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time between two keep-alive requests.
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(30);
/// Shortest one, whatever the server says.
const KEEP_ALIVE_MIN: Duration = Duration::from_secs(1);
/// Packets that are kept before the source has agreed to play: a keyframe of Full HD has some hundred.
const EARLY_PACKETS_MAX: u64 = 2048;
/// Bytes of them: inside the connection a packet may have 64 KiB.
const EARLY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What the client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Options,
    Describe,
    /// The track of this number.
    Setup(usize),
    Play,
    Playing,
    Over,
}

/// A request that is not answered yet.
#[derive(Debug)]
struct Pending {
    request: Unsent,
    cseq: u32,
    deadline: Instant,
    /// Times that it was sent with another answer to a challenge.
    challenged: u32,
}

/// A request without what belongs to one sending of it.
#[derive(Clone, Debug)]
struct Unsent {
    method: Method,
    name: &'static str,
    uri: String,
    headers: Vec<(&'static str, String)>,
}

/// A track that is set up, or going to be.
#[derive(Debug)]
struct Track {
    /// Place in the description.
    place: usize,
    url: String,
    /// Which pair of ports.
    pair: usize,
    channels: (u8, u8),
    lower: Lower,
    server_ports: Option<(u16, u16)>,
}

/// Requests that keep a session alive, the best first.
const KEEP_ALIVES: [(Method, &str); 3] = [
    (Method::GetParameter, "GET_PARAMETER"),
    (Method::Options, "OPTIONS"),
    (Method::SetParameter, "SET_PARAMETER"),
];

/// All but the reader, so that a packet is used where it lies in the reader's buffer.
#[derive(Debug)]
pub(super) struct Session {
    settings: ClientSettings,
    url: String,
    answers: Answers,
    step: Step,
    pending: Option<Pending>,
    cseq: u32,
    /// `Public` of the server; `None` where it does not tell.
    methods: Option<String>,
    /// Place in [`KEEP_ALIVES`].
    keep_alive: usize,
    aggregate_url: String,
    tracks: Vec<Track>,
    has: (bool, bool),
    session_id: Option<String>,
    session_timeout: Duration,
    media: Option<MediaReceiver>,
    keep_alive_at: Instant,
    /// When media was last heard, or was agreed on.
    heard_at: Instant,
    /// A packet came at all.
    heard: bool,
    unknown_packets: u64,
    early_packets: u64,
    early_bytes: usize,
    outputs: VecDeque<Output>,
}

impl Session {
    pub(super) fn new(settings: ClientSettings, url: &str, login: Option<Login>, now: Instant) -> Self {
        let mut session = Self {
            settings,
            url: url.to_owned(),
            answers: Answers::new(login),
            step: Step::Options,
            pending: None,
            cseq: 0,
            methods: None,
            keep_alive: 0,
            aggregate_url: url.to_owned(),
            tracks: Vec::new(),
            has: (false, false),
            session_id: None,
            session_timeout: SESSION_TIMEOUT,
            media: None,
            keep_alive_at: now,
            heard_at: now,
            heard: false,
            unknown_packets: 0,
            early_packets: 0,
            early_bytes: 0,
            outputs: VecDeque::new(),
        };
        session.ask(now, Method::Options, "OPTIONS", url.to_owned(), Vec::new());
        session
    }

    pub(super) fn close(&mut self, now: Instant) {
        if self.step == Step::Over {
            return;
        }
        if self.session_id.is_some() || self.step == Step::Playing {
            let url = self.aggregate_url.clone();
            self.ask(now, Method::Teardown, "TEARDOWN", url, Vec::new());
        }
        self.end(ClientError::Closed);
    }

    pub(super) fn poll_output(&mut self) -> Output {
        self.drain_media();
        self.outputs.pop_front().unwrap_or_else(|| Output::Timeout(self.deadline()))
    }

    pub(super) fn stats(&self) -> (MediaStats, u64) {
        let media = self.media.as_ref().map(MediaReceiver::stats).unwrap_or_default();
        (media, self.unknown_packets)
    }

    pub(super) fn is_over(&self) -> bool {
        self.step == Step::Over
    }

    /// Sends a request of the session.
    fn ask(
        &mut self,
        now: Instant,
        method: Method,
        name: &'static str,
        uri: String,
        headers: Vec<(&'static str, String)>,
    ) {
        self.send(now, Unsent { method, name, uri, headers }, 0);
    }

    fn send(&mut self, now: Instant, unsent: Unsent, challenged: u32) {
        self.cseq += 1;
        let mut request = Request::new(unsent.method.clone(), &unsent.uri)
            .with_header("CSeq", &self.cseq.to_string())
            .with_header("User-Agent", &self.settings.user_agent);
        if let Some(answer) = self.answers.answer(unsent.name, &unsent.uri) {
            request = request.with_header("Authorization", &answer);
        }
        if let Some(session_id) = &self.session_id {
            request = request.with_header("Session", session_id);
        }
        for (name, value) in &unsent.headers {
            request = request.with_header(name, value);
        }
        let mut bytes = Vec::new();
        request.write(&mut bytes);
        self.outputs.push_back(Output::Send(bytes.into()));
        let deadline = now + self.settings.answer_limit;
        self.pending = Some(Pending { request: unsent, cseq: self.cseq, deadline, challenged });
    }

    pub(super) fn end(&mut self, error: ClientError) {
        if self.step != Step::Over {
            self.drain_media();
            self.step = Step::Over;
            self.outputs.push_back(Output::Over(error));
        }
    }

    pub(super) fn on_response(&mut self, now: Instant, response: &Response) {
        let Some(pending) = &self.pending else { return };
        // A response without a number, as some cameras send it, can only mean the one request that is open.
        if response.cseq().is_some_and(|cseq| cseq != pending.cseq) {
            return;
        }
        let Some(pending) = self.pending.take() else { return };
        let status = u16::from(response.status());
        match status {
            100..=199 => self.pending = Some(pending),
            401 => self.on_challenge(now, pending, response),
            300..=399 => match response.header("Location") {
                Some(location) if self.step != Step::Playing => self.redirect(location.to_owned()),
                _ => self.refused(&pending, status),
            },
            _ => self.on_answer(now, &pending, status, response),
        }
    }

    fn redirect(&mut self, location: String) {
        self.step = Step::Over;
        self.outputs.push_back(Output::Redirect(location));
    }

    fn on_challenge(&mut self, now: Instant, pending: Pending, response: &Response) {
        let challenge = response.header("WWW-Authenticate").unwrap_or_default();
        let again = match self.answers.challenge(challenge) {
            Challenged::Unanswerable => false,
            // The same nonce again means that the password is wrong.
            Challenged::New => pending.challenged == 0,
            Challenged::Stale => pending.challenged < 3,
        };
        if again {
            self.send(now, pending.request, pending.challenged + 1);
        } else if self.step == Step::Playing {
            // Media goes on as long as the source likes.
            self.next_keep_alive(now);
        } else {
            self.end(ClientError::Password);
        }
    }

    fn refused(&mut self, pending: &Pending, status: u16) {
        self.end(match status {
            404 | 410 => ClientError::NotFound,
            461 => ClientError::Transport("refused"),
            _ => ClientError::Refused { method: pending.request.name, status },
        });
    }

    fn on_answer(&mut self, now: Instant, pending: &Pending, status: u16, response: &Response) {
        let is_success = (200..300).contains(&status);
        match self.step {
            // Whoever does not know OPTIONS may know the rest.
            Step::Options => {
                if is_success {
                    self.methods = response.header("Public").map(str::to_ascii_uppercase);
                }
                self.describe(now);
            }
            Step::Playing => self.on_kept_alive(now, status),
            Step::Over => {}
            _ if !is_success => self.refused(pending, status),
            Step::Describe => self.on_description(now, response),
            Step::Setup(number) => self.on_setup(now, number, response),
            Step::Play => self.on_play(now),
        }
    }

    fn describe(&mut self, now: Instant) {
        self.step = Step::Describe;
        let headers = vec![("Accept", "application/sdp".to_owned())];
        self.ask(now, Method::Describe, "DESCRIBE", self.url.clone(), headers);
    }

    fn on_description(&mut self, now: Instant, response: &Response) {
        let description = match Description::parse(response.body()) {
            Ok(description) => description,
            Err(error) => return self.end(ClientError::Description(error.to_string())),
        };
        let base = ["Content-Base", "Content-Location"].into_iter().find_map(|name| {
            // Cameras send empty and relative ones.
            response.header(name).map(str::trim).filter(|base| base.contains("://"))
        });
        let base = base.unwrap_or(&self.url).to_owned();
        let media = MediaReceiver::new(self.settings.media.clone(), &description.tracks, now);
        let received = || (0..).zip(&description.tracks).filter(|(place, _)| media.receives(*place));
        if received().next().is_none() {
            let names: Vec<_> = description.tracks.iter().map(|track| track.codec_name()).collect();
            let text = format!("no codec that is known, only {:?}", names.join(", "));
            return self.end(ClientError::Description(text));
        }
        self.has =
            (received().any(|(_, track)| track.is_video()), received().any(|(_, track)| track.is_audio()));
        self.aggregate_url = description.aggregate_url(&base);
        let mut taken: Vec<(u8, u8)> = match &self.settings.transport {
            Wanted::Interleaved(pinned) => pinned.iter().flatten().copied().collect(),
            Wanted::Udp(_) => Vec::new(),
        };
        let tracks: Vec<Track> = received()
            .take(TRACKS_RECEIVED)
            .enumerate()
            .map(|(pair, (place, track))| {
                let (lower, channels) = match &self.settings.transport {
                    Wanted::Udp(_) => (Lower::Udp, (0, 0)),
                    Wanted::Interleaved([audio, video]) => {
                        let pinned = if track.is_video() { video } else { audio };
                        (Lower::Tcp, pinned.unwrap_or_else(|| free_channels(&mut taken)))
                    }
                };
                let url = description.track_url(&base, track);
                Track { place, url, pair, channels, lower, server_ports: None }
            })
            .collect();
        self.tracks = tracks;
        self.media = Some(media);
        self.set_up(now, 0);
    }

    fn set_up(&mut self, now: Instant, number: usize) {
        let Some(track) = self.tracks.get(number) else { return self.play(now) };
        self.step = Step::Setup(number);
        let mut transport = Transport::new(track.lower);
        match &self.settings.transport {
            Wanted::Interleaved(_) => transport.interleaved = Some(track.channels),
            Wanted::Udp(ports) => transport.client_ports = ports.get(track.pair).copied(),
        }
        let headers = vec![("Transport", transport.to_string())];
        self.ask(now, Method::Setup, "SETUP", track.url.clone(), headers);
    }

    fn on_setup(&mut self, now: Instant, number: usize, response: &Response) {
        if let Some(session_id) = response.session().filter(|id| !id.is_empty()) {
            self.session_id = Some(session_id.to_owned());
        }
        if let Some(seconds) = response.session_timeout_seconds().filter(|seconds| *seconds > 0) {
            self.session_timeout = Duration::from_secs(seconds);
        }
        let agreed = Transport::parse(response.header("Transport").unwrap_or_default()).into_iter().next();
        let Some(track) = self.tracks.get_mut(number) else { return };
        match (track.lower, agreed) {
            (Lower::Tcp, Some(agreed)) if agreed.lower == Lower::Udp && agreed.interleaved.is_none() => {
                return self.end(ClientError::Transport("UDP is offered"));
            }
            (Lower::Udp, Some(agreed)) if agreed.lower == Lower::Tcp => {
                return self.end(ClientError::Transport("only the connection is offered"));
            }
            (Lower::Udp, Some(agreed)) if agreed.multicast => {
                return self.end(ClientError::Transport("multicast is offered"));
            }
            (Lower::Tcp, Some(agreed)) => track.channels = agreed.interleaved.unwrap_or(track.channels),
            (Lower::Udp, Some(agreed)) => {
                track.server_ports = agreed.server_ports.filter(|(rtp, rtcp)| *rtp != 0 && *rtcp != 0);
            }
            // Nothing said is what was asked for.
            (_, None) => {}
        }
        let (pair, ports) = (track.pair, track.server_ports);
        if let Some((rtp, rtcp)) = ports {
            // Something of ours on the way opens the firewalls between: an empty RTP packet of no payload type in use,
            // and an empty receiver report.
            let ssrc = self.settings.media.ssrc;
            let mut packet = vec![0x80, 0x7F, 0, 0, 0, 0, 0, 0];
            packet.extend_from_slice(&ssrc.to_be_bytes());
            let mut writer = rtcp::RtcpWriter::new();
            writer.receiver_report(ssrc, &[]);
            writer.canonical_name(ssrc, &self.settings.media.cname);
            for (is_rtcp, port, bytes) in [(false, rtp, packet), (true, rtcp, writer.finish())] {
                self.outputs.push_back(Output::Datagram { pair, is_rtcp, port, bytes: bytes.into() });
            }
        }
        self.set_up(now, number + 1);
    }

    fn play(&mut self, now: Instant) {
        self.step = Step::Play;
        let headers = vec![("Range", "npt=0.000-".to_owned())];
        self.ask(now, Method::Play, "PLAY", self.aggregate_url.clone(), headers);
    }

    fn on_play(&mut self, now: Instant) {
        self.step = Step::Playing;
        self.heard_at = now;
        self.next_keep_alive(now);
        let (video, audio) = self.has;
        // What came before belongs behind it.
        self.outputs.push_back(Output::Playing { video, audio });
        self.drain_media();
    }

    fn next_keep_alive(&mut self, now: Instant) {
        self.keep_alive_at = now + (self.session_timeout / 2).clamp(KEEP_ALIVE_MIN, KEEP_ALIVE_MAX);
    }

    fn keep_alive(&mut self, now: Instant) {
        self.next_keep_alive(now);
        let says = |name: &str| {
            self.methods
                .as_ref()
                .is_some_and(|methods| methods.split(',').any(|method| method.trim() == name))
        };
        // Where the server does not tell what it knows, everybody knows OPTIONS.
        let usable =
            |(_, name): &(Method, &str)| says(name) || (self.methods.is_none() && *name == "OPTIONS");
        let known = KEEP_ALIVES.into_iter().skip(self.keep_alive).find(usable);
        let (method, name) = known.unwrap_or((Method::Options, "OPTIONS"));
        self.ask(now, method, name, self.aggregate_url.clone(), Vec::new());
    }

    fn on_kept_alive(&mut self, now: Instant, status: u16) {
        match status {
            // The session is gone on the other side: what still comes will end.
            454 => self.end(ClientError::Ended),
            405 | 501 if self.keep_alive + 1 < KEEP_ALIVES.len() => {
                self.keep_alive += 1;
                self.keep_alive_at = now;
            }
            _ => {}
        }
    }

    /// Servers may ask too (RFC 2326 section 10).
    pub(super) fn on_request(&mut self, request: &Request) {
        let (status, over) = match request.method() {
            Method::Options | Method::GetParameter | Method::SetParameter | Method::Announce => {
                (StatusCode::Ok, None)
            }
            Method::Teardown => (StatusCode::Ok, Some(None)),
            Method::Redirect => (StatusCode::Ok, Some(request.header("Location").map(str::to_owned))),
            _ => (StatusCode::NotImplemented, None),
        };
        let mut response = Response::new(status);
        if let Some(cseq) = request.cseq() {
            response = response.with_header("CSeq", &cseq.to_string());
        }
        let mut bytes = Vec::new();
        response.write(&mut bytes);
        self.outputs.push_back(Output::Send(bytes.into()));
        match over {
            Some(Some(location)) => self.redirect(location),
            Some(None) => self.end(ClientError::Ended),
            None => {}
        }
    }

    pub(super) fn on_datagram(&mut self, now: Instant, pair: usize, is_rtcp: bool, bytes: &[u8]) {
        let track = self.tracks.iter().find(|track| track.pair == pair && track.lower == Lower::Udp);
        match track.map(|track| track.place) {
            Some(place) => self.on_packet(now, place, is_rtcp, bytes),
            None => self.unknown_packets += 1,
        }
    }

    pub(super) fn on_frame(&mut self, now: Instant, channel: u8, packet: &[u8]) {
        let of_channel = |track: &&Track| {
            track.lower == Lower::Tcp && (track.channels.0 == channel || track.channels.1 == channel)
        };
        match self.tracks.iter().find(of_channel).map(|track| (track.place, track.channels)) {
            Some((place, (_, rtcp))) => self.on_packet(now, place, channel == rtcp, packet),
            None => self.unknown_packets += 1,
        }
    }

    fn on_packet(&mut self, now: Instant, place: usize, is_rtcp: bool, packet: &[u8]) {
        let Some(media) = &mut self.media else { return };
        if self.step != Step::Playing {
            // Media may be faster than the answer to PLAY, but not for long.
            self.early_packets += 1;
            self.early_bytes = self.early_bytes.saturating_add(packet.len());
            if self.early_packets > EARLY_PACKETS_MAX || self.early_bytes > EARLY_BYTES_MAX {
                return;
            }
        }
        if is_rtcp {
            // What cannot be read is counted by the receiver.
            let _ = media.handle_rtcp(now, place, packet);
            let is_bye = |packet: &RtcpPacket| matches!(packet, RtcpPacket::Goodbye { .. });
            let ends = rtcp::parse(packet).is_ok_and(|packets| packets.iter().any(is_bye));
            // The end of a track is the end of its stream only where it is the stream: a camera's sound may be switched off.
            if ends && self.tracks.len() == 1 && self.step == Step::Playing {
                self.end(ClientError::Ended);
            }
        } else if media.handle_rtp(now, place, packet).is_ok() {
            self.heard_at = now;
            self.heard = true;
        }
    }

    pub(super) fn on_timeout(&mut self, now: Instant) {
        if let Some(media) = &mut self.media {
            media.handle_timeout(now);
        }
        if self.step == Step::Playing {
            // A source that does not answer keep-alives and goes on sending is no worse for it.
            if self.pending.as_ref().is_some_and(|pending| now >= pending.deadline) {
                self.pending = None;
            }
            if now >= self.silent_at() {
                let by_udp = matches!(self.settings.transport, Wanted::Udp(_));
                return self.end(match self.heard {
                    false if by_udp => ClientError::Transport("no datagram came"),
                    _ => ClientError::Silence,
                });
            }
            if now >= self.keep_alive_at {
                self.keep_alive(now);
            }
        } else if let Some(pending) = self.pending.as_ref().filter(|pending| now >= pending.deadline) {
            let name = pending.request.name;
            if self.step == Step::Options {
                // Some cameras answer everything but that.
                self.describe(now);
            } else if self.step != Step::Over {
                self.end(ClientError::NoAnswer(name));
            }
        }
    }

    fn silent_at(&self) -> Instant {
        let by_udp = matches!(self.settings.transport, Wanted::Udp(_));
        let limit =
            if by_udp && !self.heard { self.settings.datagram_limit } else { self.settings.silence_limit };
        self.heard_at + limit
    }

    fn deadline(&mut self) -> Instant {
        let receiver = self.media.as_mut().filter(|_| self.step == Step::Playing);
        let media = match receiver.map(MediaReceiver::poll_output) {
            Some(MediaOutput::Timeout(at)) => Some(at),
            _ => None,
        };
        let open = self.pending.as_ref().map(|pending| pending.deadline);
        let playing = (self.step == Step::Playing).then(|| self.silent_at().min(self.keep_alive_at));
        [media, open, playing]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(self.heard_at + self.settings.silence_limit)
    }

    /// Takes out what the receiver made. Before the source has agreed to play, it waits there.
    fn drain_media(&mut self) {
        if self.step != Step::Playing {
            return;
        }
        let Some(media) = &mut self.media else { return };
        loop {
            match media.poll_output() {
                MediaOutput::Video(unit) => self.outputs.push_back(Output::Video(unit)),
                MediaOutput::Audio(frame) => self.outputs.push_back(Output::Audio(frame)),
                MediaOutput::Gap => self.outputs.push_back(Output::Gap),
                MediaOutput::Rtcp { track: place, bytes } => {
                    let Some(track) = self.tracks.iter().find(|track| track.place == place) else { continue };
                    match (track.lower, track.server_ports) {
                        (Lower::Tcp, _) => {
                            let mut frame = Vec::with_capacity(bytes.len() + 4);
                            if write_frame_head(track.channels.1, bytes.len(), &mut frame).is_some() {
                                frame.extend_from_slice(&bytes);
                                self.outputs.push_back(Output::Send(frame.into()));
                            }
                        }
                        (Lower::Udp, Some((_, port))) => {
                            let (pair, bytes) = (track.pair, bytes.into());
                            self.outputs.push_back(Output::Datagram { pair, is_rtcp: true, port, bytes });
                        }
                        (Lower::Udp, None) => {}
                    }
                }
                MediaOutput::Timeout(_) => return,
            }
        }
    }
}

/// The first pair of channels that nobody has.
fn free_channels(taken: &mut Vec<(u8, u8)>) -> (u8, u8) {
    let used =
        |channel: u8, taken: &[(u8, u8)]| taken.iter().any(|(rtp, rtcp)| *rtp == channel || *rtcp == channel);
    let first = (0..=u8::MAX - 1).step_by(2).find(|n| !used(*n, taken) && !used(n + 1, taken)).unwrap_or(0);
    taken.push((first, first + 1));
    (first, first + 1)
}
