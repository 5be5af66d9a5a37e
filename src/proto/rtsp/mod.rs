//! RTSP 1.0 (RFC 2326): messages, session descriptions, and the media that travels beside them.
//!
//! What belongs here: text and interleaved frames out of a byte stream, SDP of RTSP, RTP of one session into units and
//! back, and the machines of both sides. What does not: payload formats and reports (`rtp`), sockets and threads (`edge`).

pub mod address;
pub mod client;
pub mod media;
pub mod message;
pub mod sdp;
pub mod sender;
pub mod server;
mod timeline;
pub mod transport;
