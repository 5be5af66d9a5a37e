//! `/recorder/*`, and the older calls for the same (protocol document, section 9.4).

use rouille::Response;
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use crate::services::record::{RecordError, Recordings, Rotation};

/// The body of the calls.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Query {
    media_session_id: Option<String>,
    config: Config,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    /// Instead of `stream_record_policy_template`.
    file_template: Option<String>,
    /// Instead of `record_rotation`, written alike; pages send numbers too.
    rotation: Option<serde_json::Value>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Recording {
    file_name: String,
    media_session_id: String,
}

/// Whether this is one of these calls.
pub(super) fn serves(call: &str) -> bool {
    call.starts_with("recorder/") || matches!(call, "stream/startRecording" | "stream/stopRecording")
}

/// Answers one.
///
/// # Errors
/// 400 without a media session or for a rotation that cannot be read, 404 when there is no such stream or recording, 500 when
/// the system refuses.
pub(super) fn handle(recordings: &Recordings, call: &str, query: Query) -> Result<Response, ApiError> {
    let Query { media_session_id, config } = query;
    let media_session_id =
        || media_session_id.ok_or_else(|| ApiError::bad_request("mediaSessionId is missing"));
    match call {
        "recorder/startup" | "stream/startRecording" => {
            let rotation = config.rotation.as_ref().map(read_rotation).transpose()?;
            recordings.start(&media_session_id()?, config.file_template, rotation).map_err(refused)?;
        }
        "recorder/terminate" | "stream/stopRecording" => {
            recordings.stop(&media_session_id()?).map_err(refused)?;
        }
        "recorder/find_all" => {
            let list: Vec<_> = recordings
                .list()
                .into_iter()
                .map(|facts| Recording {
                    file_name: facts.file_name,
                    media_session_id: facts.media_session_id,
                })
                .collect();
            return match list.is_empty() {
                true => Err(ApiError::not_found("No recordings")),
                false => Ok(Response::json(&list)),
            };
        }
        _ => return Err(ApiError::not_found("No such call")),
    }
    Ok(Response::from_data("application/json; charset=utf-8", Vec::new()))
}

fn read_rotation(value: &serde_json::Value) -> Result<Rotation, ApiError> {
    let text = match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Rotation::parse(&text)
        .ok_or_else(|| ApiError::bad_request("rotation must be seconds, or bytes as in 20M"))
}

fn refused(error: RecordError) -> ApiError {
    match error {
        RecordError::NotFound => ApiError::not_found(error.to_string()),
        RecordError::System(_) => ApiError::internal(error.to_string()),
    }
}
