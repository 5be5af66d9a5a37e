//! A browser as far as a peer can tell: controlling ICE, DTLS client, SRTP, pictures that answer NACK and PLI.

use std::collections::{BTreeMap, VecDeque};

use super::*;
use crate::proto::rtp::header::RtpPacket;
use crate::proto::rtp::pack_h264::{PAYLOAD_BYTES_MAX, pack, packet};
use crate::proto::rtp::rtcp::{self, RtcpPacket};
use crate::proto::srtp::{MasterKey, Profile};
use crate::proto::stun::{Binding, Check, Class, Role};
use crate::services::test_card::{CardEncoder, CardSettings};

const VIDEO_SSRC: u32 = 1000;
const AUDIO_SSRC: u32 = 2000;
const VIDEO_TYPE: u8 = 102;
const AUDIO_TYPE: u8 = 111;
const FRAME_INTERVAL: Duration = Duration::from_nanos(33_333_333);

pub(super) struct Browser {
    clock: Clock,
    pub(super) address: SocketAddr,
    certificate: Arc<Certificate>,
    server_fingerprint: Option<Fingerprint>,
    username: String,
    pub(super) password: String,
    checks: u64,
    next_check: Instant,
    nominated: bool,
    session: Box<dyn Session>,
    session_started: bool,
    session_deadline: Option<Instant>,
    srtp: Option<Srtp>,
    pub(super) was_closed: bool,
    /// Datagrams to put on the link.
    pub(super) sent: VecDeque<Vec<u8>>,
    audio_sequence: u16,
    video_sequence: u16,
    encoder: Option<CardEncoder>,
    next_frame: Instant,
    /// Every unit that was encoded.
    pub(super) units: Vec<AccessUnit>,
    history: BTreeMap<u16, Vec<u8>>,
    last_keyframe: Option<Instant>,
    /// What it receives with when it watches.
    pub(super) receiver: Option<Receiver>,
    /// Payload type of repetitions, and of what they repeat.
    pub(super) rtx: Option<(u8, u8, u32)>,
    /// Pictures received, with the time of each.
    pub(super) watched: Vec<(Instant, AccessUnit)>,
    pub(super) heard: Vec<AudioFrame>,
    pub(super) repetitions: u64,
    receiver_deadline: Option<Instant>,
}

impl Browser {
    pub(super) fn new(clock: Clock, address: SocketAddr) -> Self {
        let now = clock.now();
        Self {
            clock,
            address,
            certificate: Arc::new(Certificate::generate().unwrap()),
            server_fingerprint: None,
            username: String::new(),
            password: String::new(),
            checks: 0,
            next_check: now,
            nominated: false,
            session: Box::new(SilentSession),
            session_started: false,
            session_deadline: None,
            srtp: None,
            was_closed: false,
            sent: VecDeque::new(),
            audio_sequence: 0,
            video_sequence: 65_000,
            encoder: None,
            next_frame: now,
            units: Vec::new(),
            history: BTreeMap::new(),
            last_keyframe: None,
            receiver: None,
            rtx: None,
            watched: Vec::new(),
            heard: Vec::new(),
            repetitions: 0,
            receiver_deadline: None,
        }
    }

    pub(super) fn offer(&self) -> String {
        let fingerprint = self.certificate.fingerprint_sha256();
        let transport = format!(
            "a=ice-ufrag:them\r\na=ice-pwd:0123456789012345678901\r\na=fingerprint:{fingerprint}\r\n\
             a=setup:actpass\r\na=sendonly\r\na=rtcp-mux\r\n"
        );
        format!(
            "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n\
             m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n{transport}\
             a=rtpmap:111 opus/48000/2\r\na=ssrc:{AUDIO_SSRC} cname:x\r\n\
             m=video 9 UDP/TLS/RTP/SAVPF 102\r\na=mid:1\r\n{transport}\
             a=rtpmap:102 H264/90000\r\na=fmtp:102 packetization-mode=1;profile-level-id=42e01f\r\n\
             a=rtcp-fb:102 nack\r\na=rtcp-fb:102 nack pli\r\na=rtcp-fb:102 goog-remb\r\n\
             a=ssrc:{VIDEO_SSRC} cname:x\r\n"
        )
    }

    /// The offer of one who watches; with or without repair by RFC 4588.
    pub(super) fn offer_to_watch(&self, rtx: bool) -> String {
        let rtx = if rtx { "a=rtpmap:103 rtx/90000\r\na=fmtp:103 apt=102\r\n" } else { "" };
        let mid = "a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\n";
        let abs = "a=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time\r\n";
        let offer = self.offer().replace("a=sendonly", "a=recvonly");
        let lines = offer.lines().filter(|line| !line.starts_with("a=ssrc:"));
        let offer: String = lines.map(|line| format!("{line}\r\n")).collect();
        let format = "a=rtpmap:102 H264/90000\r\n";
        offer.replace("SAVPF 102", "SAVPF 102 103").replace(format, &format!("{format}{rtx}{mid}{abs}"))
    }

    /// Takes the packets that the answer announces.
    pub(super) fn watch(&mut self, sdp: &str) {
        let track = |kind, payload_type: u8, mid: &str, nack| TrackSettings {
            kind,
            payload_types: vec![payload_type],
            ssrcs: vec![],
            mid: mid.into(),
            nack,
            pli: true,
            fir: false,
            remb: nack,
            cvo_extension: None,
        };
        let opus = TrackKind::Audio {
            codec: AudioCodec::Opus,
            clock_rate: NonZeroU32::new(48_000).unwrap(),
            channels: 2,
        };
        let video = TrackKind::Video { codec: VideoPayload::H264 };
        let settings = ReceiverSettings {
            local_ssrc: 5,
            cname: "viewer".into(),
            tracks: vec![track(video, VIDEO_TYPE, "1", true), track(opus, AUDIO_TYPE, "0", false)],
            mid_extension: Some(4),
            abs_send_time_extension: Some(2),
            pixels_max: 8192 * 4352,
            bitrate_max_bps: 10_000_000,
            hold_back: Duration::from_millis(400),
            keyframe_interval: KEYFRAME_INTERVAL_DEFAULT,
        };
        self.receiver = Some(Receiver::new(settings, self.clock.now()));
        let group = sdp.lines().find_map(|line| line.strip_prefix("a=ssrc-group:FID "));
        self.rtx = group.map(|group| (103, VIDEO_TYPE, group.split(' ').next().unwrap().parse().unwrap()));
    }

    /// A packet of media: what it repeats is put back (RFC 4588 section 4).
    fn receive(&mut self, datagram: &[u8]) {
        let now = self.clock.now();
        // The server may have its keys, and send, before the last of the handshake has come.
        let Some(srtp) = &mut self.srtp else { return };
        // A repetition may come beside what it repeats.
        let plain = match srtp.unprotect_rtp(datagram) {
            Err(crate::proto::srtp::SrtpError::Replayed) => return,
            other => other.unwrap(),
        };
        let read = RtpPacket::parse(&plain).unwrap();
        let packet = match self.rtx {
            Some((rtx, of, ssrc)) if read.payload_type == rtx => {
                self.repetitions += 1;
                let sequence = u16::from_be_bytes([read.payload[0], read.payload[1]]);
                packet(of, read.marker, sequence, read.timestamp, ssrc, &read.payload[2..])
            }
            _ => plain.to_vec(),
        };
        let receiver = self.receiver.as_mut().expect("nothing is sent to a publisher");
        receiver.handle_rtp(now, &packet).unwrap();
        self.drain_receiver();
    }

    pub(super) fn drain_receiver(&mut self) {
        let now = self.clock.now();
        let Some(receiver) = &mut self.receiver else { return };
        loop {
            match receiver.poll_output() {
                ReceiverOutput::Rtcp(compound) => {
                    let protected = self.srtp.as_mut().expect("keys").protect_rtcp(&compound).unwrap();
                    self.sent.push_back(protected.to_vec());
                }
                ReceiverOutput::Video(unit) => self.watched.push((now, unit)),
                ReceiverOutput::Audio(frame) => self.heard.push(frame),
                ReceiverOutput::Gap => {}
                ReceiverOutput::Timeout(at) => {
                    self.receiver_deadline = Some(at);
                    return;
                }
            }
        }
    }

    pub(super) fn take_answer(&mut self, sdp: &str, session: Option<Box<dyn Session>>) {
        let value = |name: &str| sdp.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
        self.username = format!("{}:them", value("a=ice-ufrag:"));
        self.password = value("a=ice-pwd:");
        self.server_fingerprint = Fingerprint::parse(&value("a=fingerprint:"));
        let certificate = Arc::clone(&self.certificate);
        self.session = session.unwrap_or_else(|| self.real_session(certificate));
    }

    fn real_session(&self, certificate: Arc<Certificate>) -> Box<dyn Session> {
        Box::new(Dtls::new(DtlsSettings {
            side: Side::Client,
            certificate,
            fingerprints: self.server_fingerprint.clone().into_iter().collect(),
            handshake_timeout: Duration::from_secs(10),
        }))
    }

    pub(super) fn certificate_of_somebody_else(&mut self) {
        self.session = self.real_session(Arc::new(Certificate::generate().unwrap()));
    }

    pub(super) fn silent_session(&mut self) {
        self.session = Box::new(SilentSession);
    }

    pub(super) fn connected(&self) -> bool {
        self.srtp.is_some() && self.nominated
    }

    pub(super) fn close(&mut self) {
        self.session.close();
        self.drain_session();
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let frame = self.encoder.as_ref().map(|_| self.next_frame);
        [Some(self.next_check), self.session_deadline, self.receiver_deadline, frame]
            .into_iter()
            .flatten()
            .min()
    }

    pub(super) fn handle_timeout(&mut self) {
        let now = self.clock.now();
        if now >= self.next_check {
            self.send_check(self.session_started);
        }
        if self.session_deadline.is_some_and(|at| at <= now) {
            self.session.handle_timeout(now);
            self.drain_session();
        }
        if self.receiver_deadline.is_some_and(|at| at <= now)
            && let Some(receiver) = &mut self.receiver
        {
            receiver.handle_timeout(now);
            self.drain_receiver();
        }
        while self.encoder.is_some() && now >= self.next_frame {
            self.next_frame += FRAME_INTERVAL;
            self.send_frame();
        }
    }

    pub(super) fn send_check(&mut self, use_candidate: bool) {
        self.checks += 1;
        let mut transaction_id = [0; 12];
        transaction_id[4..].copy_from_slice(&self.checks.to_be_bytes());
        let check = Check {
            transaction_id,
            username: &self.username,
            password: &self.password,
            role: (Role::Controlling, 7),
            priority: 1,
            use_candidate,
        };
        self.sent.push_back(check.build());
        let pause = if self.nominated { 2500 } else { 50 };
        self.next_check = self.clock.now() + Duration::from_millis(pause);
    }

    pub(super) fn handle_datagram(&mut self, datagram: &[u8]) {
        let now = self.clock.now();
        match demux::kind(datagram).expect("servers send nothing else") {
            Kind::Stun => {
                let mut answer = Binding::parse(datagram).unwrap();
                if answer.class == Class::Success {
                    assert!(answer.has_integrity_of(&self.password));
                    assert_eq!(answer.mapped_address(), Some(self.address));
                    self.nominated |= self.session_started;
                    if !self.session_started {
                        self.session_started = true;
                        self.send_check(true);
                        self.session.start(now);
                        self.drain_session();
                    }
                }
            }
            Kind::Dtls => {
                self.session.handle_datagram(now, datagram);
                self.drain_session();
            }
            Kind::Rtcp => {
                let Some(srtp) = &mut self.srtp else { return };
                let plain = srtp.unprotect_rtcp(datagram).unwrap();
                if let Some(receiver) = &mut self.receiver {
                    receiver.handle_rtcp(now, &plain).unwrap();
                }
                for packet in rtcp::parse(&plain).unwrap() {
                    self.handle_feedback(&packet);
                }
            }
            Kind::Rtp => self.receive(datagram),
        }
    }

    fn handle_feedback(&mut self, packet: &RtcpPacket) {
        match packet {
            RtcpPacket::Nack { sequences, .. } => {
                for sequence in sequences {
                    // As Chromium does without a repair stream: the same packet, encrypted as before.
                    self.sent.extend(self.history.get(sequence).cloned());
                }
            }
            RtcpPacket::PictureLoss { .. } => {
                let now = self.clock.now();
                let recent = self.last_keyframe.is_some_and(|at| now - at < Duration::from_millis(200));
                if let Some(encoder) = self.encoder.as_mut().filter(|_| !recent) {
                    encoder.request_keyframe();
                    self.last_keyframe = Some(now);
                }
            }
            _ => {}
        }
    }

    fn drain_session(&mut self) {
        loop {
            match self.session.poll_output() {
                SessionOutput::Transmit(datagram) => self.sent.push_back(datagram),
                SessionOutput::Connected(keys) => self.srtp = Some(Srtp::new(keys).unwrap()),
                SessionOutput::Failed(_) => return,
                SessionOutput::Closed => self.was_closed = true,
                SessionOutput::Timeout(at) => {
                    self.session_deadline = at;
                    return;
                }
            }
        }
    }

    pub(super) fn protect(&mut self, packet: &[u8]) -> Vec<u8> {
        self.srtp.as_mut().unwrap().protect_rtp(packet).unwrap().to_vec()
    }

    /// The next packet of sound, encrypted.
    pub(super) fn audio(&mut self, payload: &[u8]) -> Vec<u8> {
        self.audio_sequence += 1;
        let time = u32::from(self.audio_sequence) * 960;
        self.protect(&packet(AUDIO_TYPE, false, self.audio_sequence, time, AUDIO_SSRC, payload))
    }

    pub(super) fn send_audio(&mut self, payload: &[u8]) {
        let datagram = self.audio(payload);
        self.sent.push_back(datagram);
    }

    /// Thirty pictures a second from now on, with a keyframe at first and then on demand.
    pub(super) fn start_video(&mut self) {
        let settings = CardSettings { keyframe_interval: 0, ..CardSettings::sized(320, 180) };
        self.encoder = Some(CardEncoder::new(settings).unwrap());
        self.next_frame = self.clock.now();
    }

    fn send_frame(&mut self) {
        let number = u32::try_from(self.units.len()).unwrap();
        let (now, wall) = (self.clock.now(), self.clock.wall());
        let unit = self.encoder.as_mut().unwrap().encode(number, now, wall).unwrap();
        let payloads = pack(&unit, PAYLOAD_BYTES_MAX / 4).unwrap();
        let last = payloads.len() - 1;
        for (index, payload) in payloads.iter().enumerate() {
            let time = number.wrapping_mul(3000).wrapping_add(u32::MAX - 90_000);
            let packet = packet(VIDEO_TYPE, index == last, self.video_sequence, time, VIDEO_SSRC, payload);
            let datagram = self.protect(&packet);
            self.history.insert(self.video_sequence, datagram.clone());
            self.video_sequence = self.video_sequence.wrapping_add(1);
            self.sent.push_back(datagram);
        }
        self.units.push(unit);
    }
}

/// A key agreement that needs no clock: one word there, one back, repeated until heard.
pub(super) struct FakeSession {
    side: Side,
    next: Option<Instant>,
    connected: bool,
    outputs: VecDeque<SessionOutput>,
}

const WORD: [u8; 2] = [22, 7];

impl FakeSession {
    pub(super) fn server() -> Box<dyn Session> {
        Box::new(Self { side: Side::Server, next: None, connected: false, outputs: VecDeque::new() })
    }

    pub(super) fn client() -> Box<dyn Session> {
        Box::new(Self { side: Side::Client, next: None, connected: false, outputs: VecDeque::new() })
    }
}

impl Session for FakeSession {
    fn start(&mut self, now: Instant) {
        if self.side == Side::Client {
            self.handle_timeout(now);
        }
    }

    fn handle_datagram(&mut self, _: Instant, datagram: &[u8]) -> usize {
        if datagram != WORD {
            return 1;
        }
        if self.side == Side::Server {
            self.outputs.push_back(SessionOutput::Transmit(WORD.to_vec()));
        }
        self.next = None;
        if !std::mem::replace(&mut self.connected, true) {
            let key = |seed: u8| MasterKey { key: vec![seed; 16], salt: vec![seed; 14] };
            let (local, remote) = if self.side == Side::Server { (1, 2) } else { (2, 1) };
            let (local, remote) = (key(local), key(remote));
            let keys = Keys { profile: Profile::Aes128CmSha1_80, local, remote };
            self.outputs.push_back(SessionOutput::Connected(keys));
        }
        0
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.side == Side::Client && !self.connected {
            self.outputs.push_back(SessionOutput::Transmit(WORD.to_vec()));
            self.next = Some(now + Duration::from_millis(50));
        }
    }

    fn close(&mut self) {}

    fn poll_output(&mut self) -> SessionOutput {
        self.outputs.pop_front().unwrap_or(SessionOutput::Timeout(self.next))
    }
}

/// Never says anything.
struct SilentSession;

impl Session for SilentSession {
    fn start(&mut self, _: Instant) {}
    fn handle_datagram(&mut self, _: Instant, _: &[u8]) -> usize {
        0
    }
    fn handle_timeout(&mut self, _: Instant) {}
    fn close(&mut self) {}
    fn poll_output(&mut self) -> SessionOutput {
        SessionOutput::Timeout(None)
    }
}
