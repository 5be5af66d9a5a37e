//! WebSocket signalling: what clients and server say to each other, and one client's session as a machine.
//!
//! `message` is the dictionary and nothing else; `session` is the grammar. Sockets, the hub and WebRTC are not known
//! here: the session says what to do ([`Action`]) and is told what came of it ([`Event`]).

mod action;
mod bounds;
mod lenient;
pub mod message;
mod session;

pub use action::{Action, CloseReason, EndStatus, Event, StartPlay, StartPublish};
pub use bounds::{DEPTH_MAX, VALUES_MAX};
pub use session::{Output, Session, SessionIds, SignalSettings};
