//! The numbered test card: a moving picture made in this process, each frame of which says which one it is.
//!
//! ```text
//! TestCard ──I420──► CardEncoder ──AccessUnit──► DemoPublisher ──► hub      (the stream `test` of --demo)
//!     number ◄── read_number ◄── RGB ◄── decoded picture                    (tests: "this is frame 30")
//! ```
//!
//! Drawing, reading back and encoding belong here; so does the publisher that shows the card to people. What is
//! done with the stream does not.

mod demo;
mod draw;
mod encode;
mod font;
#[cfg(test)]
mod tests;

use super::encode::EncodeError;
pub use demo::{DemoPublisher, DemoSettings};
pub use draw::{BARS, I420, TestCard, bar_centre, read_number};
pub use encode::{CardEncoder, CardSettings, annex_b_run, push_cards};

/// Smallest width and height of a card, in pixels: below it the blocks do not survive coding.
pub const SIZE_MIN: (u32, u32) = (160, 90);

/// Why a card cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// Too small to be read back.
    #[error("a test card of {width}x{height} pixels cannot be made")]
    Size {
        /// Asked-for width in pixels.
        width: u32,
        /// Asked-for height in pixels.
        height: u32,
    },
    /// The encoder refused its settings or a picture: more than 3840×2160 either way up, or odd numbers.
    #[error("test card: {0}")]
    Encoder(#[from] EncodeError),
    /// The stream could not be published.
    #[error("test card: {0}")]
    Publish(#[from] crate::hub::PublishError),
    /// The name of the stream is not one.
    #[error("test card: {0}")]
    Name(#[from] crate::base::id::NameError),
    /// The system refused a thread.
    #[error("test card: {0}")]
    Thread(#[from] std::io::Error),
}
