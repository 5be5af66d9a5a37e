//! `/vod/…`: an operator plays files (protocol document, section 9.5).

use rouille::Response;
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use crate::services::vod::{VodFacts, VodRefused, Vods};

/// The body of every call.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Query {
    uri: Option<String>,
    local_stream_name: Option<String>,
    #[serde(rename = "loop")]
    loops: Option<bool>,
}

/// What a file that is played is shown as. The order of the keys is that of the document's sample.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct VodObject {
    local_media_session_id: String,
    local_stream_name: String,
    uri: String,
    status: &'static str,
    has_audio: bool,
    has_video: bool,
    record: bool,
    #[serde(rename = "loop")]
    loops: bool,
}

/// Text that is there and not empty.
fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

/// `/vod/startup`: publishes a file; answers when its stream is there.
pub(super) fn startup(vods: &Vods, query: &Query) -> Result<Response, ApiError> {
    let uri = given(&query.uri).ok_or_else(|| ApiError::bad_request("uri is missing"))?;
    vods.start(uri, given(&query.local_stream_name), query.loops).map_err(failed)?;
    Ok(super::done())
}

/// `/vod/find`, and `/vod/find_all` with an empty query.
pub(super) fn find(vods: &Vods, query: &Query) -> Result<Response, ApiError> {
    let object = |facts: VodFacts| VodObject {
        local_media_session_id: facts.media_session_id.to_string(),
        local_stream_name: facts.name.to_string(),
        uri: facts.uri,
        // One that is still being opened is on its way.
        status: if facts.is_up { "PROCESSED_LOCAL" } else { "NEW" },
        has_audio: facts.has_audio,
        has_video: facts.has_video,
        record: false,
        loops: facts.loops,
    };
    Ok(Response::json(&found(vods, query)?.into_iter().map(object).collect::<Vec<_>>()))
}

/// `/vod/terminate`: ends all that the address and the name, as far as they are given, mean.
pub(super) fn terminate(vods: &Vods, query: &Query) -> Result<Response, ApiError> {
    if given(&query.uri).is_none() && given(&query.local_stream_name).is_none() {
        return Err(ApiError::bad_request("uri or localStreamName is missing"));
    }
    for facts in found(vods, query)? {
        // One that ended meanwhile is as it was wished.
        let _ = vods.terminate(&facts.media_session_id);
    }
    Ok(super::done())
}

fn found(vods: &Vods, query: &Query) -> Result<Vec<VodFacts>, ApiError> {
    let mut all = vods.list();
    all.retain(|facts| {
        given(&query.uri).is_none_or(|uri| uri == facts.uri)
            && given(&query.local_stream_name).is_none_or(|name| name == facts.name.as_str())
    });
    if all.is_empty() { Err(ApiError::not_found(VodRefused::Gone.to_string())) } else { Ok(all) }
}

fn failed(error: VodRefused) -> ApiError {
    let message = error.to_string();
    match error {
        VodRefused::BadUri => ApiError::bad_request(message),
        VodRefused::NameInUse => ApiError::conflict(message),
        _ => ApiError::internal(message),
    }
}
