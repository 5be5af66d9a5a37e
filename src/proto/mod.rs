//! Protocols as state machines without sockets, threads or clocks.
//!
//! The contract of every machine here:
//!
//! 1. Time is an argument. `handle_*(now, …)` moves the machine, `poll_output()` empties it, the last output names
//!    the next deadline.
//! 2. One change, then drain until `Timeout`. Never two changes in a row.
//! 3. State is one enum; an error leaves a valid state.
//! 4. A parser distinguishes "incomplete, come again with more" from "invalid at this place".
//! 5. Buffers are bounded by named constants that say where the number comes from.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod demux;
pub mod dtls;
pub mod ice;
pub mod peer;
pub mod rtmp;
pub mod rtp;
pub mod rtsp;
pub mod sdp;
pub mod signal;
pub mod srtp;
pub mod stun;

#[cfg(test)]
mod tests;
