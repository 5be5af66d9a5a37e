//! Files as streams: reading them here. Pacing and playing them is done by whoever sends units on.

mod demux;
#[cfg(test)]
mod tests;

pub use demux::{Demuxer, Due, VodError, open_below};
