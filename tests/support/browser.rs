//! A browser that publishes, as far as a server can tell: an offer like Chromium's, controlling ICE with consent checks,
//! the client's side of DTLS, SRTP, paced packets with send times, a history that answers NACK, and a keyframe on PLI.
//!
//! Like the protocol code it stands on, it has no socket and no clock: time and datagrams go in, datagrams come out.
//! `publishers.rs` drives it over UDP.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use stillcast::proto::demux::{self, Kind};
use stillcast::proto::dtls::{Certificate, Dtls, DtlsSettings, Fingerprint, Session, SessionOutput, Side};
use stillcast::proto::ice::Credentials;
use stillcast::proto::rtp::rtcp::{self, RtcpPacket, RtcpWriter};
use stillcast::proto::srtp::Srtp;
use stillcast::proto::stun::{Binding, Check, Class, Role};

/// What a browser offers.
#[derive(Clone, Debug)]
pub struct BrowserSettings {
    /// Seeds all its randomness, sources and credentials included.
    pub seed: u64,
    /// With a camera.
    pub video: bool,
    /// With a microphone.
    pub audio: bool,
    /// What it shows in the handshake.
    pub certificate: Arc<Certificate>,
}

/// What comes out of a [`Browser`].
#[derive(Debug)]
pub enum BrowserOutput {
    /// A datagram for the server.
    Transmit(Bytes),
    /// Keys are agreed on: pictures may be sent.
    Connected,
    /// The server wants a keyframe.
    KeyframeWanted,
    /// The server is gone: it closed, failed the handshake, or stopped answering checks.
    Closed(&'static str),
    /// Nothing more; call [`Browser::handle_timeout`] then.
    Timeout(Instant),
}

/// Counts of one browser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BrowserStats {
    /// Video and audio packets sent, without repeats.
    pub packets: u64,
    /// Their bytes on the wire, without the headers of UDP and IP.
    pub bytes: u64,
    /// Packets sent again.
    pub repeated: u64,
    /// Sequence numbers that the server asked for again.
    pub nacks: u64,
    /// Keyframes that it asked for, by PLI.
    pub plis: u64,
    /// The same by FIR.
    pub firs: u64,
    /// Allowances that it sent.
    pub rembs: u64,
    /// The newest of them, in bits a second.
    pub remb_bps: u64,
    /// Receiver reports about our sources.
    pub reports: u64,
    /// The newest share of lost video packets among them, in 256ths.
    pub fraction_lost: u8,
}

/// What the server answered.
#[derive(Debug)]
struct Remote {
    username: String,
    password: String,
    fingerprints: Vec<Fingerprint>,
    abs_send_time: Option<u8>,
    orientation: Option<u8>,
}

#[derive(Debug)]
struct Sending {
    ssrc: u32,
    payload_type: u8,
    clock_rate: u32,
    sequence: u16,
    /// RTP time of the first tick.
    offset: u32,
    packets: u32,
    bytes: u32,
    /// RTP time of the newest packet and when it was made.
    newest: Option<(u32, Instant)>,
}

/// What the browser does between answer and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Offered,
    Checking,
    Nominating,
    Handshake,
    Connected,
    Closed,
}

/// One publisher. See the module.
pub struct Browser {
    settings: BrowserSettings,
    random: StdRng,
    origin: Instant,
    local: Credentials,
    phase: Phase,
    remote: Option<Remote>,
    tie_breaker: u64,
    asked: VecDeque<[u8; 12]>,
    next_check: Instant,
    consent: Instant,
    session: Option<Box<dyn Session>>,
    session_deadline: Option<Instant>,
    srtp: Option<Srtp>,
    video: Option<Sending>,
    audio: Option<Sending>,
    orientation: u8,
    /// What its pictures are coded in, as `rtpmap` has it.
    video_codec: &'static str,
    paced: VecDeque<Bytes>,
    next_burst: Instant,
    history: VecDeque<(u16, Bytes)>,
    fir_numbers: HashMap<u32, u8>,
    next_report: Instant,
    outputs: VecDeque<BrowserOutput>,
    stats: BrowserStats,
}

/// The offer of Chromium 156 for camera and microphone, as it was recorded.
const OFFER: &str = include_str!("../data/sdp/chromium_156_publish_offer.sdp");
const RECORDED_AUDIO_SSRC: &str = "633412711";
const RECORDED_VIDEO_SSRC: &str = "3381001957";
const RECORDED_RTX_SSRC: &str = "696213111";
/// Between checks before the first answer (RFC 8445 section 14.2: 50 ms).
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Between consent checks: Chromium's pace on a stable connection.
const CONSENT_INTERVAL: Duration = Duration::from_millis(2500);
/// Without an answer for so long the server is gone (RFC 7675).
const CONSENT_TIMEOUT: Duration = Duration::from_secs(30);
/// Packets sent at once, and the pause between: 19 Mbit/s, so that a keyframe does not overrun a socket's buffer.
const BURST_PACKETS: usize = 10;
const BURST_INTERVAL: Duration = Duration::from_millis(5);
/// Packets kept for NACK: a second of 3 Mbit/s.
const HISTORY_PACKETS: usize = 320;
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
const ABS_SEND_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";
const ORIENTATION: &str = "urn:3gpp:video-orientation";

impl Browser {
    /// A browser that has not offered yet.
    pub fn new(settings: BrowserSettings, now: Instant) -> Self {
        let mut random = StdRng::seed_from_u64(settings.seed);
        let local = Credentials::generate(&mut random);
        let mut sending = |clock_rate| Sending {
            // The lowest bit tells sources of one browser apart.
            ssrc: random.random::<u32>() & !3 | u32::from(clock_rate == 90_000),
            payload_type: 0,
            clock_rate,
            sequence: random.random(),
            offset: random.random(),
            packets: 0,
            bytes: 0,
            newest: None,
        };
        let video = settings.video.then(|| sending(90_000));
        let audio = settings.audio.then(|| sending(48_000));
        let tie_breaker = random.random();
        Self {
            settings,
            random,
            origin: now,
            local,
            phase: Phase::Offered,
            remote: None,
            tie_breaker,
            asked: VecDeque::new(),
            next_check: now,
            consent: now,
            session: None,
            session_deadline: None,
            srtp: None,
            video,
            audio,
            orientation: 0,
            video_codec: "H264/90000",
            paced: VecDeque::new(),
            next_burst: now,
            history: VecDeque::new(),
            fir_numbers: HashMap::new(),
            next_report: now,
            outputs: VecDeque::new(),
            stats: BrowserStats::default(),
        }
    }

    /// It has no H.264: it offers VP8 and what nobody takes, and sends VP8.
    pub fn without_h264(&mut self) {
        self.video_codec = "VP8/90000";
    }

    /// The offer: Chromium's, with our credentials, certificate and sources.
    pub fn offer(&self) -> String {
        let sections: Vec<&str> = OFFER.split("m=").collect();
        let mids: Vec<&str> = [(self.settings.audio, "0"), (self.settings.video, "1")]
            .iter()
            .filter(|s| s.0)
            .map(|s| s.1)
            .collect();
        let mut offer = sections[0].replace("BUNDLE 0 1", &format!("BUNDLE {}", mids.join(" ")));
        for section in &sections[1..] {
            let is_taken =
                if section.starts_with("audio") { self.settings.audio } else { self.settings.video };
            if is_taken {
                offer.push_str("m=");
                offer.push_str(section);
            }
        }
        let ssrc = |sending: &Option<Sending>| sending.as_ref().map_or(0, |sending| sending.ssrc);
        let sources = [
            (RECORDED_AUDIO_SSRC, ssrc(&self.audio)),
            (RECORDED_VIDEO_SSRC, ssrc(&self.video)),
            (RECORDED_RTX_SSRC, ssrc(&self.video) + 1),
        ];
        for (recorded, ours) in sources {
            offer = offer.replace(recorded, &ours.to_string());
        }
        let is_offered = |line: &&str| !line.contains("H264/90000") || self.video_codec == "H264/90000";
        let mut lines: Vec<String> = offer.lines().filter(is_offered).map(str::to_owned).collect();
        for line in &mut lines {
            if line.starts_with("a=ice-ufrag:") {
                *line = format!("a=ice-ufrag:{}", self.local.ufrag);
            } else if line.starts_with("a=ice-pwd:") {
                *line = format!("a=ice-pwd:{}", self.local.pwd);
            } else if line.starts_with("a=fingerprint:") {
                *line = format!("a=fingerprint:{}", self.settings.certificate.fingerprint_sha256());
            }
        }
        lines.join("\r\n") + "\r\n"
    }

    /// Takes the answer; returns where to send.
    ///
    /// # Panics
    /// When it lacks anything that a browser needs: a test should see that at once.
    pub fn take_answer(&mut self, now: Instant, answer: &str) -> SocketAddr {
        let value = |prefix: &str| {
            let found = answer.lines().find_map(|line| line.trim_end().strip_prefix(prefix));
            found.unwrap_or_else(|| panic!("no {prefix} in {answer}")).to_owned()
        };
        assert!(value("a=setup:") == "passive", "{answer}");
        // a=candidate:1 1 udp 2130706431 203.0.113.7 31002 typ host
        let candidate = value("a=candidate:");
        let parts: Vec<&str> = candidate.split_whitespace().collect();
        let address = SocketAddr::new(parts[4].parse().unwrap(), parts[5].parse().unwrap());
        let extension = |uri: &str| {
            let mut lines = answer.lines().filter_map(|line| line.trim_end().strip_prefix("a=extmap:"));
            lines.find_map(|line| line.split_once(' ').filter(|(_, known)| *known == uri)?.0.parse().ok())
        };
        let payload_type = |codec: &str| {
            let mut lines = answer.lines().filter_map(|line| line.trim_end().strip_prefix("a=rtpmap:"));
            let found = lines.find_map(|line| line.split_once(' ').filter(|(_, known)| *known == codec));
            found.unwrap_or_else(|| panic!("no {codec} in {answer}")).0.parse().unwrap()
        };
        if let Some(video) = &mut self.video {
            video.payload_type = payload_type(self.video_codec);
        }
        if let Some(audio) = &mut self.audio {
            audio.payload_type = payload_type("opus/48000/2");
        }
        self.remote = Some(Remote {
            username: format!("{}:{}", value("a=ice-ufrag:"), self.local.ufrag),
            password: value("a=ice-pwd:"),
            fingerprints: vec![Fingerprint::parse(&value("a=fingerprint:")).unwrap()],
            abs_send_time: extension(ABS_SEND_TIME),
            orientation: extension(ORIENTATION),
        });
        self.phase = Phase::Checking;
        (self.next_check, self.consent) = (now, now);
        address
    }

    /// Whether pictures may be sent.
    pub fn is_connected(&self) -> bool {
        self.phase == Phase::Connected
    }

    /// Counts so far.
    pub fn stats(&self) -> BrowserStats {
        self.stats
    }

    /// How the camera is held from the next picture on: clockwise quarter turns that the viewer must apply.
    pub fn set_orientation(&mut self, quarter_turns: u8) {
        self.orientation = quarter_turns & 3;
    }

    /// Takes a datagram of the server.
    pub fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) {
        if self.phase == Phase::Closed {
            return;
        }
        match demux::kind(datagram) {
            Some(Kind::Stun) => self.handle_stun(now, datagram),
            Some(Kind::Dtls) => {
                if let Some(session) = &mut self.session {
                    session.handle_datagram(now, datagram);
                }
            }
            Some(Kind::Rtcp) => {
                let plain = self.srtp.as_mut().and_then(|srtp| srtp.unprotect_rtcp(datagram).ok());
                if let Some(plain) = plain {
                    self.handle_rtcp(&plain);
                }
            }
            _ => {}
        }
        self.drain_session(now);
    }

    fn handle_stun(&mut self, now: Instant, datagram: &[u8]) {
        let (Ok(mut binding), Some(remote)) = (Binding::parse(datagram), &self.remote) else { return };
        let is_ours = self.asked.contains(&binding.transaction_id());
        if binding.class != Class::Success || !is_ours || !binding.has_integrity_of(&remote.password) {
            return;
        }
        self.consent = now;
        match self.phase {
            Phase::Checking => {
                self.phase = Phase::Nominating;
                self.asked.clear();
                self.next_check = now;
            }
            Phase::Nominating => {
                self.phase = Phase::Handshake;
                self.next_check = now + CONSENT_INTERVAL;
                let mut session = Dtls::new(DtlsSettings {
                    side: Side::Client,
                    certificate: self.settings.certificate.clone(),
                    fingerprints: remote.fingerprints.clone(),
                    handshake_timeout: Duration::from_secs(30),
                });
                session.start(now);
                self.session = Some(Box::new(session));
            }
            _ => {}
        }
    }

    fn drain_session(&mut self, now: Instant) {
        let Some(session) = &mut self.session else { return };
        loop {
            match session.poll_output() {
                SessionOutput::Transmit(datagram) => {
                    self.outputs.push_back(BrowserOutput::Transmit(datagram.into()));
                }
                SessionOutput::Connected(keys) => {
                    self.srtp = Some(Srtp::new(keys).unwrap());
                    self.phase = Phase::Connected;
                    self.next_report = now;
                    self.outputs.push_back(BrowserOutput::Connected);
                }
                SessionOutput::Failed(_) => return self.end("handshake failed"),
                SessionOutput::Closed => return self.end("closed by the server"),
                SessionOutput::Timeout(at) => {
                    self.session_deadline = at;
                    return;
                }
            }
        }
    }

    fn end(&mut self, why: &'static str) {
        if self.phase != Phase::Closed {
            self.phase = Phase::Closed;
            self.outputs.push_back(BrowserOutput::Closed(why));
        }
    }

    fn handle_rtcp(&mut self, compound: &[u8]) {
        let is_ours = |sending: &Option<Sending>, ssrc| sending.as_ref().is_some_and(|s| s.ssrc == ssrc);
        for packet in rtcp::parse(compound).unwrap_or_default() {
            match packet {
                RtcpPacket::ReceiverReport { blocks, .. } => {
                    for block in blocks {
                        self.stats.reports += 1;
                        if is_ours(&self.video, block.ssrc) {
                            self.stats.fraction_lost = block.fraction_lost;
                        }
                    }
                }
                RtcpPacket::Nack { media_ssrc, sequences } if is_ours(&self.video, media_ssrc) => {
                    self.repeat(&sequences);
                }
                RtcpPacket::PictureLoss { media_ssrc } if is_ours(&self.video, media_ssrc) => {
                    self.stats.plis += 1;
                    self.outputs.push_back(BrowserOutput::KeyframeWanted);
                }
                RtcpPacket::FullIntra { commands } => {
                    for (ssrc, number) in commands {
                        // The same number is the same command, repeated (RFC 5104 section 4.3.1.1).
                        if is_ours(&self.video, ssrc) && self.fir_numbers.insert(ssrc, number) != Some(number)
                        {
                            self.stats.firs += 1;
                            self.outputs.push_back(BrowserOutput::KeyframeWanted);
                        }
                    }
                }
                RtcpPacket::Remb { bitrate_bps, .. } => {
                    self.stats.rembs += 1;
                    self.stats.remb_bps = bitrate_bps;
                }
                _ => {}
            }
        }
    }

    fn repeat(&mut self, sequences: &[u16]) {
        self.stats.nacks += sequences.len() as u64;
        for &sequence in sequences {
            // The newest packet with this number, should it be there twice.
            if let Some((_, packet)) = self.history.iter().rev().find(|(known, _)| *known == sequence) {
                self.stats.repeated += 1;
                self.outputs.push_back(BrowserOutput::Transmit(packet.clone()));
            }
        }
    }

    /// Sends a picture that was cut into payloads, `ticks` of 90 kHz after the first one. Nothing is sent before the
    /// browser is connected.
    pub fn send_video(&mut self, now: Instant, ticks: u64, payloads: &[Vec<u8>]) {
        let orientation = self.remote.as_ref().and_then(|remote| remote.orientation);
        let orientation = orientation.map(|id| (id, self.orientation));
        for (position, payload) in payloads.iter().enumerate() {
            let is_last = position + 1 == payloads.len();
            let packet = self.packet(now, true, ticks, is_last, payload, orientation.filter(|_| is_last));
            let Some((sequence, packet)) = packet else { return };
            self.history.push_back((sequence, packet.clone()));
            if self.history.len() > HISTORY_PACKETS {
                self.history.pop_front();
            }
            self.paced.push_back(packet);
        }
        self.burst(now);
    }

    /// Sends a frame of sound, `ticks` of 48 kHz after the first one.
    pub fn send_audio(&mut self, now: Instant, ticks: u64, payload: &[u8]) {
        let packet = self.packet(now, false, ticks, false, payload, None);
        self.outputs.extend(packet.map(|(_, packet)| BrowserOutput::Transmit(packet)));
    }

    /// A protected packet with its sequence number.
    fn packet(
        &mut self,
        now: Instant,
        is_video: bool,
        ticks: u64,
        marker: bool,
        payload: &[u8],
        orientation: Option<(u8, u8)>,
    ) -> Option<(u16, Bytes)> {
        let (srtp, remote) = (self.srtp.as_mut()?, self.remote.as_ref()?);
        let sending = if is_video { self.video.as_mut()? } else { self.audio.as_mut()? };
        let sequence = sending.sequence;
        sending.sequence = sequence.wrapping_add(1);
        let time = sending.offset.wrapping_add(ticks as u32);
        sending.newest = Some((time, now));
        sending.packets = sending.packets.wrapping_add(1);
        sending.bytes = sending.bytes.wrapping_add(payload.len() as u32);

        let mut extensions = Vec::new();
        if let Some(id) = remote.abs_send_time {
            let stamp = (now.duration_since(self.origin).as_secs_f64() * f64::from(1 << 18)) as u64;
            extensions.push(id << 4 | 2);
            extensions.extend_from_slice(&(stamp as u32 & 0xFF_FFFF).to_be_bytes()[1..]);
        }
        if let Some((id, turns)) = orientation {
            extensions.extend_from_slice(&[id << 4, turns]);
        }
        extensions.resize(extensions.len().next_multiple_of(4), 0);

        let mut packet = Vec::with_capacity(16 + extensions.len() + payload.len() + 16);
        let has_extensions = u8::from(!extensions.is_empty());
        packet.extend_from_slice(&[0x80 | has_extensions << 4, u8::from(marker) << 7 | sending.payload_type]);
        packet.extend_from_slice(&sequence.to_be_bytes());
        packet.extend_from_slice(&time.to_be_bytes());
        packet.extend_from_slice(&sending.ssrc.to_be_bytes());
        if !extensions.is_empty() {
            packet.extend_from_slice(&[0xBE, 0xDE]);
            packet.extend_from_slice(&((extensions.len() / 4) as u16).to_be_bytes());
            packet.extend_from_slice(&extensions);
        }
        packet.extend_from_slice(payload);
        let protected = srtp.protect_rtp(&packet).unwrap();
        self.stats.packets += 1;
        self.stats.bytes += protected.len() as u64;
        Some((sequence, protected))
    }

    fn burst(&mut self, now: Instant) {
        if self.paced.is_empty() || now < self.next_burst {
            return;
        }
        let count = self.paced.len().min(BURST_PACKETS);
        self.outputs.extend(self.paced.drain(..count).map(BrowserOutput::Transmit));
        self.next_burst = now + BURST_INTERVAL;
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Offered | Phase::Closed) {
            return;
        }
        if now.saturating_duration_since(self.consent) >= CONSENT_TIMEOUT {
            return self.end("no answer to checks");
        }
        if now >= self.next_check {
            self.check();
            let is_open = matches!(self.phase, Phase::Checking | Phase::Nominating);
            self.next_check = now + if is_open { CHECK_INTERVAL } else { CONSENT_INTERVAL };
        }
        if self.session_deadline.is_some_and(|at| at <= now)
            && let Some(session) = &mut self.session
        {
            session.handle_timeout(now);
        }
        self.drain_session(now);
        self.burst(now);
        if self.phase == Phase::Connected && now >= self.next_report {
            self.next_report = now + REPORT_INTERVAL;
            self.report(now);
        }
    }

    fn check(&mut self) {
        let Some(remote) = &self.remote else { return };
        let transaction_id: [u8; 12] = self.random.random();
        let check = Check {
            transaction_id,
            username: &remote.username,
            password: &remote.password,
            role: (Role::Controlling, self.tie_breaker),
            priority: 0x6E7F_1EFF,
            use_candidate: self.phase != Phase::Checking,
        };
        let bytes = check.build();
        self.asked.push_back(transaction_id);
        if self.asked.len() > 16 {
            self.asked.pop_front();
        }
        self.outputs.push_back(BrowserOutput::Transmit(bytes.into()));
    }

    /// Sender reports, one compound a source as Chromium does.
    fn report(&mut self, now: Instant) {
        let Some(srtp) = &mut self.srtp else { return };
        for sending in [&self.video, &self.audio].into_iter().flatten() {
            let Some((time, made)) = sending.newest else { continue };
            let since = now.saturating_duration_since(made).as_secs_f64();
            let rtp_time = time.wrapping_add((since * f64::from(sending.clock_rate)) as u32);
            // Any epoch will do: nobody compares this clock with another one.
            let ntp = (now.duration_since(self.origin).as_secs_f64() * 4_294_967_296.0) as u64 + (1 << 40);
            let mut writer = RtcpWriter::new();
            writer.sender_report(sending.ssrc, ntp, rtp_time, (sending.packets, sending.bytes), &[]);
            writer.canonical_name(sending.ssrc, "PfmdvP2OpfJzdknd");
            let protected = srtp.protect_rtcp(&writer.finish()).unwrap();
            self.outputs.push_back(BrowserOutput::Transmit(protected));
        }
    }

    /// Closes as a page does that is left: the server is told by DTLS.
    pub fn close(&mut self) {
        if let Some(session) = &mut self.session {
            session.close();
            while let SessionOutput::Transmit(datagram) = session.poll_output() {
                self.outputs.push_back(BrowserOutput::Transmit(datagram.into()));
            }
        }
        self.phase = Phase::Closed;
    }

    /// The next output; call until it is [`BrowserOutput::Timeout`].
    pub fn poll_output(&mut self) -> BrowserOutput {
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        let far = self.origin + Duration::from_secs(1 << 30);
        BrowserOutput::Timeout(match self.phase {
            Phase::Offered | Phase::Closed => far,
            _ => {
                let burst = (!self.paced.is_empty()).then_some(self.next_burst);
                let report = (self.phase == Phase::Connected).then_some(self.next_report);
                let others = [self.session_deadline, burst, report];
                others.into_iter().flatten().fold(self.next_check, Instant::min)
            }
        })
    }
}
