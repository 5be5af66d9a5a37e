//! End to end: the whole server on free ports, real sockets, real pictures.

#[path = "../support/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "a set of tools for all topics, of which each takes some")]
mod support;

mod connections;
mod growing;
mod leaks;
mod loss;
mod pictures;
mod play;
mod process;
mod publish;
mod pull;
mod record;
mod rest;
mod rtmp;
mod rtsp;
mod signalling;
mod stills;
mod terminate;
mod viewers;
mod vod;
mod vp8;
mod whip;
mod whole;
