//! What a session wants done, and what it is told of it: its words with its owner.

use serde_json::Value;

use super::message::{Bandwidths, Hidden, SharedJson, SharedText};
use crate::base::id::{MediaSessionId, StreamName};

/// A publication that the client asks for; names and ids are checked.
#[derive(Clone, Debug)]
pub struct StartPublish {
    /// The client's key.
    pub media_session_id: MediaSessionId,
    /// Under which name.
    pub name: StreamName,
    /// The client's offer.
    pub sdp: Hidden,
    /// Recording is wanted.
    pub record: bool,
    /// kbit/s: now, least, most; 0 is unset.
    pub bitrates_kbps: [u32; 3],
    /// Page data for hooks.
    pub custom: Value,
}

/// A stream that the client wants to watch; the id is checked, the name may be anything.
#[derive(Clone, Debug)]
pub struct StartPlay {
    /// The client's key.
    pub media_session_id: MediaSessionId,
    /// A published name, or a URL.
    pub name: String,
    /// The client's offer.
    pub sdp: Hidden,
    /// Wanted size in pixels, 0 is as published.
    pub size: [u32; 2],
    /// kbit/s: now, least, most; 0 is unset.
    pub bitrates_kbps: [u32; 3],
    /// Page data for hooks.
    pub custom: Value,
}

/// What the owner of the session has to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Begin a publication; answer with [`Event::Answered`] and later [`Event::Up`], or [`Event::Ended`].
    StartPublish(Box<StartPublish>),
    /// End a publication as the client wished; answer with [`Event::Ended`] once its name is free.
    StopPublish {
        /// Which.
        media_session_id: MediaSessionId,
    },
    /// Begin to play; answer as for [`Action::StartPublish`].
    StartPlay(Box<StartPlay>),
    /// End it; answer with [`Event::Ended`].
    StopPlay {
        /// Which.
        media_session_id: MediaSessionId,
    },
    /// Answer with [`Event::Snapshot`] in any time.
    TakeSnapshot {
        /// To be given back.
        ticket: u64,
        /// Of which stream; not checked.
        name: String,
        /// For which media session of the client's; where it plays a stream that only it knows, that one is meant.
        media_session_id: MediaSessionId,
    },
    /// Answer with [`Event::Checked`].
    CheckStream {
        /// The client's key for the answer.
        id: String,
        /// Of which stream; not checked.
        name: String,
    },
    /// The publisher turned its microphone or camera off or on; `None` is unchanged.
    SetMuted {
        /// Its stream.
        media_session_id: MediaSessionId,
        /// Microphone off.
        audio: Option<bool>,
        /// Camera off.
        video: Option<bool>,
    },
    /// Data of the publisher's page for everybody who plays its stream.
    ShareData {
        /// Its stream.
        media_session_id: MediaSessionId,
        /// Any JSON.
        payload: Value,
    },
    /// Count bad input of this kind.
    CountBadInput(&'static str),
    /// Count a message that is not served, by name.
    CountUnknown(String),
    /// Send what was said so far, then close. Nothing else comes out of the session.
    Close(CloseReason),
}

/// Why the session closes its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// No `connection` message in time.
    #[error("no connection message in time")]
    NoConnection,
    /// The client answers no pings.
    #[error("keep-alive pings are not answered")]
    KeepAlive,
    /// Too many frames that are no messages.
    #[error("too many bad messages")]
    BadMessages,
    /// The connection was refused.
    #[error("connection refused")]
    Refused,
}

/// How a stream of the client ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndStatus {
    /// As somebody wished: `UNPUBLISHED` for a publisher, `STOPPED` for a player.
    Orderly,
    /// By a fault: `FAILED`.
    Failed,
}

/// What came of an [`Action`], or happened to a stream.
#[derive(Clone, Debug)]
pub enum Event {
    /// The stream's offer was accepted.
    Answered {
        /// Which.
        media_session_id: MediaSessionId,
        /// The answer.
        sdp: Hidden,
        /// As negotiated (`H264`); `None` without video.
        video_codec: Option<String>,
        /// As negotiated (`opus`); `None` without audio.
        audio_codec: Option<String>,
    },
    /// Media transport is up.
    Up {
        /// Which.
        media_session_id: MediaSessionId,
    },
    /// What the publisher of a played stream says of its microphone and camera; `None` is unchanged. What is told before
    /// [`Event::Up`] shows in the first status.
    Muted {
        /// The player.
        media_session_id: MediaSessionId,
        /// Microphone off.
        audio: Option<bool>,
        /// Camera off.
        video: Option<bool>,
    },
    /// Data of the publisher's page for a player.
    Data {
        /// The player.
        media_session_id: MediaSessionId,
        /// Any JSON.
        payload: SharedJson,
    },
    /// The pictures that a player gets have this size, at first and after each change.
    Resized {
        /// The player.
        media_session_id: MediaSessionId,
        /// Width and height in pixels.
        size: (u32, u32),
    },
    /// A player's network carries less than the stream needs.
    NotEnoughBandwidth {
        /// The player.
        media_session_id: MediaSessionId,
        /// Both rates.
        rates: Bandwidths,
    },
    /// What of a stream's pictures came in from its publisher, or went out to its player, in the last second.
    VideoRate {
        /// Which.
        media_session_id: MediaSessionId,
        /// Bits a second.
        bps: u64,
    },
    /// It is over, or was refused; its name is free.
    Ended {
        /// Which.
        media_session_id: MediaSessionId,
        /// How.
        status: EndStatus,
        /// Why, in the words of appendix B.
        info: String,
    },
    /// A recorded publication is over, and its file is complete: stands for [`Event::Ended`].
    Recorded {
        /// Which.
        media_session_id: MediaSessionId,
        /// How.
        status: EndStatus,
        /// Why, in the words of appendix B.
        info: String,
        /// The (last) file's name.
        name: String,
        /// Why the recording ended before the publication; `None`: it did not.
        failure: Option<String>,
    },
    /// A picture, or why there is none.
    Snapshot {
        /// Of the request.
        ticket: u64,
        /// Base64, or the reason.
        result: Result<SharedText, String>,
    },
    /// Whether a stream can be played.
    Checked {
        /// Of the request.
        id: String,
        /// Why not; `None` when it can.
        unavailable: Option<String>,
    },
}
