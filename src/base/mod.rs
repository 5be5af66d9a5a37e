//! What every floor stands on: clock, stop, threads, locks, queues, waiting, counts and ids.
//!
//! Nothing here knows about media, protocols or configuration.

pub mod clock;
pub mod id;
pub mod lock;
pub mod metrics;
pub mod queue;
pub mod stop;
pub mod tally;
pub mod threads;
pub mod wait;
