//! What lives off the hub: pictures on request, pictures by schedule, the test card.
//!
//! Services know streams and units, never protocols or sockets.

pub mod audio;
pub mod auto;
pub mod colour;
pub mod decode;
pub mod encode;
pub mod folder;
pub mod mp4;
pub mod png;
pub mod record;
pub mod retention;
pub mod scale;
pub mod snapshot;
pub mod test_card;
pub mod transcode;
pub mod vod;
