//! The two types that everybody speaks: what travels from publishers through the hub.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::time::Timestamp;
use super::track::{AudioParams, VideoParams};

/// All NAL units of one coded picture (H.264 7.4.1.2.3), or one frame of another codec, ready for any consumer.
#[derive(Clone, Debug)]
pub struct AccessUnit {
    /// Place in its publication, counted from 0 by the hub; without meaning before the hub took it.
    pub seq: u64,
    /// When its first byte reached us: the capture time as far as we can vouch for it.
    pub arrived: Instant,
    /// When to show it.
    pub pts: Timestamp,
    /// When to decode it; equals `pts` without B-frames.
    pub dts: Timestamp,
    /// Decoding may begin here, and everything that is shown from here on is exact: an IDR picture (or another codec's
    /// keyframe), or an I picture that a recovery point names (H.264 D.2.8). After the latter come *leading* pictures: decoded
    /// after it, shown before it, of use to nobody who began here.
    pub key: bool,
    /// No later picture refers to it (`nal_ref_idc` is 0 throughout).
    pub disposable: bool,
    /// Holds a B slice: pictures may come out of the decoder in another order.
    pub bidirectional: bool,
    /// Later pictures refer to it and it is never shown itself (RFC 6386 section 9.1: `show_frame` is 0).
    pub hidden: bool,
    /// The parameters in force.
    pub params: Arc<VideoParams>,
    /// H.264: NAL units, each after its length in four bytes, big-endian (AVCC, ISO/IEC 14496-15 section 5.3.2);
    /// no SPS, PPS, access unit delimiter or filler inside. VP8: the frame as it is.
    pub data: Bytes,
}

/// One frame of sound.
#[derive(Clone, Debug)]
pub struct AudioFrame {
    /// When its first byte reached us.
    pub arrived: Instant,
    /// When to play it, in the track's sample rate.
    pub pts: Timestamp,
    /// The parameters in force.
    pub params: Arc<AudioParams>,
    /// Opus: one packet (RFC 6716 section 3).
    pub data: Bytes,
}

/// What travels through the hub.
#[derive(Clone, Debug)]
pub enum MediaUnit {
    /// A coded picture.
    Video(Arc<AccessUnit>),
    /// A frame of sound.
    Audio(Arc<AudioFrame>),
}

impl MediaUnit {
    /// Bytes of payload.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Video(unit) => unit.data.len(),
            Self::Audio(frame) => frame.data.len(),
        }
    }
}
