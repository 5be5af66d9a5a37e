//! The receiving end of one bundle: packets of all its tracks in, access units and feedback out.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::depack::{Depacketized, DepacketizerCounts, Unusable, VideoDepacketizer};
use super::depack_h264::H264Depacketizer;
use super::depack_vp8::Vp8Depacketizer;
use super::header::{HeaderError, RtpPacket};
use super::jitter::JitterCounts;
use super::rate::{JUDGE_INTERVAL, RateEstimator};
pub use super::rtcp::RtcpError;
use super::rtcp::{self, NACK_SEQUENCES_MAX, RtcpPacket, RtcpWriter};
use super::sync;
use super::track::{Made, Media, Track};
use crate::media::track::AudioCodec;
use crate::media::unit::{AccessUnit, AudioFrame};

/// What a track carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrackKind {
    /// Pictures, on a clock of 90 kHz.
    Video {
        /// How they travel in RTP.
        codec: VideoPayload,
    },
    /// Sound.
    Audio {
        /// The codec.
        codec: AudioCodec,
        /// Ticks a second of its RTP time stamps, as in `rtpmap`.
        clock_rate: NonZeroU32,
        /// Channels, as in `rtpmap`.
        channels: u8,
    },
}

/// Payload formats of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VideoPayload {
    /// RFC 6184, packetization modes 0 and 1.
    H264,
    /// RFC 7741.
    Vp8,
}

impl VideoPayload {
    /// What takes pictures out of this format; pictures of more than `pixels_max` pixels are refused.
    pub(super) fn depacketizer(self, pixels_max: u64) -> Box<dyn VideoDepacketizer> {
        match self {
            Self::H264 => Box::new(H264Depacketizer::new(pixels_max)),
            Self::Vp8 => Box::new(Vp8Depacketizer::new(pixels_max)),
        }
    }
}

/// One media section of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackSettings {
    /// What it carries.
    pub kind: TrackKind,
    /// Payload types of the answer that carry it. Others of the same source are ignored.
    pub payload_types: Vec<u8>,
    /// Its sources as the offer names them; empty where it does not: learnt by MID or payload type.
    pub ssrcs: Vec<u32>,
    /// `a=mid`.
    pub mid: String,
    /// Generic NACK was negotiated (RFC 4585).
    pub nack: bool,
    /// Picture loss indication was negotiated (RFC 4585).
    pub pli: bool,
    /// Full intra request was negotiated (RFC 5104); used where PLI was not.
    pub fir: bool,
    /// Receiver-estimated maximum bitrate was negotiated (`goog-remb`).
    pub remb: bool,
    /// Identifier of header extension `urn:3gpp:video-orientation`.
    pub cvo_extension: Option<u8>,
}

/// What a [`Receiver`] must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiverSettings {
    /// Our source in RTCP.
    pub local_ssrc: u32,
    /// Our canonical name in RTCP.
    pub cname: String,
    /// The tracks.
    pub tracks: Vec<TrackSettings>,
    /// Identifier of header extension `urn:ietf:params:rtp-hdrext:sdes:mid`.
    pub mid_extension: Option<u8>,
    /// Identifier of header extension `abs-send-time`: with it, queues on the way are seen before they lose packets.
    pub abs_send_time_extension: Option<u8>,
    /// Most pixels of a picture; a stream that declares more is not taken.
    pub pixels_max: u64,
    /// Most that the sender is allowed, in bits a second.
    pub bitrate_max_bps: u64,
    /// How long packets wait for a missing one before it counts as lost.
    pub hold_back: Duration,
    /// Shortest time between two requests for a keyframe.
    pub keyframe_interval: Duration,
}

/// [`ReceiverSettings::hold_back`]: room for two NACKs at the round-trip times of one continent.
pub const HOLD_BACK_DEFAULT: Duration = Duration::from_millis(100);
/// [`ReceiverSettings::keyframe_interval`]: browsers answer within some 30 ms and ignore requests that come faster.
pub const KEYFRAME_INTERVAL_DEFAULT: Duration = Duration::from_millis(300);

/// What comes out of a [`Receiver`].
#[derive(Clone, Debug)]
pub enum ReceiverOutput {
    /// A compound RTCP packet to encrypt and send.
    Rtcp(Vec<u8>),
    /// A whole picture.
    Video(AccessUnit),
    /// A frame of sound.
    Audio(AudioFrame),
    /// Something of the video was lost: nothing decodable before the next unit with `key`.
    Gap,
    /// Nothing more; call [`Receiver::handle_timeout`] then.
    Timeout(Instant),
}

/// Why an RTP packet was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RtpError {
    /// It is not RTP.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// It belongs to no track.
    #[error("no track for source {ssrc:#010x}, payload type {payload_type}")]
    NoTrack {
        /// Its source.
        ssrc: u32,
        /// Its payload type.
        payload_type: u8,
    },
}

/// Counts of one [`Receiver`], all tracks together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiverStats {
    /// Packets taken.
    pub packets: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Packets that never came.
    pub lost: u64,
    /// Packets that came twice or after they were given up.
    pub late: u64,
    /// Packets that belong to no track.
    pub refused: u64,
    /// When the last packet was taken.
    pub last_rtp: Option<Instant>,
    /// Sequence numbers asked for again.
    pub nacks: u64,
    /// Keyframes asked for: PLI and FIR.
    pub keyframe_requests: u64,
    /// Pictures delivered.
    pub units: u64,
    /// Pictures dropped: damaged, or not decodable after a loss.
    pub units_dropped: u64,
    /// Those among them that came whole and cannot be used for what they hold: parameters that are unknown, refused or
    /// damaged.
    pub units_unusable: u64,
    /// What was wrong with the last of those.
    pub last_unit_error: Option<Unusable>,
    /// [`ReceiverOutput::Gap`]s.
    pub gaps: u64,
    /// The newest allowance told to the sender, in bits a second.
    pub remb_bps: Option<u64>,
    /// Nanoseconds to add to time stamps of the sound, so that they are on the clock of the pictures; `None` while the sender's
    /// reports do not tell.
    pub sound_offset_ns: Option<i64>,
}

/// Longest sleep of a receiver that has nothing to wait for.
const IDLE: Duration = Duration::from_secs(1);
/// Time between two reports (RFC 3550 section 6.2 allows less for a session of two, browsers send one a second).
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// The first report comes sooner: within its first seconds a browser takes the allowance over without climbing.
const FIRST_REPORT: Duration = Duration::from_millis(100);
/// So many requests in vain are made at the same pace before the pause between them doubles.
const PATIENT_REQUESTS: u32 = 6;
/// The pause doubles at most so often: from 0.3 to 4.8 seconds.
const PAUSE_DOUBLINGS_MAX: u32 = 4;
/// A track whose packets stopped for so long is not asked for keyframes: nobody would hear it.
const SILENCE: Duration = Duration::from_secs(2);

/// All tracks of one bundle. Packets in and out are plain: decryption is somebody else's.
///
/// A packet belongs to the track that names its source in the offer, else to the one whose MID it carries (RFC 9143),
/// else to the one without named sources that its payload type fits.
#[derive(Debug)]
pub struct Receiver {
    local_ssrc: u32,
    cname: String,
    mid_extension: Option<u8>,
    abs_send_time_extension: Option<u8>,
    hold_back: Duration,
    keyframe_interval: Duration,
    tracks: Vec<Track>,
    rate: RateEstimator,
    remb: bool,
    made: Made,
    idle_until: Instant,
    next_report: Option<Instant>,
    next_judgement: Option<Instant>,
    keyframe: KeyframeWish,
    refused: u64,
    bytes: u64,
}

/// Whether somebody wants a keyframe, and when the sender was asked last.
#[derive(Debug, Default)]
struct KeyframeWish {
    wanted: bool,
    asked: Option<Instant>,
    requests: u64,
    /// Requests since a keyframe came that could be used.
    unanswered: u32,
    fir_number: u8,
}

impl KeyframeWish {
    /// The pause after the last request. It grows where keyframes come and none can be used: each costs the sender
    /// more than all pictures between them.
    fn pause(&self, interval: Duration) -> Duration {
        interval * (1 << (self.unanswered / PATIENT_REQUESTS).min(PAUSE_DOUBLINGS_MAX))
    }
}

impl Receiver {
    /// A receiver that has seen nothing yet.
    #[must_use]
    pub fn new(settings: ReceiverSettings, now: Instant) -> Self {
        let pixels_max = settings.pixels_max;
        Self {
            local_ssrc: settings.local_ssrc,
            cname: settings.cname,
            mid_extension: settings.mid_extension,
            abs_send_time_extension: settings.abs_send_time_extension,
            hold_back: settings.hold_back,
            keyframe_interval: settings.keyframe_interval,
            remb: settings.tracks.iter().any(|track| track.remb),
            tracks: settings.tracks.into_iter().map(|track| Track::new(track, pixels_max)).collect(),
            rate: RateEstimator::new(settings.bitrate_max_bps),
            made: Made::default(),
            idle_until: now + IDLE,
            next_report: None,
            next_judgement: None,
            keyframe: KeyframeWish::default(),
            refused: 0,
            bytes: 0,
        }
    }

    /// Whether a packet can belong to a track, judged by its header, which is readable before decryption. Ask before
    /// decrypting: a source that is refused leaves no state behind.
    #[must_use]
    pub fn accepts(&self, packet: &[u8]) -> bool {
        RtpPacket::parse_header(packet).is_ok_and(|header| self.track_of(&header).is_some())
    }

    fn track_of(&self, header: &RtpPacket<'_>) -> Option<usize> {
        let carries = |track: &Track| track.settings.payload_types.contains(&header.payload_type);
        if let Some(position) = self.tracks.iter().position(|track| track.is_current(header.ssrc)) {
            return Some(position).filter(|&position| self.tracks.get(position).is_some_and(carries));
        }
        let mid = self.mid_extension.and_then(|id| header.extension(id));
        let is_named = |track: &Track| track.settings.ssrcs.contains(&header.ssrc);
        let has_mid = |track: &Track| mid.is_some_and(|mid| mid == track.settings.mid.as_bytes());
        let fits = |track: &Track| track.settings.ssrcs.is_empty() && mid.is_none();
        let find = |rule: &dyn Fn(&Track) -> bool| {
            self.tracks.iter().position(|track| carries(track) && rule(track))
        };
        let position = find(&is_named).or_else(|| find(&has_mid)).or_else(|| find(&fits))?;
        self.tracks.get(position).is_some_and(|track| track.may_bind(header.ssrc)).then_some(position)
    }

    /// Takes a decrypted RTP packet.
    ///
    /// # Errors
    /// When it cannot be used; the receiver is as before.
    pub fn handle_rtp(&mut self, now: Instant, packet: &[u8]) -> Result<(), RtpError> {
        let header = RtpPacket::parse(packet)?;
        let Some(position) = self.track_of(&header) else {
            self.refused += 1;
            return Err(RtpError::NoTrack { ssrc: header.ssrc, payload_type: header.payload_type });
        };
        self.next_report.get_or_insert(now + FIRST_REPORT);
        self.next_judgement.get_or_insert(now);
        self.bytes += header.payload.len() as u64;
        let send_time = self.abs_send_time_extension.and_then(|id| header.extension(id));
        let send_time =
            send_time.and_then(<[u8]>::first_chunk).map(|&[a, b, c]| u32::from_be_bytes([0, a, b, c]));
        self.rate.on_packet(now, packet.len(), send_time);
        let Some(track) = self.tracks.get_mut(position) else { return Ok(()) };
        track.take(now, packet, &header, self.hold_back, &mut self.made);
        self.pass_on();
        Ok(())
    }

    /// Hands pictures on and sees whether a keyframe is needed.
    fn pass_on(&mut self) {
        while let Some(output) = self.made.video.pop_front() {
            match output {
                Depacketized::Unit(unit) => {
                    if unit.key {
                        self.keyframe.wanted = false;
                        self.keyframe.unanswered = 0;
                    }
                    self.made.outputs.push_back(ReceiverOutput::Video(unit));
                }
                Depacketized::Gap => {
                    self.keyframe.wanted = true;
                    self.made.outputs.push_back(ReceiverOutput::Gap);
                }
            }
        }
        for track in &mut self.tracks {
            if track.needs_keyframe() {
                self.keyframe.wanted = true;
            }
        }
    }

    /// Takes a decrypted compound RTCP packet.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn handle_rtcp(&mut self, now: Instant, compound: &[u8]) -> Result<(), RtcpError> {
        for packet in rtcp::parse(compound)? {
            if let RtcpPacket::SenderReport { ssrc, ntp, rtp_time, .. } = packet
                && let Some(track) = self.tracks.iter_mut().find(|track| track.is_current(ssrc))
            {
                track.on_sender_report(now, ntp, rtp_time);
            }
        }
        Ok(())
    }

    /// Asks the sender for a keyframe: at most once per `keyframe_interval`, repeated until one came. Where no video
    /// arrives yet, the wish is kept.
    pub fn request_keyframe(&mut self, now: Instant) {
        self.keyframe.wanted = true;
        self.ask_for_keyframe(now);
    }

    fn keyframe_due(&self) -> Option<Instant> {
        let track = self.keyframe_track()?;
        let last_rtp = track.last_rtp?;
        let due =
            self.keyframe.asked.map_or(last_rtp, |asked| asked + self.keyframe.pause(self.keyframe_interval));
        (due <= last_rtp + SILENCE).then_some(due)
    }

    /// The video track to ask for a keyframe, if one is wanted and the sender understands the question.
    fn keyframe_track(&self) -> Option<&Track> {
        let mut tracks = self.tracks.iter().filter(|track| matches!(track.media, Media::Video(_)));
        tracks.find(|track| self.keyframe.wanted && (track.settings.pli || track.settings.fir))
    }

    fn ask_for_keyframe(&mut self, now: Instant) {
        if self.keyframe_due().is_none_or(|due| due > now) {
            return;
        }
        let Some(track) = self.keyframe_track() else { return };
        let Some(media_ssrc) = track.source.as_ref().map(|source| source.ssrc) else { return };
        let by_pli = track.settings.pli;
        self.keyframe.asked = Some(now);
        self.keyframe.requests += 1;
        self.keyframe.unanswered = self.keyframe.unanswered.saturating_add(1);
        let mut writer = RtcpWriter::new();
        writer.receiver_report(self.local_ssrc, &[]);
        if by_pli {
            writer.picture_loss(self.local_ssrc, media_ssrc);
        } else {
            self.keyframe.fir_number = self.keyframe.fir_number.wrapping_add(1);
            writer.full_intra(self.local_ssrc, media_ssrc, self.keyframe.fir_number);
        }
        self.made.outputs.push_back(ReceiverOutput::Rtcp(writer.finish()));
    }

    /// Does what is due: gives up packets that did not come, asks again, reports.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.idle_until = now + IDLE;
        for track in &mut self.tracks {
            track.release(now, &mut self.made);
        }
        self.pass_on();
        self.ask_for_packets(now);
        self.ask_for_keyframe(now);
        let mut is_urgent = false;
        if self.next_judgement.is_some_and(|at| at <= now) {
            self.next_judgement = Some(now + JUDGE_INTERVAL);
            let (packets, counts) = self.totals();
            is_urgent = self.rate.judge(now, packets, counts.missed);
        }
        if self.next_report.is_some_and(|at| at <= now) {
            self.next_report = Some(now + REPORT_INTERVAL);
            self.report(now, true);
        } else if is_urgent {
            self.report(now, false);
        }
    }

    fn ask_for_packets(&mut self, now: Instant) {
        for track in self.tracks.iter_mut().filter(|track| track.settings.nack) {
            let Some(source) = &mut track.source else { continue };
            let sequences = source.jitter.take_asks(now, NACK_SEQUENCES_MAX);
            if !sequences.is_empty() {
                let mut writer = RtcpWriter::new();
                writer.receiver_report(self.local_ssrc, &[]);
                writer.nack(self.local_ssrc, source.ssrc, &sequences);
                self.made.outputs.push_back(ReceiverOutput::Rtcp(writer.finish()));
            }
        }
    }

    /// Sends what was received, and how much may be sent.
    fn report(&mut self, now: Instant, with_blocks: bool) {
        let mut writer = RtcpWriter::new();
        let mut blocks = Vec::new();
        for source in self.tracks.iter_mut().filter_map(|track| track.source.as_mut()) {
            if with_blocks {
                blocks.push(source.stats.report(now));
            }
        }
        writer.receiver_report(self.local_ssrc, &blocks).canonical_name(self.local_ssrc, &self.cname);
        if self.remb {
            let asked = self.tracks.iter().filter(|track| track.settings.remb);
            let ssrcs: Vec<u32> = asked.filter_map(|track| Some(track.source.as_ref()?.ssrc)).collect();
            if !ssrcs.is_empty() {
                writer.remb(self.local_ssrc, self.rate.allowance_bps(), &ssrcs);
            }
        }
        self.made.outputs.push_back(ReceiverOutput::Rtcp(writer.finish()));
    }

    /// The next output; call until it is [`ReceiverOutput::Timeout`].
    pub fn poll_output(&mut self) -> ReceiverOutput {
        self.made.outputs.pop_front().unwrap_or_else(|| ReceiverOutput::Timeout(self.deadline()))
    }

    fn deadline(&self) -> Instant {
        let holes = self.tracks.iter().filter_map(|track| {
            track.source.as_ref().and_then(|source| source.jitter.deadline(track.settings.nack))
        });
        let dues = [self.next_report, self.next_judgement, self.keyframe_due()];
        holes.chain(dues.into_iter().flatten()).min().unwrap_or(self.idle_until)
    }

    fn totals(&self) -> (u64, JitterCounts) {
        let packets = self.tracks.iter().map(|track| track.packets).sum();
        (packets, self.tracks.iter().fold(JitterCounts::default(), |sum, track| sum + track.counts()))
    }

    fn sound_offset_ns(&self) -> Option<i64> {
        let clock_of = |is_video: bool| {
            let mut tracks = self.tracks.iter();
            Some(&tracks.find(|track| matches!(track.media, Media::Video(_)) == is_video)?.clock)
        };
        sync::sound_offset_nanos(clock_of(true)?, clock_of(false)?)
    }

    /// Counts so far.
    #[must_use]
    pub fn stats(&self) -> ReceiverStats {
        let (packets, counts) = self.totals();
        let mut video = DepacketizerCounts::default();
        let mut last_unit_error = None;
        for track in &self.tracks {
            if let Media::Video(depacketizer) = &track.media {
                video = depacketizer.chain().counts();
                last_unit_error = depacketizer.chain().last_error();
            }
        }
        ReceiverStats {
            packets,
            bytes: self.bytes,
            lost: counts.lost,
            late: counts.late,
            refused: self.refused,
            last_rtp: self.tracks.iter().filter_map(|track| track.last_rtp).max(),
            nacks: counts.asks,
            keyframe_requests: self.keyframe.requests,
            units: video.units,
            units_dropped: video.dropped,
            units_unusable: video.unusable,
            last_unit_error,
            gaps: video.gaps,
            remb_bps: self.remb.then(|| self.rate.allowance_bps()),
            sound_offset_ns: self.sound_offset_ns(),
        }
    }
}

#[cfg(test)]
#[path = "receiver_tests.rs"]
mod tests;
