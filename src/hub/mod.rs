//! The meeting place of publishers and consumers: named streams, each with its current group of pictures.
//!
//! ```text
//! Publisher ──push──► Stream ──live──► Subscription (one queue a consumer)
//!     ▲                 │ GopCache ──gop()──► whoever wants the newest picture
//!     └──── bell ───────┘
//! ```
//!
//! A [`Stream`] is an object behind one lock, not a thread: the publisher's own thread hands units out, for
//! microseconds. Nothing here decodes, does I/O or waits for a consumer: a slow one loses units and rejoins at
//! the next keyframe. What a stream *is* belongs here; what is done with it belongs in `services`.

mod gop;
mod publication;
mod publisher;
mod registry;
mod stream;
mod subscriber;
mod viewers;

pub use gop::{Gop, GopLimits};
pub use publication::{DEFAULT_APP, EndReason, Publication, SourceProtocol, StreamStatus};
pub use publisher::{Bell, Publisher};
pub use registry::{PublishError, Registry};
pub use stream::{GroupSpan, Reception, Span, Stream, StreamFacts};
pub use subscriber::{Live, Subscription};
pub use viewers::{Notice, Viewer, ViewerExists, ViewerPlace, Viewers, Viewing};
