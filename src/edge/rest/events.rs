//! `/stream/event/send`: data for the pages that play a stream (protocol document, sections 3.5 and 9.4).

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::error::ApiError;
use crate::hub::{Notice, Registry};

/// The body of the call.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct StreamEvent {
    stream_name: Option<String>,
    /// Pages expect an object; anything else is handed on as it is, as between pages.
    payload: Value,
}

/// Hands the payload to every player of the stream as a `data` event. A stream that nobody plays takes it, too.
///
/// # Errors
/// 400 without a name, 404 when there is no such stream, 503 when a player has more to hear than it takes.
pub(super) fn send(registry: &Registry, event: StreamEvent) -> Result<(), ApiError> {
    let name = event
        .stream_name
        .filter(|name| !name.is_empty())
        .ok_or_else(|| ApiError::bad_request("streamName is missing"))?;
    let stream = registry.find(&name).ok_or_else(|| ApiError::not_found("Stream not found"))?;
    match registry.viewers().tell(&stream, &Notice::Data(Arc::new(event.payload))) {
        0 => Ok(()),
        lost => Err(ApiError::unavailable(format!("{lost} players do not keep up"))),
    }
}
