//! The media of one RTSP session coming in: packets of its tracks into units on one clock, and reports about them.
//!
//! The same for a server that is published to and a client that pulls. How packets come (interleaved or datagrams) is
//! only known here as whether they can be lost on the way.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use thiserror::Error;

use super::sdp::{Payload, Track};
use super::timeline::Timeline;
use crate::media::h264::decode_time::DecodeTimes;
use crate::media::time::{Timestamp, Unwrap32};
use crate::media::track::AudioParams;
use crate::media::unit::{AccessUnit, AudioFrame};
use crate::proto::rtp::aac::{AacDepacketizer, HeaderBits};
use crate::proto::rtp::depack::{Depacketized, Unusable, VideoDepacketizer};
use crate::proto::rtp::depack_h264::H264Depacketizer;
use crate::proto::rtp::depack_vp8::Vp8Depacketizer;
use crate::proto::rtp::header::{HeaderError, RtpPacket};
use crate::proto::rtp::jitter::{Inserted, JitterBuffer, JitterCounts};
use crate::proto::rtp::opus;
use crate::proto::rtp::rtcp::{self, RtcpError, RtcpPacket, RtcpWriter};
use crate::proto::rtp::source::SourceStats;

/// Time between two receiver reports of a track (RFC 3550 section 6.2).
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// What a session's media needs to know.
#[derive(Clone, Debug)]
pub struct MediaSettings {
    /// Largest picture that is taken, in pixels.
    pub pixels_max: u64,
    /// How long a missing packet is waited for; `None` where nothing can be lost or overtaken (interleaved).
    pub hold_back: Option<Duration>,
    /// Our source in receiver reports.
    pub ssrc: u32,
    /// Our canonical name in them.
    pub cname: String,
}

/// What a session's media gives.
#[derive(Clone, Debug)]
pub enum MediaOutput {
    /// A picture, in decoding order.
    Video(AccessUnit),
    /// A frame of sound.
    Audio(AudioFrame),
    /// Something of the video was lost: nothing can be decoded before the next keyframe.
    Gap,
    /// A report to send on the RTCP way of a track.
    Rtcp {
        /// The track, by its place in the description.
        track: usize,
        /// The compound packet.
        bytes: Vec<u8>,
    },
    /// Nothing to do before this moment.
    Timeout(Instant),
}

/// Why a packet was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MediaError {
    /// It is not RTP.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// It is not RTCP.
    #[error(transparent)]
    Rtcp(#[from] RtcpError),
    /// There is no such track, or it is not received.
    #[error("packet for a track that is not received")]
    NoTrack,
    /// Another payload type than the description says.
    #[error("packet of payload type {0}")]
    PayloadType(u8),
}

/// Counts of one session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MediaStats {
    /// Packets taken.
    pub packets: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Packets that never came.
    pub lost: u64,
    /// Packets that came twice or after they were given up.
    pub late: u64,
    /// Packets that were not taken.
    pub refused: u64,
    /// When the last packet was taken.
    pub last_rtp: Option<Instant>,
    /// Pictures delivered.
    pub units: u64,
    /// Frames of sound delivered.
    pub audio_frames: u64,
    /// Pictures dropped: damaged, or without what they refer to.
    pub units_dropped: u64,
    /// Those among them that came whole and cannot be used for what they hold.
    pub units_unusable: u64,
    /// What was wrong with the last of those.
    pub last_unit_error: Option<Unusable>,
    /// [`MediaOutput::Gap`]s.
    pub gaps: u64,
    /// Payloads of sound that could not be used.
    pub audio_refused: u64,
}

/// Receives the first video and the first audio track of a description; all others are passed over.
#[derive(Debug)]
pub struct MediaReceiver {
    settings: MediaSettings,
    /// At most two.
    tracks: Vec<Receiving>,
    timeline: Timeline,
    outputs: VecDeque<MediaOutput>,
    video: VecDeque<Depacketized>,
    next_report: Instant,
    stats: MediaStats,
}

/// Places of the tracks that are received: the first known one of video, the first of sound.
#[must_use]
pub fn received_tracks(tracks: &[Track]) -> Vec<usize> {
    let first = |fits: fn(&Track) -> bool| tracks.iter().position(fits);
    let mut places: Vec<usize> =
        [first(Track::is_video), first(Track::is_audio)].into_iter().flatten().collect();
    places.sort_unstable();
    places
}

#[derive(Debug)]
struct Receiving {
    /// Place in the description.
    place: usize,
    payload_type: u8,
    clock_rate: NonZeroU32,
    format: Format,
    source: Option<Source>,
    past: JitterCounts,
}

#[derive(Debug)]
enum Format {
    Video { depacketizer: Box<dyn VideoDepacketizer>, decode_times: DecodeTimes },
    Audio { params: Arc<AudioParams>, time: Unwrap32, aac: Option<AacDepacketizer> },
}

#[derive(Debug)]
struct Source {
    ssrc: u32,
    order: Order,
    stats: SourceStats,
}

/// How packets are put in order.
#[derive(Debug)]
enum Order {
    /// They come in order; the number of the next one, and how many did not come.
    Reliable {
        next: u16,
        lost: u64,
    },
    Reordered(Box<JitterBuffer>),
}

impl MediaReceiver {
    /// A receiver that has seen nothing yet. Tracks that [`received_tracks`] leaves out are not received.
    #[must_use]
    pub fn new(settings: MediaSettings, tracks: &[Track], now: Instant) -> Self {
        let places = received_tracks(tracks);
        let tracks: Vec<Receiving> = places
            .into_iter()
            .filter_map(|place| Receiving::new(place, tracks.get(place)?, settings.pixels_max))
            .collect();
        Self {
            timeline: Timeline::new(tracks.iter().map(|track| track.clock_rate)),
            settings,
            tracks,
            outputs: VecDeque::new(),
            video: VecDeque::new(),
            next_report: now + REPORT_INTERVAL,
            stats: MediaStats::default(),
        }
    }

    /// Whether packets of the track at this place are received.
    #[must_use]
    pub fn receives(&self, place: usize) -> bool {
        self.tracks.iter().any(|track| track.place == place)
    }

    /// Takes an RTP packet of the track at `place` in the description.
    ///
    /// # Errors
    /// When it cannot be used; it is counted.
    pub fn handle_rtp(&mut self, now: Instant, place: usize, packet: &[u8]) -> Result<(), MediaError> {
        let result = self.take_rtp(now, place, packet);
        self.stats.refused += u64::from(result.is_err());
        result
    }

    fn take_rtp(&mut self, now: Instant, place: usize, packet: &[u8]) -> Result<(), MediaError> {
        let header = RtpPacket::parse(packet)?;
        let position = self.position(place)?;
        let track = self.tracks.get_mut(position).ok_or(MediaError::NoTrack)?;
        if header.payload_type != track.payload_type {
            return Err(MediaError::PayloadType(header.payload_type));
        }
        self.stats.packets += 1;
        self.stats.bytes += header.payload.len() as u64;
        self.stats.last_rtp = Some(now);
        if track.source.as_ref().is_none_or(|source| source.ssrc != header.ssrc) {
            self.begin_source(position, &header, now);
        }
        let Some(source) = self.tracks.get_mut(position).and_then(|track| track.source.as_mut()) else {
            return Err(MediaError::NoTrack);
        };
        source.stats.on_packet(now, header.sequence, header.timestamp);
        match &mut source.order {
            Order::Reliable { next, lost } => {
                let missing = header.sequence.wrapping_sub(*next);
                *next = header.sequence.wrapping_add(1);
                // A number far behind is a sender that counts anew.
                *lost += if missing < 0x8000 { u64::from(missing) } else { 1 };
                self.deliver(position, &header, now, missing > 0);
            }
            Order::Reordered(jitter) => {
                if jitter.insert(now, header.sequence, packet) == Inserted::Next {
                    self.deliver(position, &header, now, false);
                }
                self.release(position, now);
            }
        }
        Ok(())
    }

    /// Takes a compound RTCP packet of the track at `place`.
    ///
    /// # Errors
    /// When it cannot be read; it is counted.
    pub fn handle_rtcp(&mut self, now: Instant, place: usize, compound: &[u8]) -> Result<(), MediaError> {
        let result = self.take_rtcp(now, place, compound);
        self.stats.refused += u64::from(result.is_err());
        result
    }

    fn take_rtcp(&mut self, now: Instant, place: usize, compound: &[u8]) -> Result<(), MediaError> {
        let position = self.position(place)?;
        for packet in rtcp::parse(compound)? {
            if let RtcpPacket::SenderReport { ssrc, ntp, rtp_time, .. } = packet {
                self.timeline.on_report(position, ntp, rtp_time);
                let source = self.tracks.get_mut(position).and_then(|track| track.source.as_mut());
                if let Some(source) = source.filter(|source| source.ssrc == ssrc) {
                    source.stats.on_sender_report(now, ntp);
                }
            }
        }
        Ok(())
    }

    fn position(&self, place: usize) -> Result<usize, MediaError> {
        self.tracks.iter().position(|track| track.place == place).ok_or(MediaError::NoTrack)
    }

    /// The first packet of a track's source: what came from another before has no continuation.
    fn begin_source(&mut self, position: usize, header: &RtpPacket<'_>, now: Instant) {
        let Some(track) = self.tracks.get_mut(position) else { return };
        if let Some(old) = track.source.take() {
            track.past = track.past + old.order.counts();
            match &mut track.format {
                Format::Video { depacketizer, .. } => depacketizer.restart(&mut self.video),
                Format::Audio { aac, .. } => aac.iter_mut().for_each(AacDepacketizer::mark_lost),
            }
        }
        let order = match self.settings.hold_back {
            None => Order::Reliable { next: header.sequence, lost: 0 },
            Some(hold_back) => Order::Reordered(Box::new(JitterBuffer::new(hold_back))),
        };
        let stats = SourceStats::new(header.ssrc, track.clock_rate, now, header.sequence, header.timestamp);
        track.source = Some(Source { ssrc: header.ssrc, order, stats });
    }

    /// Hands out what the reorder buffer lets go.
    fn release(&mut self, position: usize, now: Instant) {
        loop {
            let source = self.tracks.get_mut(position).and_then(|track| track.source.as_mut());
            let Some(Order::Reordered(jitter)) = source.map(|source| &mut source.order) else { return };
            let Some(popped) = jitter.pop(now) else { return };
            if let Ok(header) = RtpPacket::parse(&popped.packet) {
                self.deliver(position, &header, popped.arrived, popped.lost > 0);
            }
        }
    }

    fn deliver(&mut self, position: usize, packet: &RtpPacket<'_>, arrived: Instant, has_hole: bool) {
        let Self { tracks, timeline, outputs, video, stats, .. } = self;
        let Some(track) = tracks.get_mut(position) else { return };
        match &mut track.format {
            Format::Video { depacketizer, decode_times } => {
                if has_hole {
                    depacketizer.mark_lost(video);
                }
                depacketizer.push(packet, arrived, None, video);
                for made in video.drain(..) {
                    match made {
                        Depacketized::Gap => {
                            decode_times.reset();
                            outputs.push_back(MediaOutput::Gap);
                        }
                        Depacketized::Unit(mut unit) => {
                            let ticks = unit.pts.ticks;
                            unit.pts.ticks = if unit.key {
                                timeline.map_key(position, ticks, unit.arrived)
                            } else {
                                timeline.map(position, ticks, unit.arrived)
                            };
                            decode_times.stamp(&mut unit);
                            outputs.push_back(MediaOutput::Video(unit));
                        }
                    }
                }
            }
            Format::Audio { params, time, aac } => {
                let base = time.unwrap(packet.timestamp);
                let mut give = |after: u32, data: Option<Bytes>| {
                    let Some(data) = data else { return };
                    let ticks = timeline.map(position, base.saturating_add(i64::from(after)), arrived);
                    let pts = Timestamp { ticks, timescale: params.sample_rate };
                    stats.audio_frames += 1;
                    outputs.push_back(MediaOutput::Audio(AudioFrame {
                        arrived,
                        pts,
                        params: params.clone(),
                        data,
                    }));
                };
                if let Some(aac) = aac {
                    if has_hole {
                        aac.mark_lost();
                    }
                    let copied = |data: &[u8]| Some(Bytes::copy_from_slice(data));
                    let taken = aac.push(packet.timestamp, packet.payload, |at, unit| give(at, copied(unit)));
                    stats.audio_refused += u64::from(taken.is_err());
                } else if packet.payload.len() <= opus::OPUS_PAYLOAD_BYTES_MAX {
                    // G.711 packets are smaller still: a second has 8000 bytes, and nobody waits that long.
                    let is_there = !packet.payload.is_empty();
                    give(0, is_there.then(|| Bytes::copy_from_slice(packet.payload)));
                } else {
                    stats.audio_refused += 1;
                }
            }
        }
    }

    /// Does what is due: gives up packets that did not come, reports.
    pub fn handle_timeout(&mut self, now: Instant) {
        for position in 0..self.tracks.len() {
            self.release(position, now);
        }
        if now < self.next_report {
            return;
        }
        self.next_report = now + REPORT_INTERVAL;
        for track in &mut self.tracks {
            let Some(source) = &mut track.source else { continue };
            let mut writer = RtcpWriter::new();
            writer.receiver_report(self.settings.ssrc, &[source.stats.report(now)]);
            writer.canonical_name(self.settings.ssrc, &self.settings.cname);
            self.outputs.push_back(MediaOutput::Rtcp { track: track.place, bytes: writer.finish() });
        }
    }

    /// The next output; call until it is [`MediaOutput::Timeout`].
    pub fn poll_output(&mut self) -> MediaOutput {
        self.outputs.pop_front().unwrap_or_else(|| MediaOutput::Timeout(self.deadline()))
    }

    fn deadline(&self) -> Instant {
        let holes = self.tracks.iter().filter_map(|track| match &track.source.as_ref()?.order {
            Order::Reordered(jitter) => jitter.deadline(false),
            Order::Reliable { .. } => None,
        });
        holes.min().map_or(self.next_report, |hole| hole.min(self.next_report))
    }

    /// Counts so far.
    #[must_use]
    pub fn stats(&self) -> MediaStats {
        let mut stats = self.stats;
        for track in &self.tracks {
            let counts =
                track.source.as_ref().map_or(track.past, |source| track.past + source.order.counts());
            stats.lost += counts.lost;
            stats.late += counts.late;
            if let Format::Video { depacketizer, .. } = &track.format {
                let video = depacketizer.chain().counts();
                stats.units = video.units;
                stats.units_dropped = video.dropped;
                stats.units_unusable = video.unusable;
                stats.gaps = video.gaps;
                stats.last_unit_error = depacketizer.chain().last_error();
            }
        }
        stats
    }
}

impl Receiving {
    fn new(place: usize, track: &Track, pixels_max: u64) -> Option<Self> {
        let audio = |aac| {
            let params = track.audio_params()?;
            Some(Format::Audio { params, time: Unwrap32::default(), aac })
        };
        let format = match &track.payload {
            Payload::H264 { parameter_sets } => {
                let mut depacketizer = Box::new(H264Depacketizer::new(pixels_max));
                for set in parameter_sets {
                    depacketizer.know_parameter_set(set);
                }
                Some(Format::Video { depacketizer, decode_times: DecodeTimes::new() })
            }
            Payload::Vp8 => Some(Format::Video {
                depacketizer: Box::new(Vp8Depacketizer::new(pixels_max)),
                decode_times: DecodeTimes::new(),
            }),
            Payload::Other { .. } => None,
            Payload::Aac { layout, .. } => audio(Some(AacDepacketizer::new(HeaderBits {
                size: layout.size_bits,
                index: layout.index_bits,
                index_delta: layout.index_delta_bits,
            }))),
            Payload::Opus | Payload::Pcma | Payload::Pcmu => audio(None),
        }?;
        Some(Self {
            place,
            payload_type: track.payload_type,
            clock_rate: track.clock_rate,
            format,
            source: None,
            past: JitterCounts::default(),
        })
    }
}

impl Order {
    fn counts(&self) -> JitterCounts {
        match self {
            Self::Reliable { lost, .. } => JitterCounts { lost: *lost, ..JitterCounts::default() },
            Self::Reordered(jitter) => jitter.counts(),
        }
    }
}

#[cfg(test)]
#[path = "media_tests.rs"]
mod tests;
