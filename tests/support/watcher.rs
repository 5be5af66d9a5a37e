//! A browser that watches, cheaply: what a server sees of it is the whole of it (ICE, DTLS, SRTP, reports, NACK), but it
//! decrypts only what it must, and looks at no picture. So a hundred of them do not outweigh the server that they measure.
//!
//! `watchers.rs` drives many of them on few threads. It can offer, as pages do, or answer an offer, as the streaming plug-in
//! of Janus wants it; from then on both are the same.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use stillcast::proto::demux::{self, Kind};
use stillcast::proto::dtls::{
    Certificate, Dtls, DtlsSettings, Fingerprint, Session as _, SessionOutput, Side,
};
use stillcast::proto::ice::Credentials;
use stillcast::proto::rtp::header::RtpPacket;
use stillcast::proto::rtp::rtcp::{ReportBlock, RtcpWriter};
use stillcast::proto::srtp::Srtp;
use stillcast::proto::stun::{Binding, Check, Class, Role};

use super::viewer;

/// Between checks before the first answer (RFC 8445 section 14.2), and on a stable connection, as in Chromium.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
const CONSENT_INTERVAL: Duration = Duration::from_millis(2500);
/// Between two receiver reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// A packet is asked for again so often, and not for longer than that.
const NACK_INTERVAL: Duration = Duration::from_millis(100);
const NACK_FOR: Duration = Duration::from_secs(1);
/// Packets that may be missing at a time; of a longer hole the rest is given up.
const MISSING_MAX: usize = 128;
const DATAGRAM_BYTES: usize = 2048;
/// The last bytes of a picture, which tell it from all others of a clip.
const TAIL_BYTES: usize = 16;

/// How far a watcher goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It watches.
    Watches,
    /// It never sends a connectivity check.
    NeverChecks,
    /// It checks, and never begins the handshake.
    NeverShakesHands,
}

/// When the pictures of a publisher left it, by their last bytes, and how long they were on their way to watchers.
#[derive(Debug, Default)]
pub struct Departures {
    left: Mutex<HashMap<[u8; TAIL_BYTES], Departure>>,
    travelled: Mutex<Vec<Travel>>,
}

/// When a picture left its publisher.
#[derive(Clone, Copy, Debug)]
pub struct Departure {
    /// It was due: what a camera would call its moment.
    pub captured: Instant,
    /// Its last packet was handed to the system.
    pub sent: Instant,
}

/// How long a picture was on its way to one watcher, until its last packet came.
#[derive(Clone, Copy, Debug)]
pub struct Travel {
    /// Since it was due.
    pub since_captured: Duration,
    /// Since its last packet left.
    pub since_sent: Duration,
}

impl Departures {
    /// Notes that the picture whose last payload this is has left.
    pub fn note(&self, last_payload: &[u8], departure: Departure) {
        if let Some(tail) = last_payload.last_chunk() {
            // A clip that loops sends the same picture again long after everybody has got it.
            self.left.lock().insert(*tail, departure);
        }
    }

    /// The ways of all pictures that came since the last call, to whomever.
    pub fn take(&self) -> Vec<Travel> {
        std::mem::take(&mut self.travelled.lock())
    }

    fn arrived(&self, last_payload: &[u8], now: Instant) {
        let tail = last_payload.last_chunk::<TAIL_BYTES>();
        let left = tail.and_then(|tail| self.left.lock().get(tail).copied());
        let since = |moment| now.saturating_duration_since(moment);
        self.travelled.lock().extend(
            left.map(|left| Travel { since_captured: since(left.captured), since_sent: since(left.sent) }),
        );
    }
}

/// Counts of one watcher.
#[derive(Clone, Copy, Debug, Default)]
pub struct WatcherStats {
    /// Video packets, repetitions included.
    pub packets: u64,
    /// Their bytes, without the headers of UDP and IP.
    pub bytes: u64,
    /// Pictures whose last packet came.
    pub pictures: u64,
    /// Packets that did not come in their place.
    pub missed: u64,
    /// Those of them that never came.
    pub lost: u64,
    /// Packets that were decrypted.
    pub checked: u64,
    /// Those of them that were not authentic.
    pub forged: u64,
    /// When the first picture's last packet came.
    pub first_picture: Option<Instant>,
    /// The server said goodbye.
    pub is_closed: bool,
    /// The handshake failed.
    pub has_failed: bool,
}

/// What is known of the other side.
#[derive(Debug)]
struct Remote {
    username: String,
    password: String,
    payload_type: u8,
}

/// Sequence numbers of the video, as RFC 3550 appendix A counts them.
#[derive(Debug)]
struct Reception {
    ssrc: u32,
    /// The newest, not wrapped, counted from the first one.
    newest: u64,
    first: u64,
    missing: VecDeque<(u64, Instant, Instant)>,
    /// Expected and lost at the last report.
    reported: (u64, u64),
    newest_report: Option<(u32, Instant)>,
}

/// One watcher. See the module.
pub struct Watcher {
    manner: Manner,
    /// Of so many packets one is checked and decrypted.
    check_every: u64,
    departures: Option<Arc<Departures>>,
    random: StdRng,
    local: Credentials,
    certificate: Arc<Certificate>,
    socket: UdpSocket,
    remote: Option<Remote>,
    next_check: Option<Instant>,
    is_nominated: bool,
    session: Option<Dtls>,
    session_deadline: Option<Instant>,
    srtp: Option<Srtp>,
    reception: Option<Reception>,
    next_report: Option<Instant>,
    /// Counts so far.
    pub stats: WatcherStats,
}

/// The first line that begins so, without that.
fn value<'a>(sdp: &'a str, prefix: &str) -> Option<&'a str> {
    sdp.lines().find_map(|line| line.trim_end().strip_prefix(prefix))
}

impl Watcher {
    /// One that has neither offered nor answered. Of `check_every` packets one is decrypted; with `departures`, the last
    /// packet of each picture beside them.
    pub fn new(
        seed: u64,
        certificate: Arc<Certificate>,
        manner: Manner,
        check_every: u64,
        departures: Option<Arc<Departures>>,
    ) -> io::Result<Self> {
        let mut random = StdRng::seed_from_u64(seed);
        let local = Credentials::generate(&mut random);
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            manner,
            check_every: check_every.max(1),
            departures,
            random,
            local,
            certificate,
            socket,
            remote: None,
            next_check: None,
            is_nominated: false,
            session: None,
            session_deadline: None,
            srtp: None,
            reception: None,
            next_report: None,
            stats: WatcherStats::default(),
        })
    }

    /// The socket, for waiting.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// The offer: Chromium's.
    pub fn offer(&self) -> String {
        viewer::offer(&self.local, &self.certificate)
    }

    /// Takes the answer.
    ///
    /// # Panics
    /// When it lacks what a browser needs.
    pub fn take_answer(&mut self, now: Instant, answer: &str) -> io::Result<()> {
        let candidates = answer.lines().filter_map(|line| line.trim_end().strip_prefix("a=candidate:"));
        let address = candidates
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|parts| parts[1] == "1" && parts[2].eq_ignore_ascii_case("udp"))
            .find_map(|parts| {
                let address = SocketAddr::new(parts[4].parse().ok()?, parts[5].parse().ok()?);
                address.is_ipv4().then_some(address)
            });
        self.socket.connect(address.expect("a candidate of IPv4"))?;
        let mut maps = answer.lines().filter_map(|line| line.trim_end().strip_prefix("a=rtpmap:"));
        let payload_type = maps.find_map(|map| map.strip_suffix(" H264/90000")).expect("H.264");
        self.remote = Some(Remote {
            username: format!("{}:{}", value(answer, "a=ice-ufrag:").unwrap(), self.local.ufrag),
            password: value(answer, "a=ice-pwd:").unwrap().to_owned(),
            payload_type: payload_type.parse().unwrap(),
        });
        self.session = Some(Dtls::new(DtlsSettings {
            side: Side::Client,
            certificate: self.certificate.clone(),
            fingerprints: vec![Fingerprint::parse(value(answer, "a=fingerprint:").unwrap()).unwrap()],
            handshake_timeout: Duration::from_secs(30),
        }));
        self.next_check = (self.manner != Manner::NeverChecks).then_some(now);
        Ok(())
    }

    /// Takes an offer of one section of video, and answers it: we are active, and receive what is offered.
    ///
    /// # Panics
    /// When it lacks what a browser needs.
    pub fn answer(&mut self, now: Instant, offer: &str) -> io::Result<String> {
        self.take_answer(now, offer)?;
        let payload_type = self.remote.as_ref().unwrap().payload_type;
        let mut lines = vec![
            "v=0".to_owned(),
            "o=- 4675426227351855131 2 IN IP4 127.0.0.1".to_owned(),
            "s=-".to_owned(),
            "t=0 0".to_owned(),
        ];
        lines.extend(value(offer, "a=group:BUNDLE").map(|mids| format!("a=group:BUNDLE{mids}")));
        lines.extend([
            format!("m=video 9 UDP/TLS/RTP/SAVPF {payload_type}"),
            "c=IN IP4 0.0.0.0".to_owned(),
            format!("a=ice-ufrag:{}", self.local.ufrag),
            format!("a=ice-pwd:{}", self.local.pwd),
            format!("a=fingerprint:{}", self.certificate.fingerprint_sha256()),
            "a=setup:active".to_owned(),
        ]);
        // Header extensions and feedback as they are offered: a browser knows all of them.
        for line in offer.lines().map(str::trim_end) {
            let of_codec = format!(":{payload_type} ");
            let is_codec = ["a=rtpmap", "a=fmtp", "a=rtcp-fb"]
                .iter()
                .any(|name| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(&of_codec)));
            if is_codec || line.starts_with("a=mid:") || line.starts_with("a=extmap:") {
                lines.push(line.to_owned());
            }
        }
        lines.extend(["a=recvonly", "a=rtcp-mux"].map(str::to_owned));
        Ok(lines.join("\r\n") + "\r\n")
    }

    fn send(&self, datagram: &[u8]) {
        // A lost datagram is a lost datagram.
        let _ = self.socket.send(datagram);
    }

    /// Takes what has come.
    pub fn receive(&mut self, now: Instant) {
        let mut buffer = [0; DATAGRAM_BYTES];
        while let Ok(size) = self.socket.recv(&mut buffer) {
            let datagram = &buffer[..size];
            match demux::kind(datagram) {
                Some(Kind::Rtp) => self.handle_rtp(now, datagram),
                Some(Kind::Stun) => self.handle_stun(now, datagram),
                Some(Kind::Dtls) => {
                    if let Some(session) = &mut self.session {
                        session.handle_datagram(now, datagram);
                    }
                    self.drain_session(now);
                }
                Some(Kind::Rtcp) => self.handle_rtcp(now, datagram),
                None => {}
            }
        }
    }

    fn handle_stun(&mut self, now: Instant, datagram: &[u8]) {
        let Ok(binding) = Binding::parse(datagram) else { return };
        if binding.class == Class::Request
            && let Ok(from) = self.socket.peer_addr()
        {
            // A full agent checks us, too.
            self.send(&binding.success(from, &self.local.pwd));
        }
        let is_good = binding.class == Class::Success;
        if !is_good || std::mem::replace(&mut self.is_nominated, true) {
            return;
        }
        self.next_check = Some(now + CONSENT_INTERVAL);
        if self.manner == Manner::Watches
            && let Some(session) = &mut self.session
        {
            session.start(now);
            self.drain_session(now);
        }
    }

    fn handle_rtcp(&mut self, now: Instant, datagram: &[u8]) {
        let plain = self.srtp.as_mut().and_then(|srtp| srtp.unprotect_rtcp(datagram).ok());
        let (Some(plain), Some(reception)) = (plain, &mut self.reception) else { return };
        // A sender report: the middle of its NTP time goes back in ours (RFC 3550 section 6.4.1).
        if plain.get(1) == Some(&200)
            && let Some(middle) = plain.get(10..14).and_then(|bytes| bytes.try_into().ok())
        {
            reception.newest_report = Some((u32::from_be_bytes(middle), now));
        }
    }

    fn handle_rtp(&mut self, now: Instant, datagram: &[u8]) {
        let (Ok(packet), Some(remote), Some(srtp)) =
            (RtpPacket::parse_header(datagram), &self.remote, &mut self.srtp)
        else {
            return;
        };
        self.stats.packets += 1;
        self.stats.bytes += datagram.len() as u64;
        let is_repetition = packet.payload_type != remote.payload_type;
        let wants_tail = packet.marker && !is_repetition && self.departures.is_some();
        let mut plain = None;
        if is_repetition || wants_tail || self.stats.packets.is_multiple_of(self.check_every) {
            self.stats.checked += 1;
            match srtp.unprotect_rtp(datagram) {
                Ok(bytes) => plain = Some(bytes),
                Err(_) => self.stats.forged += 1,
            }
        }
        let plain = plain.as_ref().and_then(|bytes| RtpPacket::parse(bytes).ok());
        if is_repetition {
            // RFC 4588: the number of what is repeated stands before its payload.
            let original = plain.and_then(|plain| plain.payload.first_chunk().copied());
            if let (Some(original), Some(reception)) = (original, &mut self.reception) {
                reception.take(u16::from_be_bytes(original), now, &mut self.stats);
            }
            return;
        }
        let reception = self.reception.get_or_insert_with(|| Reception {
            ssrc: packet.ssrc,
            newest: u64::from(packet.sequence) + (1 << 16),
            first: u64::from(packet.sequence) + (1 << 16),
            missing: VecDeque::new(),
            reported: (0, 0),
            newest_report: None,
        });
        if reception.take(packet.sequence, now, &mut self.stats) {
            self.nack(now);
        }
        if packet.marker {
            self.stats.pictures += 1;
            self.stats.first_picture.get_or_insert(now);
        }
        if let (Some(plain), Some(departures)) = (plain.filter(|_| wants_tail), &self.departures) {
            departures.arrived(plain.payload, now);
        }
    }

    fn nack(&mut self, now: Instant) {
        let (Some(reception), Some(srtp)) = (&mut self.reception, &mut self.srtp) else { return };
        let before = reception.missing.len();
        reception.missing.retain(|(_, since, _)| now.saturating_duration_since(*since) < NACK_FOR);
        self.stats.lost += (before - reception.missing.len()) as u64;
        let mut sequences = Vec::new();
        for (sequence, _, due) in &mut reception.missing {
            if *due <= now {
                *due = now + NACK_INTERVAL;
                sequences.push(*sequence as u16);
            }
        }
        if sequences.is_empty() {
            return;
        }
        let mut writer = RtcpWriter::new();
        writer.receiver_report(OWN_SSRC, &[]).nack(OWN_SSRC, reception.ssrc, &sequences);
        if let Ok(protected) = srtp.protect_rtcp(&writer.finish()) {
            self.send(&protected);
        }
    }

    fn report(&mut self, now: Instant) {
        let (Some(reception), Some(srtp)) = (&mut self.reception, &mut self.srtp) else { return };
        let expected = reception.newest - reception.first + 1;
        let lost = self.stats.lost + reception.missing.len() as u64;
        let (expected_before, lost_before) = std::mem::replace(&mut reception.reported, (expected, lost));
        let interval = (expected - expected_before).max(1);
        let (last_sr, delay) = reception.newest_report.map_or((0, 0), |(middle, at)| {
            let delay = now.saturating_duration_since(at).as_secs_f64() * 65_536.0;
            (middle, delay as u32)
        });
        let block = ReportBlock {
            ssrc: reception.ssrc,
            fraction_lost: (lost.saturating_sub(lost_before) * 256 / interval).min(255) as u8,
            lost: i32::try_from(lost).unwrap_or(i32::MAX),
            highest_sequence: reception.newest as u32,
            jitter: 0,
            last_sr,
            delay_since_last_sr: delay,
        };
        let mut writer = RtcpWriter::new();
        writer.receiver_report(OWN_SSRC, &[block]).canonical_name(OWN_SSRC, "watcher");
        if let Ok(protected) = srtp.protect_rtcp(&writer.finish()) {
            self.send(&protected);
        }
    }

    fn drain_session(&mut self, now: Instant) {
        while let Some(session) = &mut self.session {
            match session.poll_output() {
                SessionOutput::Transmit(datagram) => self.send(&datagram),
                SessionOutput::Connected(keys) => {
                    self.srtp = Srtp::new(keys).ok();
                    self.next_report = Some(now + REPORT_INTERVAL);
                }
                SessionOutput::Failed(_) => {
                    self.stats.has_failed = true;
                    self.session = None;
                }
                SessionOutput::Closed => self.stats.is_closed = true,
                SessionOutput::Timeout(at) => {
                    self.session_deadline = at;
                    break;
                }
            }
        }
    }

    /// Does what is due; returns when something is due next.
    pub fn advance(&mut self, now: Instant) -> Option<Instant> {
        if self.next_check.is_some_and(|at| at <= now)
            && let Some(remote) = &self.remote
        {
            let check = Check {
                transaction_id: self.random.random(),
                username: &remote.username,
                password: &remote.password,
                role: (Role::Controlling, 7),
                priority: 0x6E7F_1EFF,
                use_candidate: true,
            };
            self.send(&check.build());
            let interval = if self.is_nominated { CONSENT_INTERVAL } else { CHECK_INTERVAL };
            self.next_check = Some(now + interval);
        }
        if self.session_deadline.is_some_and(|at| at <= now)
            && let Some(session) = &mut self.session
        {
            session.handle_timeout(now);
            self.drain_session(now);
        }
        if self.next_report.is_some_and(|at| at <= now) {
            self.next_report = Some(now + REPORT_INTERVAL);
            self.report(now);
        }
        let missing = self.reception.as_ref().map(|reception| reception.missing.iter());
        let next_nack = missing.and_then(|missing| missing.map(|(_, _, due)| *due).min());
        if next_nack.is_some_and(|at| at <= now) {
            self.nack(now);
        }
        let next_nack = next_nack.map(|at| at.max(now + NACK_INTERVAL / 4));
        [self.next_check, self.session_deadline, self.next_report, next_nack].into_iter().flatten().min()
    }

    /// Closes as a page does that is left: the server is told by DTLS.
    pub fn close(&mut self, now: Instant) {
        if let Some(session) = &mut self.session {
            session.close();
            self.drain_session(now);
        }
    }
}

/// Our source in reports.
const OWN_SSRC: u32 = 5;

impl Reception {
    /// Takes a sequence number; returns whether something is missing now that was not before.
    fn take(&mut self, sequence: u16, now: Instant, stats: &mut WatcherStats) -> bool {
        let ahead = sequence.wrapping_sub(self.newest as u16);
        if ahead == 0 || ahead >= 1 << 15 {
            let late = self.newest - u64::from((self.newest as u16).wrapping_sub(sequence));
            self.missing.retain(|(missing, ..)| *missing != late);
            return false;
        }
        let newest = self.newest + u64::from(ahead);
        let hole = newest - self.newest - 1;
        stats.missed += hole;
        for missing in self.newest + 1..newest {
            if self.missing.len() < MISSING_MAX {
                self.missing.push_back((missing, now, now));
            } else {
                stats.lost += 1;
            }
        }
        self.newest = newest;
        hole > 0
    }
}
