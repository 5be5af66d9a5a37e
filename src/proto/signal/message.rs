//! The dictionary of signalling: every message, and its exact form on the wire (protocol document, section 1.2 and appendix A).
//!
//! What clients send is read leniently; what we send is strict: `data` is always an array, optional fields are absent
//! rather than null, and a field that would confuse a client (`available` in a status) does not exist.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{bounds, lenient};

/// Why a text frame is not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not JSON, or not an object with a `message`.
    #[error("not a JSON object with a message name")]
    Malformed,
    /// Nested deeper than [`super::DEPTH_MAX`].
    #[error("JSON is nested too deeply")]
    TooDeep,
    /// More values than [`super::VALUES_MAX`].
    #[error("JSON holds too many values")]
    TooManyValues,
    /// The message needs an object as its argument.
    #[error("argument is not an object")]
    NoArgument,
}

/// Text that must not show in logs: SDP carries ICE passwords.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Hidden(pub String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
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
    /// Video orientation by RTP header extension is wanted.
    #[serde(deserialize_with = "lenient::flag")]
    pub cvo_extension: bool,
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
    /// Section 1.7.
    Fail([Failure; 1]),
    /// The fate of `sendData`.
    #[serde(rename = "DataStatusEvent")]
    DataStatusEvent([DataStatus; 1]),
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
            Self::Fail(_) => "fail",
            Self::DataStatusEvent(_) => "DataStatusEvent",
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

/// Text owned by somebody else, such as the base64 form of a picture that many clients get: never copied before it
/// is written into a frame.
#[derive(Clone)]
pub struct SharedText(Arc<dyn AsRef<str> + Send + Sync>);

impl SharedText {
    /// Shares it.
    pub fn new(owner: impl AsRef<str> + Send + Sync + 'static) -> Self {
        Self(Arc::new(owner))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        (*self.0).as_ref()
    }
}

impl From<&str> for SharedText {
    fn from(text: &str) -> Self {
        Self::new(text.to_owned())
    }
}

impl fmt::Debug for SharedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.as_str().len())
    }
}

impl Serialize for SharedText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
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
    /// `WebRTC`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_provider: Option<&'static str>,
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
            media_provider: None,
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
    Data(Value),
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
        serializer.collect_str(&format_args!("{}/{}", self.stream_bps, self.available_bps))
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: &Value) -> FromClient {
        FromClient::parse(&value.to_string()).unwrap()
    }

    fn wire(message: &ToClient) -> Value {
        serde_json::from_str(&message.to_json()).unwrap()
    }

    #[test]
    fn numbers_may_be_strings_extra_fields_are_ignored_and_missing_ones_have_defaults() {
        let message = parse(&json!({"message": "playStream", "extra": 1, "data": [{
            "mediaSessionId": "m2", "name": "cam1", "width": "640", "height": 360.0, "record": "true",
            "bitrate": -5, "maxBitrate": "many", "localMediaInfo": {"devices": []}, "cvoExtension": null,
        }]}));
        let FromClient::PlayStream(request) = message else { panic!("{message:?}") };
        assert_eq!((request.width, request.height, request.bitrate, request.max_bitrate), (640, 360, 0, 0));
        assert!(request.record && !request.cvo_extension && request.sdp.0.is_empty());
        assert_eq!(request.media_session_id, "m2");

        let message = parse(&json!({"message": "publishStream", "data": [{"mediaSessionId": null}]}));
        let FromClient::PublishStream(request) = message else { panic!("{message:?}") };
        assert_eq!(*request, StreamRequest::default());
    }

    #[test]
    fn a_pong_needs_no_data_and_any_other_shape_is_told_apart() {
        assert_eq!(parse(&json!({"message": "pong"})), FromClient::Pong);
        assert_eq!(parse(&json!({"message": "ping", "data": [null]})), FromClient::Ping);
        assert_eq!(parse(&json!({"message": "hangup", "data": [{}]})), FromClient::NotServed("hangup"));
        assert_eq!(parse(&json!({"message": "dance"})), FromClient::Unknown("dance".into()));
        for (text, error) in [
            ("", MessageError::Malformed),
            ("[]", MessageError::Malformed),
            (r#"{"data":[]}"#, MessageError::Malformed),
            (r#"{"message":5}"#, MessageError::Malformed),
            (r#"{"message":"snapshot","data":[null]}"#, MessageError::NoArgument),
            (r#"{"message":"connection"}"#, MessageError::NoArgument),
        ] {
            assert_eq!(FromClient::parse(text).unwrap_err(), error, "{text}");
        }
        assert_eq!(FromClient::parse(&"[".repeat(100_000)).unwrap_err(), MessageError::TooDeep);
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let message = parse(&json!({"message": "publishStream", "data": [{"sdp": "a=ice-pwd:secret"}]}));
        assert!(!format!("{message:?}").contains("secret"));
        let message = parse(&json!({"message": "connection", "data": [{"sipPassword": "secret"}]}));
        assert!(!format!("{message:?}").contains("secret"));
        let answer = ToClient::SetRemoteSdp("m1".into(), "a=ice-pwd:secret".into(), false);
        assert_eq!(format!("{answer:?}"), "setRemoteSDP");
    }

    #[test]
    fn what_we_send_has_the_form_of_the_catalogue() {
        let status = StreamStatusEvent {
            published: Some(true),
            info: Some("Stopped by user".into()),
            ..StreamStatusEvent::new("m1", "cam1", Status::Unpublished)
        };
        let event =
            |kind| ToClient::NotifyStreamEvent([StreamEvent { media_session_id: Some("m2".into()), kind }]);
        let expected = [
            (ToClient::Ping([]), json!({"message": "ping", "data": []})),
            (ToClient::Pong([()]), json!({"message": "pong", "data": [null]})),
            (
                ToClient::SetRemoteSdp("m1".into(), "v=0".into(), false),
                json!({"message": "setRemoteSDP", "data": ["m1", "v=0", false]}),
            ),
            (
                ToClient::NotifyStreamStatusEvent([status]),
                json!({"message": "notifyStreamStatusEvent", "data": [{"mediaSessionId": "m1", "name": "cam1",
                    "published": true, "status": "UNPUBLISHED", "info": "Stopped by user"}]}),
            ),
            (
                ToClient::AvailableStream([Availability { id: "m4".into(), status: true, info: None }]),
                json!({"message": "availableStream", "data": [{"id": "m4", "status": "true"}]}),
            ),
            (
                event(StreamEventKind::AudioMuted {}),
                json!({"message": "notifyStreamEvent",
                    "data": [{"mediaSessionId": "m2", "type": "audioMuted", "payload": {}}]}),
            ),
            (
                event(StreamEventKind::Resize { streamer_video_width: 640, streamer_video_height: 360 }),
                json!({"message": "notifyStreamEvent", "data": [{"mediaSessionId": "m2", "type": "resize",
                    "payload": {"streamerVideoWidth": 640, "streamerVideoHeight": 360}}]}),
            ),
            (
                event(StreamEventKind::NotEnoughBandwidth {
                    info: Bandwidths { stream_bps: 1_500_000, available_bps: 800_000 },
                }),
                json!({"message": "notifyStreamEvent", "data": [{"mediaSessionId": "m2",
                    "type": "notEnoughBandwidth", "payload": {"info": "1500000/800000"}}]}),
            ),
            (
                ToClient::Fail([Failure {
                    api_method: "ConnectionStatusEvent",
                    status: Status::Failed,
                    info: "Forbidden".into(),
                }]),
                json!({"message": "fail", "data": [{"apiMethod": "ConnectionStatusEvent",
                    "status": "FAILED", "info": "Forbidden"}]}),
            ),
            (
                ToClient::DataStatusEvent([DataStatus {
                    operation_id: "op1".into(),
                    status: DataOutcome::Accepted,
                }]),
                json!({"message": "DataStatusEvent", "data": [{"operationId": "op1", "status": "ACCEPTED"}]}),
            ),
            (
                ToClient::NotifySessionDebugEvent([DebugStatus { status: Status::Stopped }]),
                json!({"message": "notifySessionDebugEvent", "data": [{"status": "STOPPED"}]}),
            ),
        ];
        for (message, json) in expected {
            assert_eq!(wire(&message), json);
            assert_eq!(json["message"], message.name());
        }
    }
}
