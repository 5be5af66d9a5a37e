//! Stillcast: a single-host streaming server for pictures of live video.
//!
//! The floors, from the ground up; a module imports only from below (`tests/house.rs` checks it):
//!
//! ```text
//! app      wiring: start order, stop order
//! edge     sockets, TLS, HTTP, threads
//! services live off the hub: snapshots, automatic snapshots, test card
//! hub      streams, group-of-pictures cache   │  proto  protocols as pure machines
//! media    time, access units, H.264, pictures
//! base     clock, stop, threads, locks, queues, ids       conf  configuration
//! ```

pub mod app;
pub mod banner;
pub mod base;
pub mod cli;
pub mod conf;
pub mod edge;
#[doc(hidden)]
pub mod fuzz;
pub mod hub;
pub mod media;
pub mod proto;
pub mod services;
