//! Media as data: time, access units, tracks, H.264, VP8 and pictures. Pure: no clock, no thread, no I/O.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod aac;
pub mod h264;
pub mod picture;
pub mod time;
pub mod track;
pub mod unit;
pub mod vp8;
