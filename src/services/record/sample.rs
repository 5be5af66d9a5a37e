//! What recordings are made of: media units on the recording's own clock.

use std::sync::Arc;

use bytes::Bytes;

use crate::media::track::{AudioParams, VideoParams};

/// A picture.
#[derive(Clone, Debug)]
pub(super) struct VideoSample {
    /// When to decode it, in ticks of 1/90 000 s of the recording's clock.
    pub(super) dts: i64,
    /// From then to when it is shown; never negative.
    pub(super) composition: i64,
    /// How long it is expected to last, likewise: what comes next tells better.
    pub(super) duration: u32,
    /// Decoding may begin here.
    pub(super) key: bool,
    /// It is never shown itself.
    pub(super) hidden: bool,
    pub(super) params: Arc<VideoParams>,
    /// As in an access unit.
    pub(super) data: Bytes,
}

/// A frame of sound.
#[derive(Clone, Debug)]
pub(super) struct AudioSample {
    /// When it is heard, in samples of the recording's clock.
    pub(super) dts: i64,
    /// Samples that it holds.
    pub(super) duration: u32,
    pub(super) params: Arc<AudioParams>,
    pub(super) data: Bytes,
}
