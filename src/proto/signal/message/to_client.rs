//! What the server says (appendix A.2).

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::{SharedJson, SharedText};

/// What the server says. Every variant holds the elements of `data`.
#[derive(Clone, Serialize)]
#[serde(tag = "message", content = "data", rename_all = "camelCase")]
pub enum ToClient {
    /// The session is open (section 1.3). It holds the client's token.
    GetUserData([Map<String, Value>; 1]),
    /// To be answered by `pong`.
    Ping([(); 0]),
    /// Answers `ping`.
    Pong([(); 1]),
    /// The answer for a stream: its media session id, the SDP, and whether the client is the initiator (never, for streams).
    #[serde(rename = "setRemoteSDP")]
    SetRemoteSdp(String, String, bool),
    /// Section 2.3.
    NotifyStreamStatusEvent([StreamStatusEvent; 1]),
    /// Section 3.5.
    NotifyStreamEvent([StreamEvent; 1]),
    /// Section 3.7.
    AvailableStream([Availability; 1]),
    /// Section 3.6: to a publisher.
    InboundVideoRate([VideoRate; 1]),
    /// Section 3.6: to a player.
    OutboundVideoRate([VideoRate; 1]),
    /// Section 1.7.
    Fail([Failure; 1]),
    /// The fate of `sendData`.
    #[serde(rename = "DataStatusEvent")]
    DataStatusEvent([DataStatus; 1]),
    /// Data for the page, from an operator or a backend application (section 9.4).
    #[serde(rename = "OnDataEvent")]
    OnDataEvent([DataEvent; 1]),
    /// Answers `sessionDebug`.
    NotifySessionDebugEvent([DebugStatus; 1]),
}

impl ToClient {
    /// The text frame.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Maps here have string keys and nothing can fail to serialise; an empty frame would be refused by clients.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The message's name as on the wire.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::GetUserData(_) => "getUserData",
            Self::Ping(_) => "ping",
            Self::Pong(_) => "pong",
            Self::SetRemoteSdp(..) => "setRemoteSDP",
            Self::NotifyStreamStatusEvent(_) => "notifyStreamStatusEvent",
            Self::NotifyStreamEvent(_) => "notifyStreamEvent",
            Self::AvailableStream(_) => "availableStream",
            Self::InboundVideoRate(_) => "inboundVideoRate",
            Self::OutboundVideoRate(_) => "outboundVideoRate",
            Self::Fail(_) => "fail",
            Self::DataStatusEvent(_) => "DataStatusEvent",
            Self::OnDataEvent(_) => "OnDataEvent",
            Self::NotifySessionDebugEvent(_) => "notifySessionDebugEvent",
        }
    }
}

impl fmt::Debug for ToClient {
    /// The name alone: contents hold tokens, ICE passwords and megabytes of pictures.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Values of `status` in a stream's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// Media transport of a publisher is up.
    Publishing,
    /// Media transport of a player is up.
    Playing,
    /// A publisher stopped as somebody wished. Terminal.
    Unpublished,
    /// A player stopped. Terminal.
    Stopped,
    /// Terminal.
    Failed,
    /// `info` holds a picture; not a status of the stream, for clients before 2.0.219 (section 4.2).
    SnapshotComplete,
    /// The size of the pictures changed; not a status of the stream, for clients before 2.0.219 (section 3.5).
    Resize,
    /// The player's network carries less than the stream needs, likewise.
    NotEnoughBandwidth,
}

/// Whether a publisher's microphone or camera is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MutedState {
    /// It is.
    pub muted: bool,
}

/// Argument of `inboundVideoRate` and `outboundVideoRate`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VideoRate {
    /// Whose.
    pub media_session_id: String,
    /// Bits a second.
    pub video_rate: u64,
}

/// Argument of `notifyStreamStatusEvent`. It has no `available`: clients would take it for another message.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamStatusEvent {
    /// Whose status; null only in answer to a request that had none.
    pub media_session_id: Option<String>,
    /// Stream name.
    pub name: String,
    /// Publisher rather than player; absent for snapshots, which are neither.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published: Option<bool>,
    /// Video was negotiated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub has_video: Option<bool>,
    /// Audio was negotiated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub has_audio: Option<bool>,
    /// The status.
    pub status: Status,
    /// Why, in the words of appendix B; the picture for [`Status::SnapshotComplete`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<SharedText>,
    /// `opus`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio_codec: Option<String>,
    /// `H264`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub video_codec: Option<String>,
    /// Being recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<bool>,
    /// Name of the file that it is recorded to, relative to the folder of recordings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record_name: Option<String>,
    /// Why the recording ended before its stream; for pages that want to say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record_info: Option<String>,
    /// `WebRTC`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_provider: Option<&'static str>,
    /// The publisher's microphone, in every status of a player: older clients forget it otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio_state: Option<MutedState>,
    /// Its camera, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub video_state: Option<MutedState>,
    /// Size of the pictures in pixels ([`Status::Resize`]).
    #[serde(flatten)]
    pub size: Option<VideoSize>,
}

/// A size under both names that clients have known it by.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VideoSize {
    streamer_video_width: u32,
    streamer_video_height: u32,
    player_video_width: u32,
    player_video_height: u32,
}

impl VideoSize {
    /// Width and height in pixels.
    #[must_use]
    pub fn new(width: u32, height: u32) -> Self {
        Self {
            streamer_video_width: width,
            streamer_video_height: height,
            player_video_width: width,
            player_video_height: height,
        }
    }
}

impl StreamStatusEvent {
    /// A status with nothing but what every status has.
    #[must_use]
    pub fn new(media_session_id: &str, name: &str, status: Status) -> Self {
        Self {
            media_session_id: (!media_session_id.is_empty()).then(|| media_session_id.to_owned()),
            name: name.to_owned(),
            published: None,
            has_video: None,
            has_audio: None,
            status,
            info: None,
            audio_codec: None,
            video_codec: None,
            record: None,
            record_name: None,
            record_info: None,
            media_provider: None,
            audio_state: None,
            video_state: None,
            size: None,
        }
    }
}

/// Argument of `notifyStreamEvent`: never without type, and with a payload that is an object for every type but `data`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamEvent {
    /// The receiver's own media session; null only in answer to a request that had none.
    pub media_session_id: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub kind: StreamEventKind,
}

/// `type` and `payload` of a stream event.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", content = "payload", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum StreamEventKind {
    /// The publisher's microphone is off.
    AudioMuted {},
    /// It is on again.
    AudioUnmuted {},
    /// The publisher's camera is off.
    VideoMuted {},
    /// It is on again.
    VideoUnmuted {},
    /// Data from the publisher's page.
    Data(SharedJson),
    /// The picture that was asked for.
    SnapshotCompleted {
        /// PNG in base64, without prefix and line breaks.
        snapshot: SharedText,
    },
    /// There is no picture.
    SnapshotFailed {
        /// Why.
        info: String,
    },
    /// Size of the video that a player gets.
    Resize {
        /// In pixels.
        streamer_video_width: u32,
        /// Likewise.
        streamer_video_height: u32,
    },
    /// A player's network carries less than the stream needs.
    NotEnoughBandwidth {
        /// Both rates.
        info: Bandwidths,
    },
}

/// Two rates in bit/s; clients split the text at its slash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bandwidths {
    /// What the stream needs.
    pub stream_bps: u64,
    /// What there is.
    pub available_bps: u64,
}

impl Serialize for Bandwidths {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Bandwidths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.stream_bps, self.available_bps)
    }
}

/// Argument of the server's `availableStream`.
#[derive(Clone, Debug, Serialize)]
pub struct Availability {
    /// The media session id of the request, under another name.
    pub id: String,
    /// `"true"` or `"false"`: clients take a JSON boolean for "no".
    #[serde(serialize_with = "flag_as_text")]
    pub status: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<String>,
}

fn flag_as_text<S: Serializer>(flag: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if *flag { "true" } else { "false" })
}

/// Argument of `fail`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Which call failed: `ConnectionStatusEvent` for the connection itself.
    pub api_method: &'static str,
    /// Always [`Status::Failed`].
    pub status: Status,
    /// Why.
    pub info: String,
}

/// Argument of `OnDataEvent`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DataEvent {
    /// The sender's key, where it gave one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation_id: Option<String>,
    /// Any JSON.
    pub payload: Value,
}

/// Argument of `DataStatusEvent`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DataStatus {
    /// As the client gave it.
    pub operation_id: String,
    /// `ACCEPTED` or `FAILED`; anything else throws in clients.
    pub status: DataOutcome,
}

/// The fate of `sendData`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DataOutcome {
    /// Taken.
    Accepted,
    /// Refused.
    Failed,
}

/// Argument of `notifySessionDebugEvent`.
#[derive(Clone, Debug, Serialize)]
pub struct DebugStatus {
    /// Whether a debug log is being written; we keep none, so it is always `STOPPED`.
    pub status: Status,
}
