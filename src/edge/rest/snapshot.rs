//! `POST /rest-api/stream/snapshot`: the newest picture as base64 in JSON (protocol document, section 4.4).

use std::io::{Cursor, Read as _};
use std::sync::Arc;

use rouille::{Response, ResponseBody};
use serde::Deserialize;

use super::error::ApiError;
use crate::services::snapshot::{Snapshot, SnapshotRequest, Snapshots};

/// The body of the call.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Query {
    stream_name: Option<String>,
}

/// Takes the picture; waits for it up to the configured limit.
pub(super) fn take(snapshots: &Snapshots, query: Query) -> Result<Response, ApiError> {
    let stream_name = query
        .stream_name
        .filter(|name| !name.is_empty())
        .ok_or_else(|| ApiError::bad_request("streamName is missing"))?;
    let request = SnapshotRequest { stream_name, scale: None, max_age: None, limit: None };
    let snapshot = snapshots.take(request).map_err(|error| ApiError::rest_snapshot(&error))?;
    Ok(respond(snapshot))
}

/// The base64 text of a shared snapshot.
struct Base64(Arc<Snapshot>);

impl AsRef<[u8]> for Base64 {
    fn as_ref(&self) -> &[u8] {
        self.0.base64().as_bytes()
    }
}

/// `{"data":"…"}`, written straight from the shared text: a hundred callers hold one copy of it.
fn respond(snapshot: Arc<Snapshot>) -> Response {
    const BEFORE: &[u8] = b"{\"data\":\"";
    const AFTER: &[u8] = b"\"}";
    let length = BEFORE.len() + snapshot.base64().len() + AFTER.len();
    let body = BEFORE.chain(Cursor::new(Base64(snapshot))).chain(AFTER);
    Response {
        data: ResponseBody::from_reader_and_size(body, length),
        ..Response::from_data("application/json; charset=utf-8", Vec::new())
    }
}
