//! The dictionary of signalling: every message, and its exact form on the wire (protocol document, section 1.2 and appendix A).
//!
//! What clients send is read leniently; what we send is strict: `data` is always an array, optional fields are absent
//! rather than null, and a field that would confuse a client (`available` in a status) does not exist.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

mod from_client;
mod to_client;

pub use from_client::*;
pub use to_client::*;

/// Text that must not show in logs: SDP carries ICE passwords.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Hidden(pub String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
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

/// A JSON value that many clients get: shared, not copied.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedJson(pub Arc<serde_json::Value>);

impl Serialize for SharedJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

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
        assert!(request.record && request.sdp.0.is_empty());
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
