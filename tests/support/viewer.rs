//! A browser that watches, as far as a server can tell: Chromium's offer, ICE, DTLS, SRTP, and a receiver that asks again
//! for what is lost. It runs on the thread of the test.

use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use stillcast::base::clock::Clock;
use stillcast::base::metrics::Metrics;
use stillcast::base::wait::{Interest, Waiter};
use stillcast::media::track::AudioCodec;
use stillcast::media::unit::{AccessUnit, AudioFrame};
use stillcast::proto::demux::{self, Kind};
use stillcast::proto::dtls::{
    Certificate, Dtls, DtlsSettings, Fingerprint, Session as _, SessionOutput, Side,
};
use stillcast::proto::ice::Credentials;
use stillcast::proto::rtp::header::RtpPacket;
use stillcast::proto::rtp::pack_h264::packet;
use stillcast::proto::rtp::receiver::{
    Receiver, ReceiverOutput, ReceiverSettings, TrackKind, TrackSettings, VideoPayload,
};
use stillcast::proto::srtp::Srtp;
use stillcast::proto::stun::{Binding, Check, Class, Role};
use stillcast::services::colour::to_rgb;
use stillcast::services::decode::StreamDecoder;
use stillcast::services::test_card::read_number;

/// The offer of Chromium 156 for two tracks that it would receive, as it was recorded.
const OFFER: &str = include_str!("../data/sdp/chromium_156_play_offer.sdp");
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
const CONSENT_INTERVAL: Duration = Duration::from_millis(2500);

/// One viewer. See the module.
pub struct Viewer {
    clock: Clock,
    random: StdRng,
    local: Credentials,
    certificate: Arc<Certificate>,
    socket: UdpSocket,
    waiter: Waiter,
    remote: Option<(String, String)>,
    is_nominated: bool,
    next_check: Instant,
    session: Option<Dtls>,
    session_deadline: Option<Instant>,
    srtp: Option<Srtp>,
    receiver: Option<Receiver>,
    receiver_deadline: Option<Instant>,
    /// Payload type of repetitions, and payload type and source of what they repeat.
    rtx: Option<(u8, u8, u32)>,
    /// Pictures with the time of each.
    pub pictures: Vec<(Instant, AccessUnit)>,
    /// Frames of sound.
    pub sounds: Vec<AudioFrame>,
    /// RTP packets that came, repetitions included.
    pub packets: u64,
    /// Times that something was missing for good.
    pub gaps: u64,
    /// Said goodbye by the server.
    pub is_closed: bool,
}

/// The value of the first line that begins so.
fn value<'a>(sdp: &'a str, prefix: &str) -> Option<&'a str> {
    sdp.lines().find_map(|line| line.trim_end().strip_prefix(prefix))
}

/// Chromium's offer with these credentials and this certificate.
pub fn offer(local: &Credentials, certificate: &Certificate) -> String {
    let line = |line: &str| {
        let replaced = [
            ("a=ice-ufrag:", local.ufrag.clone()),
            ("a=ice-pwd:", local.pwd.clone()),
            ("a=fingerprint:", certificate.fingerprint_sha256().to_string()),
        ];
        let found = replaced.iter().find(|(prefix, _)| line.starts_with(prefix));
        found.map_or_else(|| line.to_owned(), |(prefix, value)| format!("{prefix}{value}")) + "\r\n"
    };
    OFFER.lines().map(line).collect()
}

impl Viewer {
    /// The numbers of the test cards that came, in the order of their coming, with width and height.
    ///
    /// # Panics
    /// When one cannot be decoded or shows no card.
    pub fn shown(&self) -> Vec<(u32, (u32, u32))> {
        let mut decoder = StreamDecoder::new(1 << 24, Metrics::new());
        let mut shown = Vec::new();
        for (seq, (_, unit)) in (0..).zip(&self.pictures) {
            let unit = AccessUnit { seq, ..unit.clone() };
            let rgb = to_rgb(&decoder.step(&unit, true).unwrap().unwrap());
            shown.push((read_number(&rgb.rgb, rgb.width, rgb.height).unwrap(), (rgb.width, rgb.height)));
        }
        shown
    }

    /// A viewer that has not offered yet.
    pub fn new(seed: u64) -> Self {
        let clock = Clock::real();
        let mut random = StdRng::seed_from_u64(seed);
        let local = Credentials::generate(&mut random);
        let now = clock.now();
        Self {
            clock,
            random,
            local,
            certificate: Arc::new(Certificate::generate().unwrap()),
            socket: UdpSocket::bind("127.0.0.1:0").unwrap(),
            waiter: Waiter::new().unwrap(),
            remote: None,
            is_nominated: false,
            next_check: now,
            session: None,
            session_deadline: None,
            srtp: None,
            receiver: None,
            receiver_deadline: None,
            rtx: None,
            pictures: Vec::new(),
            sounds: Vec::new(),
            packets: 0,
            gaps: 0,
            is_closed: false,
        }
    }

    /// The offer: Chromium's, with our credentials and certificate.
    pub fn offer(&self) -> String {
        offer(&self.local, &self.certificate)
    }

    /// Takes the answer; what the server sends goes to this viewer from here on. `way` is a relay in between.
    pub fn take_answer(&mut self, sdp: &str, way: Option<SocketAddr>) -> SocketAddr {
        let candidate: Vec<&str> = value(sdp, "a=candidate:").unwrap().split_whitespace().collect();
        let server = SocketAddr::new(candidate[4].parse().unwrap(), candidate[5].parse().unwrap());
        let now = self.clock.now();
        self.socket.connect(way.unwrap_or(server)).unwrap();
        self.socket.set_nonblocking(true).unwrap();
        let username = format!("{}:{}", value(sdp, "a=ice-ufrag:").unwrap(), self.local.ufrag);
        self.remote = Some((username, value(sdp, "a=ice-pwd:").unwrap().to_owned()));
        self.session = Some(Dtls::new(DtlsSettings {
            side: Side::Client,
            certificate: self.certificate.clone(),
            fingerprints: vec![Fingerprint::parse(value(sdp, "a=fingerprint:").unwrap()).unwrap()],
            handshake_timeout: Duration::from_secs(30),
        }));
        self.next_check = now;
        let number = |codec: &str| -> Option<u8> {
            let mut maps = sdp.lines().filter_map(|line| line.trim_end().strip_prefix("a=rtpmap:"));
            maps.find_map(|map| map.split_once(' ').filter(|(_, known)| *known == codec)?.0.parse().ok())
        };
        let rate = |rate| NonZeroU32::new(rate).unwrap();
        let track = |kind, payload_type, mid: &str, is_video| TrackSettings {
            kind,
            payload_types: vec![payload_type],
            ssrcs: vec![],
            mid: mid.into(),
            nack: is_video,
            pli: true,
            fir: false,
            remb: is_video,
            cvo_extension: None,
        };
        let mut tracks = Vec::new();
        for (codec, payload) in [("H264/90000", VideoPayload::H264), ("VP8/90000", VideoPayload::Vp8)] {
            let Some(video) = number(codec) else { continue };
            tracks.push(track(TrackKind::Video { codec: payload }, video, "1", true));
            let group = value(sdp, "a=ssrc-group:FID ").map(|group| group.split(' ').next().unwrap());
            self.rtx = group.and_then(|ssrc| Some((number("rtx/90000")?, video, ssrc.parse().unwrap())));
        }
        if let Some(opus) = number("opus/48000/2") {
            let kind = TrackKind::Audio { codec: AudioCodec::Opus, clock_rate: rate(48_000), channels: 2 };
            tracks.push(track(kind, opus, "0", false));
        }
        let settings = ReceiverSettings {
            local_ssrc: 5,
            cname: "viewer".into(),
            tracks,
            mid_extension: Some(4),
            abs_send_time_extension: Some(2),
            pixels_max: 8192 * 4352,
            bitrate_max_bps: 50_000_000,
            hold_back: Duration::from_millis(400),
            keyframe_interval: Duration::from_millis(300),
        };
        self.receiver = Some(Receiver::new(settings, now));
        server
    }

    fn send(&self, datagram: &[u8]) {
        // A lost datagram is a lost datagram.
        let _ = self.socket.send(datagram);
    }

    fn check(&mut self, now: Instant) {
        let Some((username, password)) = &self.remote else { return };
        let check = Check {
            transaction_id: self.random.random(),
            username,
            password,
            role: (Role::Controlling, 7),
            priority: 0x6E7F_1EFF,
            use_candidate: true,
        };
        self.send(&check.build());
        self.next_check = now + if self.is_nominated { CONSENT_INTERVAL } else { CHECK_INTERVAL };
    }

    fn handle(&mut self, now: Instant, datagram: &[u8]) {
        match demux::kind(datagram) {
            Some(Kind::Stun) => {
                let is_good = Binding::parse(datagram).is_ok_and(|answer| answer.class == Class::Success);
                if is_good && !std::mem::replace(&mut self.is_nominated, true) {
                    self.next_check = now + CONSENT_INTERVAL;
                    if let Some(session) = &mut self.session {
                        session.start(now);
                    }
                }
            }
            Some(Kind::Dtls) => {
                if let Some(session) = &mut self.session {
                    session.handle_datagram(now, datagram);
                }
            }
            Some(Kind::Rtp) => {
                let Some(plain) = self.srtp.as_mut().and_then(|srtp| srtp.unprotect_rtp(datagram).ok())
                else {
                    return;
                };
                self.packets += 1;
                let read = RtpPacket::parse(&plain).unwrap();
                let packet = match self.rtx {
                    Some((rtx, of, ssrc)) if read.payload_type == rtx => {
                        let sequence = u16::from_be_bytes([read.payload[0], read.payload[1]]);
                        packet(of, read.marker, sequence, read.timestamp, ssrc, &read.payload[2..])
                    }
                    _ => plain.to_vec(),
                };
                if let Some(receiver) = &mut self.receiver {
                    receiver.handle_rtp(now, &packet).unwrap();
                }
            }
            Some(Kind::Rtcp) => {
                let plain = self.srtp.as_mut().and_then(|srtp| srtp.unprotect_rtcp(datagram).ok());
                if let (Some(plain), Some(receiver)) = (plain, &mut self.receiver) {
                    receiver.handle_rtcp(now, &plain).unwrap();
                }
            }
            None => panic!("a datagram of no kind"),
        }
    }

    /// Sends and keeps what the parts have to say.
    fn drain(&mut self, now: Instant) {
        while let Some(session) = &mut self.session {
            match session.poll_output() {
                SessionOutput::Transmit(datagram) => self.send(&datagram),
                SessionOutput::Connected(keys) => self.srtp = Some(Srtp::new(keys).unwrap()),
                SessionOutput::Failed(failure) => panic!("{failure:?}"),
                SessionOutput::Closed => self.is_closed = true,
                SessionOutput::Timeout(at) => {
                    self.session_deadline = at;
                    break;
                }
            }
        }
        while let (Some(srtp), Some(receiver)) = (&mut self.srtp, &mut self.receiver) {
            match receiver.poll_output() {
                ReceiverOutput::Rtcp(compound) => {
                    let protected = srtp.protect_rtcp(&compound).unwrap();
                    self.send(&protected);
                }
                ReceiverOutput::Video(unit) => self.pictures.push((now, unit)),
                ReceiverOutput::Audio(frame) => self.sounds.push(frame),
                ReceiverOutput::Gap => self.gaps += 1,
                ReceiverOutput::Timeout(at) => {
                    self.receiver_deadline = Some(at);
                    break;
                }
            }
        }
    }

    /// Runs until something holds; says whether it did within `limit`.
    pub fn run_until(&mut self, limit: Duration, holds: impl Fn(&Self) -> bool) -> bool {
        let end = self.clock.now() + limit;
        let mut buffer = [0; 2048];
        loop {
            let now = self.clock.now();
            while let Ok(size) = self.socket.recv(&mut buffer) {
                self.handle(now, &buffer[..size]);
                self.drain(now);
            }
            if self.remote.is_some() && now >= self.next_check {
                self.check(now);
            }
            if self.session_deadline.is_some_and(|at| at <= now)
                && let Some(session) = &mut self.session
            {
                session.handle_timeout(now);
            }
            if self.receiver_deadline.is_some_and(|at| at <= now)
                && let Some(receiver) = &mut self.receiver
            {
                receiver.handle_timeout(now);
            }
            self.drain(now);
            if holds(self) {
                return true;
            }
            if now >= end {
                return false;
            }
            let deadlines = [Some(end), Some(self.next_check), self.session_deadline, self.receiver_deadline];
            let deadline = deadlines.into_iter().flatten().min();
            let socket = (self.socket.as_fd(), Interest::Read);
            self.waiter.wait_until(&[socket], now, deadline).unwrap();
        }
    }
}
