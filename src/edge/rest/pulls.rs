//! `/rtsp/…` and `/pull/rtmp/…`: an operator pulls sources (protocol document, sections 9.6 and 9.7).

use rouille::Response;
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use crate::base::id::without_password;
use crate::edge::pull::{PullError, PullFacts, PullKind, PullState, Pulls};

/// The body of every call.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Query {
    uri: Option<String>,
    status: Option<String>,
    local_stream_name: Option<String>,
    remote_stream_name: Option<String>,
}

impl Query {
    /// Text that is there and not empty.
    fn given(text: &Option<String>) -> Option<&str> {
        text.as_deref().filter(|text| !text.is_empty())
    }

    fn uri(&self) -> Result<&str, ApiError> {
        Self::given(&self.uri).ok_or_else(|| ApiError::bad_request("uri is missing"))
    }

    /// Whether a pull is among those that are meant: what is given must be equal.
    fn admits(&self, facts: &PullFacts) -> bool {
        let equal = |given: &Option<String>, value: &str| {
            Self::given(given).is_none_or(|given| without_password(given) == value)
        };
        equal(&self.uri, facts.uri.as_str())
            && equal(&self.local_stream_name, facts.name.as_str())
            && equal(&self.remote_stream_name, &facts.remote_name)
            && equal(&self.status, status(facts.state, PullKind::Rtsp))
    }
}

/// What the pull of a camera is shown as.
#[derive(Debug, Serialize)]
struct RtspObject {
    uri: String,
    status: &'static str,
}

/// What the pull of another server's stream is shown as. The order of the keys is that of the document's sample.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PullObject {
    local_media_session_id: String,
    remote_media_session_id: String,
    local_stream_name: String,
    remote_stream_name: String,
    uri: String,
    status: &'static str,
    has_audio: bool,
    has_video: bool,
    record: bool,
}

/// One that is not up is `NEW`, whether it is on its way for the first time or again.
fn status(state: PullState, kind: PullKind) -> &'static str {
    match (state, kind) {
        (PullState::Waiting, _) => "NEW",
        (PullState::Up, PullKind::Rtsp) => "PLAYING",
        (PullState::Up, PullKind::Rtmp) => "PROCESSED_REMOTE",
    }
}

fn rtsp_object(facts: &PullFacts) -> RtspObject {
    RtspObject { uri: facts.uri.to_string(), status: status(facts.state, PullKind::Rtsp) }
}

fn pull_object(facts: &PullFacts) -> PullObject {
    PullObject {
        local_media_session_id: facts.media_session_id.to_string(),
        remote_media_session_id: facts.remote_session_id.clone(),
        local_stream_name: facts.name.to_string(),
        remote_stream_name: facts.remote_name.clone(),
        uri: facts.uri.to_string(),
        status: status(facts.state, PullKind::Rtmp),
        has_audio: facts.has_audio,
        has_video: facts.has_video,
        record: false,
    }
}

/// `/rtsp/startup`: pulls a camera; answers when its stream has media.
pub(super) fn startup(pulls: &Pulls, query: &Query) -> Result<Response, ApiError> {
    start(pulls, query, PullKind::Rtsp)?;
    Ok(empty())
}

/// `/pull/rtmp/pull`: likewise for a stream of another server.
pub(super) fn pull(pulls: &Pulls, query: &Query) -> Result<Response, ApiError> {
    Ok(Response::json(&pull_object(&start(pulls, query, PullKind::Rtmp)?)))
}

/// `/rtsp/find`, and `/rtsp/find_all` with an empty query.
pub(super) fn find(pulls: &Pulls, query: &Query) -> Result<Response, ApiError> {
    Ok(Response::json(&found(pulls, query, PullKind::Rtsp)?.iter().map(rtsp_object).collect::<Vec<_>>()))
}

/// `/pull/rtmp/find_all`.
pub(super) fn find_all_rtmp(pulls: &Pulls) -> Result<Response, ApiError> {
    let all = found(pulls, &Query::default(), PullKind::Rtmp)?;
    Ok(Response::json(&all.iter().map(pull_object).collect::<Vec<_>>()))
}

/// `/rtsp/terminate`.
pub(super) fn terminate(pulls: &Pulls, query: &Query) -> Result<Response, ApiError> {
    pulls.terminate(query.uri()?, PullKind::Rtsp).map_err(failed)?;
    Ok(empty())
}

/// `/pull/rtmp/terminate`: by address, or by both names.
pub(super) fn terminate_rtmp(pulls: &Pulls, query: &Query) -> Result<Response, ApiError> {
    let by_names =
        Query::given(&query.local_stream_name).and(Query::given(&query.remote_stream_name)).is_some();
    if Query::given(&query.uri).is_none() && !by_names {
        return Err(ApiError::bad_request("uri, or localStreamName and remoteStreamName, are missing"));
    }
    for facts in found(pulls, query, PullKind::Rtmp)? {
        pulls.terminate(facts.uri.as_str(), PullKind::Rtmp).map_err(failed)?;
    }
    Ok(empty())
}

fn start(pulls: &Pulls, query: &Query, kind: PullKind) -> Result<PullFacts, ApiError> {
    pulls.start(query.uri()?, Query::given(&query.local_stream_name), kind).map_err(failed)
}

fn found(pulls: &Pulls, query: &Query, kind: PullKind) -> Result<Vec<PullFacts>, ApiError> {
    let mut all = pulls.list(kind);
    all.retain(|facts| query.admits(facts));
    if all.is_empty() { Err(ApiError::not_found(PullError::RtspNotFound.to_string())) } else { Ok(all) }
}

fn failed(error: PullError) -> ApiError {
    let message = error.to_string();
    match error {
        PullError::BadUri => ApiError::bad_request(message),
        PullError::Exists | PullError::NameInUse => ApiError::conflict(message),
        // Of those that there are not: one that could not be begun never says so.
        PullError::Gone => ApiError::not_found(PullError::RtspNotFound.to_string()),
        _ => ApiError::internal(message),
    }
}

/// 200 without a body.
fn empty() -> Response {
    Response::from_data("application/json; charset=utf-8", Vec::new())
}
