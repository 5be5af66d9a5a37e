//! What is counted of a sender.

use std::time::Duration;

/// Counts of one [`Sender`](super::Sender).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderStats {
    /// Packets sent, without repetitions.
    pub packets: u64,
    /// Bytes of all packets, before encryption.
    pub bytes: u64,
    /// Those of pictures among them, without repetitions.
    pub video_bytes: u64,
    /// The viewer's network carries less than the stream needs.
    pub is_short: bool,
    /// Packets sent again.
    pub repeated: u64,
    /// Sequence numbers that the viewer asked for again.
    pub nacks: u64,
    /// Keyframes that it asked for.
    pub keyframe_requests: u64,
    /// Pictures sent.
    pub pictures: u64,
    /// Pictures left out, because the viewer could not keep up.
    pub dropped: u64,
    /// Units that could not be cut into packets.
    pub unusable: u64,
    /// Newest round-trip time.
    pub rtt: Option<Duration>,
    /// The share of video packets that was lost in the last second or so, in 256ths.
    pub fraction_lost: u8,
    /// The newest estimate of the viewer, in bits a second.
    pub remb_bps: Option<u64>,
}
