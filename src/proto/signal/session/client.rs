//! What an operator sees of a client, taken from its `connection` message. What the client itself is told is the session's.

use serde_json::{Map, Value};

/// Keys that are shown, each value up to [`SHOWN_MAX_BYTES`] as JSON: it is kept as long as the connection, and there may be
/// many. Tokens and passwords are not among them.
const SHOWN: [&str; 8] = [
    "appKey",
    "mediaProviders",
    "clientVersion",
    "clientOSVersion",
    "clientBrowserVersion",
    "keepAlive",
    "custom",
    "sipLogin",
];
/// See [`SHOWN`].
const SHOWN_MAX_BYTES: usize = 4096;

/// The connection object (section 9.4).
pub(super) fn shown(fields: &Map<String, Value>, session_id: &str) -> Map<String, Value> {
    let short = |value: &&Value| value.to_string().len() <= SHOWN_MAX_BYTES;
    let told =
        SHOWN.iter().filter_map(|key| Some(((*key).to_owned(), fields.get(*key).filter(short)?.clone())));
    let ours = [("sessionId", session_id), ("status", "ESTABLISHED")];
    let ours = ours.map(|(key, value)| (key.to_owned(), Value::from(value)));
    told.chain(ours).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_and_floods_are_not_shown() {
        let Value::Object(fields) = json!({
            "appKey": "defaultApp", "authToken": "secret", "sipPassword": "secret", "clientInfo": {"model": "x"},
            "custom": "x".repeat(SHOWN_MAX_BYTES), "keepAlive": false, "sessionId": "theirs",
        }) else {
            panic!()
        };
        let want =
            json!({"appKey": "defaultApp", "keepAlive": false, "sessionId": "s1", "status": "ESTABLISHED"});
        assert_eq!(Value::Object(shown(&fields, "s1")), want);
    }
}
