//! The sending end of one bundle: access units in, packets for one viewer out.
//!
//! What belongs here: numbers and time that go on whatever the stream does, pacing, repetition of what was lost, reports,
//! and knowing what the viewer's network carries. What does not: which units are sent at all (`edge::rtc`).

mod arrivals;
mod bandwidth;
mod history;
mod loss;
mod outgoing;
mod repeats;
mod stats;
mod timeline;

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use rand::Rng as _;

use self::arrivals::Arrivals;
use self::bandwidth::{Bandwidth, Rate};
use self::history::History;
use self::loss::Losses;
pub use self::outgoing::SendExtensions;
use self::outgoing::{Outgoing, Piece, numbered};
use self::repeats::Repeats;
pub use self::stats::SenderStats;
use self::timeline::Timeline;
use super::orientation;
use super::pack_h264::{H264Packer, PAYLOAD_BYTES_MAX};
use super::pack_vp8::Vp8Packer;
use super::payload::{Packet, Payload};
use super::rtcp::{self, RtcpError, RtcpPacket};
use crate::media::time::{Timestamp, VIDEO_TIMESCALE};
use crate::media::track::VideoCodec;
use crate::media::unit::{AccessUnit, AudioFrame};

/// One track as it was agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendTrack {
    /// Our source.
    pub ssrc: u32,
    /// Payload type of the answer.
    pub payload_type: u8,
    /// Ticks a second of its RTP time.
    pub clock_rate: NonZeroU32,
    /// Source and payload type of repetitions (RFC 4588); `None`: they are sent as they were.
    pub rtx: Option<(u32, u8)>,
    /// Header extensions.
    pub extensions: SendExtensions,
}

/// What a [`Sender`] must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderSettings {
    /// Our canonical name in RTCP: the same for both tracks, which makes the viewer play them together.
    pub cname: String,
    /// Pictures.
    pub video: Option<SendTrack>,
    /// Sound.
    pub audio: Option<SendTrack>,
}

/// What comes out of a [`Sender`].
#[derive(Clone, Debug)]
pub enum SenderOutput {
    /// An RTP packet to encrypt and send now.
    Rtp(Packet),
    /// A compound RTCP packet, likewise.
    Rtcp(Vec<u8>),
    /// The viewer needs a keyframe: it asked for one, or pictures were left out.
    KeyframeWanted,
    /// The viewer's network carries less than the stream needs, in bits a second.
    NotEnoughBandwidth {
        /// What the stream needs.
        stream_bps: u64,
        /// What there is.
        available_bps: u64,
    },
    /// Nothing more; call [`Sender::handle_timeout`] then.
    Timeout(Instant),
}

/// Time between two reports (RFC 3550 section 6.2 allows less for a session of two, browsers send one a second).
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Repetitions are not sent twice within this, before the round-trip time is known.
const RTT_UNKNOWN: Duration = Duration::from_millis(60);
/// Least pause between two repetitions of one packet.
const REPEAT_PAUSE_MIN: Duration = Duration::from_millis(10);
/// A round trip beyond this is a mistake in the report.
const RTT_MAX: Duration = Duration::from_secs(10);
/// Sender reports whose answers are believed.
const REPORTS_KEPT: usize = 8;
/// Pace while nothing limits: what the viewer's socket can take at a time is bounded, not its network.
const PACE_BPS: u64 = 40_000_000;
/// Bytes that may go at once: a picture of a usual stream.
const BURST_BYTES: i64 = 48 * 1024;
/// The same when the network is short.
const BURST_SHORT_BYTES: i64 = 12 * 1024;
/// Between two bursts.
const BURST_INTERVAL: Duration = Duration::from_millis(4);
/// When what waits would take longer than this, the pictures that have not begun are left out to the next keyframe.
const QUEUE_MAX: Duration = Duration::from_millis(1500);
/// A viewer whose network is short waits less: it would fall ever further behind.
const QUEUE_SHORT_MAX: Duration = Duration::from_millis(700);
/// Many who ask for a keyframe are one.
const KEYFRAME_PAUSE: Duration = Duration::from_millis(250);
/// Between two words about the network.
const BANDWIDTH_PAUSE: Duration = Duration::from_secs(5);
/// FIR commands of so many senders are told apart; a viewer is one.
const FIR_SENDERS_MAX: usize = 8;
/// Seconds of NTP time at the sender's beginning: the clock tells elapsed time (RFC 3550 section 6.4.1), and 0 means "none".
const NTP_BEGINS: u64 = 1 << 20;

const NANOSECONDS: NonZeroU32 = NonZeroU32::new(1_000_000_000).unwrap();

#[derive(Debug)]
struct Video {
    out: Outgoing,
    timeline: Timeline,
    rtx: Option<Outgoing>,
    h264: H264Packer,
    vp8: Vp8Packer,
    history: History,
    /// Pictures that wait, the first of which may be partly sent.
    queue: VecDeque<Picture>,
    queue_bytes: usize,
    /// Pictures are left out up to the next keyframe.
    waits_for_key: bool,
}

#[derive(Debug)]
struct Picture {
    pieces: VecDeque<Piece>,
    key: bool,
    begun: bool,
}

#[derive(Debug)]
struct Audio {
    out: Outgoing,
    timeline: Timeline,
}

/// Both tracks of one viewer. Packets in and out are plain: encryption is somebody else's.
#[derive(Debug)]
pub struct Sender {
    cname: String,
    origin: Instant,
    video: Option<Video>,
    audio: Option<Audio>,
    repeats: Repeats,
    /// What may be sent now, in bytes; below zero after a packet that was larger.
    budget: i64,
    filled: Instant,
    next_burst: Option<Instant>,
    next_report: Option<Instant>,
    /// Compact NTP time of the newest reports.
    reported: VecDeque<u32>,
    fir_numbers: HashMap<u32, u8>,
    sound_offset_ns: Option<i64>,
    keyframe_wanted: Option<Instant>,
    bandwidth: Bandwidth,
    losses: Losses,
    /// Where packets are numbered across sources.
    arrivals: Option<Arrivals>,
    bandwidth_told: Option<Instant>,
    sent: Rate,
    wanted: Rate,
    outputs: VecDeque<SenderOutput>,
    stats: SenderStats,
}

impl Sender {
    /// A sender that has sent nothing yet. Sequence numbers and times begin anywhere.
    #[must_use]
    pub fn new(settings: SenderSettings, random: &mut dyn rand::RngCore, now: Instant) -> Self {
        let is_numbered =
            settings.video.as_ref().is_some_and(|track| track.extensions.transport_wide.is_some());
        let video = settings.video.map(|track| Video {
            rtx: track.rtx.map(|(ssrc, payload_type)| {
                let extensions = SendExtensions { orientation: None, ..track.extensions.clone() };
                Outgoing::new(ssrc, payload_type, extensions, random.random())
            }),
            out: Outgoing::new(track.ssrc, track.payload_type, track.extensions, random.random()),
            timeline: Timeline::new(VIDEO_TIMESCALE, random.random(), now),
            h264: H264Packer::default(),
            vp8: Vp8Packer::new(random.random()),
            history: History::default(),
            queue: VecDeque::new(),
            queue_bytes: 0,
            waits_for_key: true,
        });
        let audio = settings.audio.map(|track| Audio {
            out: Outgoing::new(track.ssrc, track.payload_type, track.extensions, random.random()),
            timeline: Timeline::new(track.clock_rate, random.random(), now),
        });
        Self {
            cname: settings.cname,
            origin: now,
            video,
            audio,
            repeats: Repeats::default(),
            budget: BURST_BYTES,
            filled: now,
            next_burst: None,
            next_report: None,
            reported: VecDeque::new(),
            fir_numbers: HashMap::new(),
            sound_offset_ns: None,
            keyframe_wanted: None,
            bandwidth: Bandwidth::default(),
            losses: Losses::default(),
            arrivals: is_numbered.then(|| Arrivals::new(now)),
            bandwidth_told: None,
            sent: Rate::default(),
            wanted: Rate::default(),
            outputs: VecDeque::new(),
            stats: SenderStats::default(),
        }
    }

    /// Counts so far.
    #[must_use]
    pub fn stats(&self) -> SenderStats {
        SenderStats { is_short: self.bandwidth.is_short(), ..self.stats }
    }

    /// Whether pictures are being left out until a keyframe comes.
    #[must_use]
    pub fn waits_for_keyframe(&self) -> bool {
        self.video.as_ref().is_some_and(|video| video.waits_for_key)
    }

    /// Sends a picture; one without what it refers to is left out. Nothing happens where pictures were not agreed on.
    pub fn send_video(&mut self, now: Instant, unit: &AccessUnit) {
        self.send_picture(now, unit, false);
    }

    /// Sends a picture of the past to which later ones refer: the viewer shall decode it at once, not in its own time.
    pub fn send_backlog(&mut self, now: Instant, unit: &AccessUnit) {
        self.send_picture(now, unit, true);
    }

    fn send_picture(&mut self, now: Instant, unit: &AccessUnit, is_backlog: bool) {
        let Some(video) = &mut self.video else { return };
        if !is_backlog {
            self.wanted.add(now, unit.data.len());
        }
        if video.waits_for_key && !unit.key {
            self.stats.dropped += 1;
            return;
        }
        let payloads = match &unit.params.codec {
            VideoCodec::H264 { .. } => video.h264.cut(unit, PAYLOAD_BYTES_MAX).ok(),
            VideoCodec::Vp8 => Some(video.vp8.cut(&unit.data, PAYLOAD_BYTES_MAX)),
        };
        let Some(payloads) = payloads.filter(|payloads| !payloads.is_empty()) else {
            self.stats.unusable += 1;
            video.waits_for_key = true;
            return self.want_keyframe(now);
        };
        video.waits_for_key = false;
        let timestamp = if is_backlog {
            video.timeline.hasten(unit.pts, unit.arrived)
        } else {
            video.timeline.next(unit.pts, unit.arrived)
        };
        let orientation = orientation::value(unit.params.rotation);
        let last = payloads.len() - 1;
        video.queue_bytes += payloads.iter().map(Payload::len).sum::<usize>();
        let pieces = payloads.into_iter().enumerate().map(|(position, payload)| Piece {
            payload,
            marker: position == last,
            timestamp,
            orientation: (position == last).then_some(orientation),
        });
        video.queue.push_back(Picture { pieces: pieces.collect(), key: unit.key, begun: false });
        self.next_report.get_or_insert(now);
        self.release(now);
        self.shorten(now);
    }

    /// Sends a frame of sound, at once: it is small, and a gap in it is heard.
    pub fn send_audio(&mut self, now: Instant, frame: &AudioFrame) {
        let Some(audio) = &mut self.audio else { return };
        if frame.data.is_empty() || frame.data.len() > PAYLOAD_BYTES_MAX {
            self.stats.unusable += 1;
            return;
        }
        let timestamp = audio.timeline.next(frame.pts, frame.arrived);
        let piece = Piece {
            payload: Payload::new(&[], frame.data.clone()),
            marker: false,
            timestamp,
            orientation: None,
        };
        let (_, packet) = audio.out.packet(piece, now.saturating_duration_since(self.origin));
        self.next_report.get_or_insert(now);
        self.stats.packets += 1;
        self.put_out(now, packet);
    }

    fn put_out(&mut self, now: Instant, packet: Packet) {
        self.stats.bytes += packet.len() as u64;
        self.sent.add(now, packet.len());
        self.budget -= packet.len() as i64;
        self.outputs.push_back(SenderOutput::Rtp(packet));
    }

    /// A packet of pictures, or a repetition of one, as it leaves now.
    fn numbered(&mut self, now: Instant, packet: Packet) -> Packet {
        match &mut self.arrivals {
            Some(arrivals) => {
                let number = arrivals.number(now, packet.len());
                numbered(packet, number)
            }
            None => packet,
        }
    }

    /// Bits a second at which what waits is sent.
    fn pace_bps(&self) -> u64 {
        match self.bandwidth.available_bps() {
            Some(available) if self.bandwidth.is_short() => available,
            _ => PACE_BPS,
        }
    }

    /// Sends what may be sent now: repetitions first.
    fn release(&mut self, now: Instant) {
        let burst = if self.bandwidth.is_short() { BURST_SHORT_BYTES } else { BURST_BYTES };
        let passed = now.saturating_duration_since(self.filled);
        let earned = u128::from(self.pace_bps()) * passed.as_micros() / 8_000_000;
        self.filled = now;
        self.budget = (self.budget + i64::try_from(earned).unwrap_or(burst)).min(burst);
        let since_origin = now.saturating_duration_since(self.origin);
        while self.budget > 0 {
            if let Some(packet) = self.repeats.pop() {
                self.stats.repeated += 1;
                // What has the sequence number of the original must be the original to the last bit: under AES-GCM two
                // different packets of one number give the key of the tags away (RFC 7714 section 15.1).
                let is_original = self.video.as_ref().is_none_or(|video| video.rtx.is_none());
                let packet = if is_original { packet } else { self.numbered(now, packet) };
                self.put_out(now, packet);
                continue;
            }
            let Some(video) = &mut self.video else { break };
            let Some(picture) = video.queue.front_mut() else { break };
            picture.begun = true;
            let Some(piece) = picture.pieces.pop_front() else {
                video.queue.pop_front();
                self.stats.pictures += 1;
                continue;
            };
            video.queue_bytes = video.queue_bytes.saturating_sub(piece.payload.len());
            let (sequence, packet) = video.out.packet(piece, since_origin);
            let packet = self.numbered(now, packet);
            if let Some(video) = &mut self.video {
                video.history.push(now, sequence, packet.clone());
            }
            let bytes = packet.len();
            self.repeats.earn(bytes);
            self.stats.packets += 1;
            self.stats.video_bytes += bytes as u64;
            self.put_out(now, packet);
        }
        let waits = !self.repeats.is_empty()
            || self.video.as_ref().is_some_and(|video| video.queue.iter().any(|p| !p.pieces.is_empty()));
        self.next_burst = waits.then_some(now + BURST_INTERVAL);
    }

    /// Leaves out the pictures that have not begun, when what waits would take too long.
    fn shorten(&mut self, now: Instant) {
        let limit = if self.bandwidth.is_short() { QUEUE_SHORT_MAX } else { QUEUE_MAX };
        let bytes_max = u128::from(self.pace_bps()) * limit.as_millis() / 8000;
        let Some(video) = &mut self.video else { return };
        if (video.queue_bytes as u128) <= bytes_max {
            return;
        }
        let before = video.queue.len();
        // A keyframe that has just come makes all before it dispensable. However large it is, it is sent, or nothing
        // ever would be.
        let newest = video.queue.pop_back().filter(|newest| newest.key || before == 1);
        video.queue.retain(|picture| picture.begun);
        video.waits_for_key = newest.is_none();
        video.queue.extend(newest);
        let dropped = before - video.queue.len();
        video.queue_bytes = video.queue.iter().flat_map(|p| &p.pieces).map(|piece| piece.payload.len()).sum();
        if dropped == 0 {
            return;
        }
        self.stats.dropped += dropped as u64;
        if self.waits_for_keyframe() {
            self.want_keyframe(now);
        }
        self.tell_bandwidth(now);
    }

    fn want_keyframe(&mut self, now: Instant) {
        let is_new = |at: Instant| now.saturating_duration_since(at) >= KEYFRAME_PAUSE;
        if self.keyframe_wanted.is_none_or(is_new) {
            self.keyframe_wanted = Some(now);
            self.outputs.push_back(SenderOutput::KeyframeWanted);
        }
    }

    fn tell_bandwidth(&mut self, now: Instant) {
        let is_new = |at: Instant| now.saturating_duration_since(at) >= BANDWIDTH_PAUSE;
        let stream_bps = self.wanted.bps(now);
        let available_bps = self.bandwidth.available_bps().unwrap_or_else(|| self.sent.bps(now));
        if stream_bps > 0 && available_bps < stream_bps && self.bandwidth_told.is_none_or(is_new) {
            self.bandwidth_told = Some(now);
            self.outputs.push_back(SenderOutput::NotEnoughBandwidth { stream_bps, available_bps });
        }
    }

    /// Takes a decrypted compound RTCP packet of the viewer.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn handle_rtcp(&mut self, now: Instant, compound: &[u8]) -> Result<(), RtcpError> {
        let video_ssrc = self.video.as_ref().map(|video| video.out.ssrc);
        for packet in rtcp::parse(compound)? {
            match packet {
                RtcpPacket::ReceiverReport { blocks, .. } | RtcpPacket::SenderReport { blocks, .. } => {
                    for block in blocks {
                        self.note_round_trip(now, block.last_sr, block.delay_since_last_sr);
                        if Some(block.ssrc) == video_ssrc
                            && let Some(fraction_lost) = self.losses.on_report(now, &block)
                        {
                            self.stats.fraction_lost = fraction_lost;
                            let (sent, wanted) = (self.sent.bps(now), self.wanted.bps(now));
                            self.bandwidth.on_loss(now, fraction_lost, sent, wanted);
                        }
                    }
                }
                RtcpPacket::Nack { media_ssrc, sequences } if Some(media_ssrc) == video_ssrc => {
                    self.repeat(now, &sequences);
                }
                RtcpPacket::PictureLoss { media_ssrc } if Some(media_ssrc) == video_ssrc => {
                    self.stats.keyframe_requests += 1;
                    self.want_keyframe(now);
                }
                RtcpPacket::FullIntra { commands } => {
                    for (ssrc, number) in commands {
                        // The same number is the same command, repeated (RFC 5104 section 4.3.1.1).
                        let has_room =
                            self.fir_numbers.len() < FIR_SENDERS_MAX || self.fir_numbers.contains_key(&ssrc);
                        if Some(ssrc) == video_ssrc
                            && has_room
                            && self.fir_numbers.insert(ssrc, number) != Some(number)
                        {
                            self.stats.keyframe_requests += 1;
                            self.want_keyframe(now);
                        }
                    }
                }
                RtcpPacket::Remb { bitrate_bps, .. } => {
                    self.stats.remb_bps = Some(bitrate_bps);
                    let (sent, wanted) = (self.sent.bps(now), self.wanted.bps(now));
                    self.bandwidth.on_estimate(now, bitrate_bps, sent, wanted);
                }
                RtcpPacket::TransportWide(feedback) => {
                    let Some(arrivals) = &mut self.arrivals else { continue };
                    let estimate_bps = arrivals.on_feedback(now, &feedback);
                    let (sent, wanted) = (self.sent.bps(now), self.wanted.bps(now));
                    self.bandwidth.on_estimate(now, estimate_bps, sent, wanted);
                }
                _ => {}
            }
        }
        if self.bandwidth.is_short() {
            self.tell_bandwidth(now);
        }
        self.release(now);
        Ok(())
    }

    /// RFC 3550 section 6.4.1: the round trip is what passed since our report less what the viewer kept it.
    fn note_round_trip(&mut self, now: Instant, last_sr: u32, delay: u32) {
        if !self.reported.contains(&last_sr) {
            return;
        }
        let compact = (self.ntp(now) >> 16) as u32;
        let round_trip = compact.wrapping_sub(last_sr).wrapping_sub(delay);
        let round_trip = Duration::from_micros(u64::from(round_trip) * 1_000_000 / 65_536);
        // A clock that runs faster than ours can make it negative, which is none at all.
        let round_trip = if round_trip > Duration::from_secs(30_000) { Duration::ZERO } else { round_trip };
        if round_trip <= RTT_MAX {
            let before = self.stats.rtt.unwrap_or(round_trip);
            self.stats.rtt = Some((before * 7 + round_trip) / 8);
        }
    }

    fn repeat(&mut self, now: Instant, sequences: &[u16]) {
        let Some(video) = &mut self.video else { return };
        self.stats.nacks += sequences.len() as u64;
        // Somewhat less than the round trip, which varies: a viewer that asks again has waited that long.
        let pause = (self.stats.rtt.unwrap_or(RTT_UNKNOWN) * 3 / 4).max(REPEAT_PAUSE_MIN);
        let since_origin = now.saturating_duration_since(self.origin);
        for sequence in sequences {
            if !self.repeats.has_room() {
                return;
            }
            let Some(packet) = video.history.repeat(now, *sequence, pause) else { continue };
            let packet = match &mut video.rtx {
                Some(rtx) => rtx.repetition(&packet, since_origin),
                None => Some(packet),
            };
            packet.into_iter().for_each(|packet| self.repeats.push(packet));
        }
    }

    /// Elapsed time in NTP format.
    fn ntp(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.origin);
        let fraction = (u64::from(passed.subsec_nanos()) << 32) / 1_000_000_000;
        (NTP_BEGINS + passed.as_secs()) << 32 | fraction
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_burst.is_some_and(|at| at <= now) {
            self.release(now);
        }
        if self.next_report.is_some_and(|at| at <= now) {
            self.next_report = Some(now + REPORT_INTERVAL);
            self.report(now);
        }
    }

    fn report(&mut self, now: Instant) {
        let ntp = self.ntp(now);
        let video = self.video.as_ref().map(|video| (&video.out, video.timeline.at(now)));
        let audio = self.audio.as_ref().map(|audio| (&audio.out, self.audio_time(now, audio)));
        for (out, rtp_time) in [video, audio].into_iter().flatten() {
            let report = out.report(ntp, rtp_time, &self.cname);
            self.outputs.extend(report.map(SenderOutput::Rtcp));
        }
        self.reported.push_back((ntp >> 16) as u32);
        if self.reported.len() > REPORTS_KEPT {
            self.reported.pop_front();
        }
    }

    /// RTP time of the sound that belongs to the pictures of this moment: by the stream's own clocks where it is known how they
    /// stand to each other, else by arrival.
    fn audio_time(&self, now: Instant, audio: &Audio) -> Option<u32> {
        let pictures = self.video.as_ref().and_then(|video| video.timeline.stream_time_at(now));
        match (self.sound_offset_ns, pictures) {
            (Some(offset), Some(pictures)) => {
                let nanos = pictures.rescale(NANOSECONDS).ticks.saturating_sub(offset);
                audio.timeline.rtp_of(Timestamp { ticks: nanos, timescale: NANOSECONDS })
            }
            _ => audio.timeline.at(now),
        }
    }

    /// Tells what to add to time stamps of the sound so that they are on the clock of the pictures, in nanoseconds; `None` while
    /// that is not known. It changes what reports say, and so how a viewer plays both together.
    pub fn set_sound_offset_ns(&mut self, offset: Option<i64>) {
        self.sound_offset_ns = offset;
    }

    /// The next output; call until it is [`SenderOutput::Timeout`].
    pub fn poll_output(&mut self) -> SenderOutput {
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        let idle = self.filled + REPORT_INTERVAL * 3600;
        let due = [self.next_burst, self.next_report].into_iter().flatten().min();
        SenderOutput::Timeout(due.unwrap_or(idle))
    }
}

#[cfg(test)]
#[path = "sender_tests.rs"]
mod tests;
