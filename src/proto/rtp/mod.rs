//! RTP and RTCP (RFC 3550): from packets to access units and back.
//!
//! What belongs here: packet and report formats, reordering, loss and its repair, payload formats, feedback to the
//! sender. What does not: encryption (`srtp`), which packets are ours to read (`ice`, `dtls`), and codecs
//! themselves (`media::h264`, `media::vp8`).

pub mod aac;
pub mod depack;
pub mod depack_h264;
pub mod depack_vp8;
pub mod header;
pub mod jitter;
pub mod opus;
pub mod orientation;
pub mod pack_h264;
pub mod pack_vp8;
pub mod payload;
pub mod rate;
pub mod receiver;
pub mod rtcp;
pub mod sender;
pub mod source;
mod sync;
mod track;
pub mod transport_wide;

#[cfg(test)]
pub(crate) mod test_source;
