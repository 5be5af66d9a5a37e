//! What lives off the hub: pictures on request, pictures by schedule, the test card.
//!
//! Services know streams and units, never protocols or sockets.

pub mod audio;
pub mod auto;
pub mod colour;
pub mod decode;
pub mod png;
pub mod scale;
pub mod snapshot;
pub mod test_card;
