//! The media of one playback going out: units of a stream into RTP packets, with sender reports that tell how the clocks
//! of picture and sound belong together.

use std::num::NonZeroU32;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::Rng;

use super::sdp::{Description, Payload, Track};
use super::server::FirstPacket;
use crate::media::time::Timestamp;
use crate::media::track::{AudioCodec, VideoCodec};
use crate::media::unit::{AccessUnit, AudioFrame, MediaUnit};
use crate::proto::rtp::aac;
use crate::proto::rtp::pack_h264::H264Packer;
use crate::proto::rtp::pack_vp8::Vp8Packer;
use crate::proto::rtp::rtcp::RtcpWriter;

/// Payload bytes of one packet: with the headers of RTP, UDP and IPv6 it fits an Ethernet frame with some room for tunnels.
const PAYLOAD_BYTES_MAX: usize = 1372;
/// Time between two sender reports of a track (RFC 3550 section 6.2).
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// Seconds from 1900, where NTP begins, to 1970.
const NTP_TO_UNIX_SECONDS: u64 = 2_208_988_800;
/// Tracks whose time stamps lie further apart than this, measured by their arrival, count from different beginnings.
const COMMON_CLOCK_NANOS: i128 = 5_000_000_000;

/// Where a packet goes: its track by its place in the description, and whether it is a report.
pub type Emit<'a> = dyn FnMut(usize, bool, &[u8]) + 'a;

/// Sends one stream to one player.
#[derive(Debug)]
pub struct MediaSender {
    tracks: Vec<Sending>,
    /// A moment on the wall clock and on ours, by which reports tell wall-clock time.
    wall: (SystemTime, Instant),
    cname: String,
    /// Pictures that are shown before this time are of no use: the player began at a recovery point behind them.
    leading_before: Option<i64>,
    /// Nothing was sent yet, or something was left out: only a keyframe goes on.
    waits_for_key: bool,
    packet: Vec<u8>,
}

#[derive(Debug)]
struct Sending {
    payload_type: u8,
    clock_rate: NonZeroU32,
    packer: Packer,
    /// The player has set it up.
    wanted: bool,
    ssrc: u32,
    sequence: u16,
    /// Added to time stamps, as RFC 3550 section 5.1 wants.
    base: u32,
    packets: u32,
    bytes: u32,
    /// A time stamp of this track and the moment that belongs to it.
    anchor: Option<(i64, Instant)>,
    next_report: Option<Instant>,
}

#[derive(Debug)]
enum Packer {
    H264(H264Packer),
    Vp8(Vp8Packer),
    Aac,
    /// One payload is one frame.
    Whole(Payload),
    Unknown,
}

impl MediaSender {
    /// A sender of the tracks of `description`, of which `wanted` tells those that the player has set up. `wall` is the same
    /// moment as `now`.
    #[must_use]
    pub fn new(
        description: &Description,
        wanted: impl Fn(usize) -> bool,
        random: &mut impl Rng,
        now: Instant,
        wall: SystemTime,
    ) -> Self {
        let tracks = description.tracks.iter().enumerate();
        let tracks: Vec<Sending> =
            tracks.map(|(place, track)| Sending::new(track, wanted(place), random)).collect();
        let waits_for_key =
            description.tracks.iter().zip(&tracks).any(|(track, sending)| track.is_video() && sending.wanted);
        Self {
            tracks,
            wall: (wall, now),
            cname: format!("{:016x}", random.random::<u64>()),
            leading_before: None,
            waits_for_key,
            packet: Vec::new(),
        }
    }

    /// What the first packet of each wanted track will be, if `first` are the first units of each kind.
    #[must_use]
    pub fn first_packets(&self, video: Option<&AccessUnit>, audio: Option<&AudioFrame>) -> Vec<FirstPacket> {
        let wanted = self.tracks.iter().enumerate().filter(|(_, track)| track.wanted);
        let first = wanted.map(|(place, track)| {
            let pts = match track.packer {
                Packer::H264(_) | Packer::Vp8(_) => video.map(|unit| unit.pts),
                _ => audio.map(|frame| frame.pts),
            };
            FirstPacket {
                track: place,
                sequence: track.sequence,
                rtp_time: pts.map(|pts| track.rtp_time(pts)),
            }
        });
        first.collect()
    }

    /// Units were left out on the way here: nothing goes out before the next keyframe.
    pub fn mark_gap(&mut self) {
        self.waits_for_key = self.tracks.iter().any(|track| track.wanted && track.is_video());
    }

    /// Sends a unit. One that no track fits is left out.
    pub fn send(&mut self, now: Instant, unit: &MediaUnit, emit: &mut Emit<'_>) {
        match unit {
            MediaUnit::Video(unit) => self.send_video(now, unit, emit),
            MediaUnit::Audio(frame) => self.send_audio(now, frame, emit),
        }
    }

    fn send_video(&mut self, now: Instant, unit: &AccessUnit, emit: &mut Emit<'_>) {
        let fits = |track: &Sending| {
            matches!(
                (&track.packer, &unit.params.codec),
                (Packer::H264(_), VideoCodec::H264 { .. }) | (Packer::Vp8(_), VideoCodec::Vp8)
            )
        };
        let Some(place) = self.tracks.iter().position(|track| track.wanted && fits(track)) else { return };
        if self.waits_for_key {
            if !unit.key {
                return;
            }
            self.waits_for_key = false;
            self.leading_before = Some(unit.pts.ticks);
        } else if let Some(start) = self.leading_before {
            if unit.key {
                self.leading_before = None;
            } else if unit.pts.ticks < start {
                return;
            }
        }
        let payloads = match self.tracks.get_mut(place).map(|track| &mut track.packer) {
            // Lengths that do not add up cannot come out of the hub; nothing is sent of such a unit.
            Some(Packer::H264(packer)) => {
                let payloads = packer.cut(unit, PAYLOAD_BYTES_MAX).unwrap_or_default();
                payloads.iter().map(|payload| payload.to_vec()).collect()
            }
            Some(Packer::Vp8(packer)) => packer.pack(&unit.data, PAYLOAD_BYTES_MAX),
            _ => return,
        };
        self.send_payloads(now, place, unit.pts, unit.arrived, &payloads, true, emit);
    }

    fn send_audio(&mut self, now: Instant, frame: &AudioFrame, emit: &mut Emit<'_>) {
        if self.waits_for_key {
            // Sound without its picture would only have to be thrown away by the player.
            return;
        }
        let fits = |track: &Sending| {
            matches!(
                (&track.packer, &frame.params.codec),
                (Packer::Aac, AudioCodec::Aac { .. })
                    | (Packer::Whole(Payload::Opus), AudioCodec::Opus)
                    | (Packer::Whole(Payload::Pcma), AudioCodec::Pcma)
                    | (Packer::Whole(Payload::Pcmu), AudioCodec::Pcmu)
            )
        };
        let Some(place) = self.tracks.iter().position(|track| track.wanted && fits(track)) else { return };
        let is_aac = self.tracks.get(place).is_some_and(|track| matches!(track.packer, Packer::Aac));
        if is_aac {
            let payloads = aac::pack(&frame.data, PAYLOAD_BYTES_MAX);
            // The marker ends an access unit (RFC 3640 section 3.1).
            self.send_payloads(now, place, frame.pts, frame.arrived, &payloads, true, emit);
        } else {
            // The marker begins a talkspurt (RFC 3551 section 4.1), of which nobody tells us.
            self.send_payloads(now, place, frame.pts, frame.arrived, &[&*frame.data], false, emit);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one unit, as it travels")]
    fn send_payloads(
        &mut self,
        now: Instant,
        place: usize,
        pts: Timestamp,
        arrived: Instant,
        payloads: &[impl AsRef<[u8]>],
        marks_last: bool,
        emit: &mut Emit<'_>,
    ) {
        self.anchor(place, pts, arrived);
        self.report(now, place, emit);
        let Self { tracks, packet, .. } = self;
        let Some(track) = tracks.get_mut(place) else { return };
        let rtp_time = track.rtp_time(pts);
        for (number, payload) in payloads.iter().enumerate() {
            let payload = payload.as_ref();
            let marker = marks_last && number + 1 == payloads.len();
            packet.clear();
            packet.extend_from_slice(&[0x80, u8::from(marker) << 7 | track.payload_type]);
            packet.extend_from_slice(&track.sequence.to_be_bytes());
            packet.extend_from_slice(&rtp_time.to_be_bytes());
            packet.extend_from_slice(&track.ssrc.to_be_bytes());
            packet.extend_from_slice(payload);
            track.sequence = track.sequence.wrapping_add(1);
            track.packets = track.packets.wrapping_add(1);
            track.bytes = track.bytes.wrapping_add(u32::try_from(payload.len()).unwrap_or_default());
            emit(place, false, packet);
        }
    }

    /// The first unit of a track ties its clock to ours. Where the tracks of a stream count from one beginning, the first
    /// track ties both; else each is tied by when its units came.
    fn anchor(&mut self, place: usize, pts: Timestamp, arrived: Instant) {
        if self.tracks.get(place).is_none_or(|track| track.anchor.is_some()) {
            return;
        }
        let other = self.tracks.iter().find_map(|track| Some((track.anchor?, track.clock_rate)));
        let common = other.and_then(|((ticks, at), rate)| {
            let apart = nanos(pts.ticks, pts.timescale) - nanos(ticks, rate);
            let arrived_apart = match arrived.checked_duration_since(at) {
                Some(later) => i128::try_from(later.as_nanos()).ok()?,
                None => -i128::try_from(at.duration_since(arrived).as_nanos()).ok()?,
            };
            if (apart - arrived_apart).abs() > COMMON_CLOCK_NANOS {
                return None;
            }
            let apart_abs = Duration::from_nanos(u64::try_from(apart.unsigned_abs()).ok()?);
            if apart >= 0 { at.checked_add(apart_abs) } else { at.checked_sub(apart_abs) }
        });
        if let Some(track) = self.tracks.get_mut(place) {
            track.anchor = Some((pts.ticks, common.unwrap_or(arrived)));
        }
    }

    /// A sender report, when one is due: before the first packet, so that players need not guess, and then regularly.
    fn report(&mut self, now: Instant, place: usize, emit: &mut Emit<'_>) {
        let ntp = self.ntp(now);
        let Some(track) = self.tracks.get_mut(place) else { return };
        if track.next_report.is_some_and(|at| now < at) {
            return;
        }
        track.next_report = Some(now + REPORT_INTERVAL);
        let Some((ticks, at)) = track.anchor else { return };
        let passed = match now.checked_duration_since(at) {
            Some(later) => ticks_of(later, track.clock_rate),
            None => -ticks_of(at.duration_since(now), track.clock_rate),
        };
        let pts = Timestamp { ticks: ticks.saturating_add(passed), timescale: track.clock_rate };
        let mut writer = RtcpWriter::new();
        writer.sender_report(track.ssrc, ntp, track.rtp_time(pts), (track.packets, track.bytes), &[]);
        writer.canonical_name(track.ssrc, &self.cname);
        emit(place, true, &writer.finish());
    }

    /// Says goodbye on all tracks that were sent.
    pub fn finish(&mut self, now: Instant, emit: &mut Emit<'_>) {
        for place in 0..self.tracks.len() {
            if let Some(track) = self.tracks.get_mut(place).filter(|track| track.packets > 0) {
                track.next_report = None;
                let ssrc = track.ssrc;
                self.report(now, place, emit);
                let mut writer = RtcpWriter::new();
                writer.receiver_report(ssrc, &[]).canonical_name(ssrc, &self.cname).goodbye(ssrc);
                emit(place, true, &writer.finish());
            }
        }
    }

    fn ntp(&self, now: Instant) -> u64 {
        let (wall, at) = self.wall;
        let wall = wall + now.saturating_duration_since(at);
        let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = since.as_secs().wrapping_add(NTP_TO_UNIX_SECONDS);
        let fraction = (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
        seconds << 32 | fraction
    }
}

impl Sending {
    fn new(track: &Track, wanted: bool, random: &mut impl Rng) -> Self {
        let packer = match &track.payload {
            Payload::H264 { .. } => Packer::H264(H264Packer::default()),
            Payload::Vp8 => Packer::Vp8(Vp8Packer::new(random.random())),
            Payload::Aac { .. } => Packer::Aac,
            Payload::Opus | Payload::Pcma | Payload::Pcmu => Packer::Whole(track.payload.clone()),
            Payload::Other { .. } => Packer::Unknown,
        };
        Self {
            payload_type: track.payload_type,
            clock_rate: track.clock_rate,
            packer,
            wanted,
            ssrc: random.random(),
            sequence: random.random(),
            base: random.random(),
            packets: 0,
            bytes: 0,
            anchor: None,
            next_report: None,
        }
    }

    fn is_video(&self) -> bool {
        matches!(self.packer, Packer::H264(_) | Packer::Vp8(_))
    }

    fn rtp_time(&self, pts: Timestamp) -> u32 {
        self.base.wrapping_add(pts.rescale(self.clock_rate).ticks as u32)
    }
}

fn nanos(ticks: i64, rate: NonZeroU32) -> i128 {
    i128::from(ticks) * 1_000_000_000 / i128::from(rate.get())
}

fn ticks_of(duration: Duration, rate: NonZeroU32) -> i64 {
    i64::try_from(duration.as_nanos() * u128::from(rate.get()) / 1_000_000_000).unwrap_or(i64::MAX)
}
