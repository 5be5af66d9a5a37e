//! What clients say (appendix A.1).

use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::super::{bounds, lenient};
use super::Hidden;

/// Why a text frame is not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not JSON, or not an object with a `message`.
    #[error("not a JSON object with a message name")]
    Malformed,
    /// Nested deeper than [`DEPTH_MAX`](crate::proto::signal::DEPTH_MAX).
    #[error("JSON is nested too deeply")]
    TooDeep,
    /// More values than [`VALUES_MAX`](crate::proto::signal::VALUES_MAX).
    #[error("JSON holds too many values")]
    TooManyValues,
    /// The message needs an object as its argument.
    #[error("argument is not an object")]
    NoArgument,
}

/// What a client says.
#[derive(Debug, PartialEq)]
pub enum FromClient {
    /// `connection`: opens the session (section 1.3).
    Connection(Connection),
    /// `ping`: to be answered by `pong`.
    Ping,
    /// `pong`: a sign of life.
    Pong,
    /// `publishStream` (section 2.2).
    PublishStream(Box<StreamRequest>),
    /// `playStream` (section 3.2).
    PlayStream(Box<StreamRequest>),
    /// `unPublishStream`; every other field of it repeats constants and is not to be trusted.
    UnPublishStream {
        /// The stream.
        media_session_id: String,
    },
    /// `stopStream`, likewise.
    StopStream {
        /// The stream.
        media_session_id: String,
    },
    /// `snapshot` (section 4.1).
    Snapshot(NamedRequest),
    /// `availableStream` (section 3.7).
    AvailableStream(NamedRequest),
    /// `sendStreamEvent` (section 3.5).
    SendStreamEvent(SendStreamEvent),
    /// `sendData`: data for a backend application.
    SendData {
        /// Echoed in the answer.
        operation_id: String,
    },
    /// `sessionDebug`: asks to start or stop a debug log of the session.
    SessionDebug,
    /// `pushLogs`, `submitBugReport` and metrics: taken, never answered (an answer would make the next log line).
    Ignored,
    /// Known to the real product and not served here: SIP calls, media sockets of other players.
    NotServed(&'static str),
    /// Any other name, at most [`UNKNOWN_NAME_MAX_CHARS`] of it.
    Unknown(String),
}

/// Characters kept of an unknown message's name: enough to tell it in a log.
pub const UNKNOWN_NAME_MAX_CHARS: usize = 64;

/// Argument of `connection`.
#[derive(Clone, Default, PartialEq)]
pub struct Connection {
    /// Backend application key; empty when not given.
    pub app_key: String,
    /// The whole argument as it came. It may hold passwords: only for the answer to the same client.
    pub fields: Map<String, Value>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("app_key", &self.app_key).finish_non_exhaustive()
    }
}

/// Argument of `publishStream` and `playStream`, which differ only in the SDP's direction.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct StreamRequest {
    /// Key of everything that follows; empty when missing or null.
    #[serde(deserialize_with = "lenient::text")]
    pub media_session_id: String,
    /// Stream name.
    #[serde(deserialize_with = "lenient::text")]
    pub name: String,
    /// `WebRTC`, `MSE`, `WSPlayer` or `Flash`; empty when not given.
    #[serde(deserialize_with = "lenient::text")]
    pub media_provider: String,
    /// The offer.
    #[serde(deserialize_with = "hidden")]
    pub sdp: Hidden,
    /// Recording is wanted.
    #[serde(deserialize_with = "lenient::flag")]
    pub record: bool,
    /// kbit/s, 0 is unset.
    #[serde(deserialize_with = "lenient::number")]
    pub bitrate: u32,
    /// Likewise.
    #[serde(deserialize_with = "lenient::number")]
    pub min_bitrate: u32,
    /// Likewise.
    #[serde(deserialize_with = "lenient::number")]
    pub max_bitrate: u32,
    /// Wanted size in pixels, 0 is as published (`playStream`).
    #[serde(deserialize_with = "lenient::number")]
    pub width: u32,
    /// Likewise.
    #[serde(deserialize_with = "lenient::number")]
    pub height: u32,
    /// Page data for hooks.
    pub custom: Value,
}

fn hidden<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Hidden, D::Error> {
    lenient::text(deserializer).map(Hidden)
}

/// Argument of messages that name a stream under an id: `snapshot`, `availableStream`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct NamedRequest {
    /// Stream name.
    #[serde(deserialize_with = "lenient::text")]
    pub name: String,
    /// Under which id the answer is expected; empty when missing or null.
    #[serde(deserialize_with = "lenient::text")]
    pub media_session_id: String,
}

/// Argument of `sendStreamEvent`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct SendStreamEvent {
    /// The sender's stream.
    #[serde(deserialize_with = "lenient::text")]
    pub media_session_id: String,
    /// `audioMuted`, `data` …
    #[serde(rename = "type", deserialize_with = "lenient::text")]
    pub kind: String,
    /// Any JSON; null when absent.
    pub payload: Value,
}

#[derive(Deserialize)]
struct Envelope {
    message: String,
    #[serde(default)]
    data: Value,
}

/// The one field that most small arguments have.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Ids {
    #[serde(deserialize_with = "lenient::text")]
    media_session_id: String,
    #[serde(deserialize_with = "lenient::text")]
    operation_id: String,
}

impl FromClient {
    /// Reads one text frame. Unknown messages, unknown fields and missing fields are no errors.
    ///
    /// # Errors
    /// When the text is no message at all, exceeds the bounds on depth and number of values, or lacks its argument.
    pub fn parse(text: &str) -> Result<Self, MessageError> {
        bounds::check(text)?;
        let Envelope { message, data } = serde_json::from_str(text).map_err(|_| MessageError::Malformed)?;
        Ok(match message.as_str() {
            "connection" => {
                let Value::Object(fields) = first(data) else { return Err(MessageError::NoArgument) };
                let app_key = fields.get("appKey").and_then(Value::as_str).unwrap_or_default().to_owned();
                Self::Connection(Connection { app_key, fields })
            }
            "ping" => Self::Ping,
            "pong" => Self::Pong,
            "publishStream" => Self::PublishStream(argument(data)?),
            "playStream" => Self::PlayStream(argument(data)?),
            "unPublishStream" => {
                let Ids { media_session_id, .. } = argument(data)?;
                Self::UnPublishStream { media_session_id }
            }
            "stopStream" => {
                let Ids { media_session_id, .. } = argument(data)?;
                Self::StopStream { media_session_id }
            }
            "snapshot" => Self::Snapshot(argument(data)?),
            "availableStream" => Self::AvailableStream(argument(data)?),
            "sendStreamEvent" => Self::SendStreamEvent(argument(data)?),
            "sendData" => {
                let Ids { operation_id, .. } = argument(data)?;
                Self::SendData { operation_id }
            }
            "sessionDebug" => Self::SessionDebug,
            "pushLogs" | "submitBugReport" | "webRTCMetricsClientDescription" | "webRTCMetricsBatch" => {
                Self::Ignored
            }
            other => match NOT_SERVED.iter().find(|name| **name == other) {
                Some(name) => Self::NotServed(name),
                None => Self::Unknown(other.chars().take(UNKNOWN_NAME_MAX_CHARS).collect()),
            },
        })
    }
}

/// Messages of the real product that are not served here.
const NOT_SERVED: [&str; 8] =
    ["connectMediaTransport", "call", "answer", "hangup", "hold", "unhold", "sendDtmf", "transfer"];

/// The argument itself: `data` is an array of one, though an object alone is understood too.
fn first(data: Value) -> Value {
    match data {
        Value::Array(array) => array.into_iter().next().unwrap_or_default(),
        other => other,
    }
}

fn argument<T: for<'de> Deserialize<'de>>(data: Value) -> Result<T, MessageError> {
    match first(data) {
        object @ Value::Object(_) => serde_json::from_value(object).map_err(|_| MessageError::Malformed),
        _ => Err(MessageError::NoArgument),
    }
}
