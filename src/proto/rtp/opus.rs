//! Opus (RFC 7587): one packet holds one frame packet, so a payload is what a decoder takes.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::media::time::Timestamp;
use crate::media::track::AudioParams;
use crate::media::unit::AudioFrame;

/// Largest payload: 120 ms at the highest rate take less (RFC 6716 section 3.2.1: 1275 bytes a frame, six of 20 ms).
pub const OPUS_PAYLOAD_BYTES_MAX: usize = 6 * 1275 + 64;

/// Makes a frame of a payload; `None` for an empty one (padding, or a pause of the sender) and for one that is larger
/// than Opus allows. `ticks` is RTP time without wraps.
#[must_use]
pub fn frame(payload: &[u8], arrived: Instant, ticks: i64, params: &Arc<AudioParams>) -> Option<AudioFrame> {
    if payload.is_empty() || payload.len() > OPUS_PAYLOAD_BYTES_MAX {
        return None;
    }
    let pts = Timestamp { ticks, timescale: params.sample_rate };
    Some(AudioFrame { arrived, pts, params: params.clone(), data: Bytes::copy_from_slice(payload) })
}
