//! Which streams a call means (protocol document, section 9.4).

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::base::id::without_password;

/// The body of `/stream/find` and `/stream/terminate`: what is given must match, what is not given does not matter.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Query {
    /// Any of these.
    media_session_ids: Option<Vec<String>>,
    pub(super) display: Vec<String>,
    /// Every other key: where it is one of the stream object with a plain value, that value must be this one.
    #[serde(flatten)]
    fields: Map<String, Value>,
}

impl Query {
    /// Whether a stream object is among those that are meant.
    pub(super) fn admits(&self, object: &Map<String, Value>) -> bool {
        let listed = |ids: &Vec<String>| {
            object.get("mediaSessionId").is_some_and(|id| ids.iter().any(|wanted| id == wanted))
        };
        // As text: numbers and truth values may come as strings (protocol document, section 1.2).
        let agrees = |(key, wanted): (&String, &Value)| match (object.get(key).and_then(plain), plain(wanted))
        {
            // The address of a source is known without its password.
            (Some(value), Some(wanted)) if key == "name" => value == without_password(&wanted),
            (Some(value), Some(wanted)) => value == wanted,
            // A key that we do not know, or nothing to compare with.
            _ => true,
        };
        self.media_session_ids.as_ref().is_none_or(listed) && self.fields.iter().all(agrees)
    }

    /// Whether it says for certain what is meant: everything, by saying nothing, or streams by keys that we know. A
    /// misspelt key or a missing value must not mean everything.
    pub(super) fn is_definite(&self) -> bool {
        let known = |key: &str| KEYS.split_whitespace().any(|one| one == key);
        let by_key = self.fields.iter().any(|(key, _)| known(key)) || self.media_session_ids.is_some();
        let all_given = self.fields.iter().all(|(key, value)| !known(key) || plain(value).is_some());
        all_given && (by_key || self.fields.is_empty())
    }
}

/// The keys of the stream object that hold a plain value.
const KEYS: &str = "nodeId appKey sessionId mediaSessionId name published hasVideo hasAudio status info sdp audioCodec \
                    videoCodec record width height bitrate minBitrate maxBitrate quality history gop fps audioBitrate \
                    codecImpl transport cvoExtension createDate mediaType mediaProvider";

/// A value that can be compared; `None` for what holds others, and for nothing.
pub(super) fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    fn query(json: Value) -> Query {
        serde_json::from_value(json).unwrap()
    }

    /// Fails unless the keys that are known are those of the object.
    pub(in crate::edge::rest) fn demand_keys(object: &Map<String, Value>) {
        let plain_keys: Vec<_> =
            object.iter().filter(|(_, value)| plain(value).is_some()).map(|(key, _)| key.as_str()).collect();
        assert_eq!(plain_keys, KEYS.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn what_is_given_must_match_in_whatever_spelling() {
        let Value::Object(object) = json!({
            "name": "a", "mediaSessionId": "m", "published": true, "width": 640, "audioState": {"muted": false},
        }) else {
            panic!()
        };
        for (wanted, admits) in [
            (json!({}), true),
            (json!({"name": "a", "published": true, "width": 640}), true),
            (json!({"published": "true", "width": "640"}), true),
            (json!({"name": "A"}), false),
            (json!({"published": false}), false),
            (json!({"name": null, "unknown": 1, "audioState": {"muted": true}}), true),
            (json!({"mediaSessionIds": ["x", "m"]}), true),
            (json!({"mediaSessionIds": []}), false),
            (json!({"mediaSessionIds": ["m"], "name": "b"}), false),
        ] {
            assert_eq!(query(wanted.clone()).admits(&object), admits, "{wanted}");
        }
    }

    #[test]
    fn a_slip_of_the_pen_does_not_mean_everything() {
        for (wanted, is_definite) in [
            (json!({}), true),
            (json!({"name": "a"}), true),
            (json!({"name": "a", "comment": "x"}), true),
            (json!({"mediaSessionIds": []}), true),
            (json!({"nmae": "a"}), false),
            (json!({"name": null}), false),
            (json!({"name": null, "published": true}), false),
            (json!({"name": ["a"]}), false),
        ] {
            assert_eq!(query(wanted.clone()).is_definite(), is_definite, "{wanted}");
        }
    }
}
