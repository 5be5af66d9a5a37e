//! `/stream/event/send`: data for the pages of a stream (protocol document, sections 3.5 and 9.4).

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::error::ApiError;
use crate::edge::ws::Connected;
use crate::hub::{Notice, Registry};
use crate::proto::signal::message::{self as signal, SharedJson, StreamEventKind, ToClient};

/// The body of the call.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct StreamEvent {
    stream_name: Option<String>,
    /// Pages expect an object; anything else is handed on as it is, as between pages.
    payload: Value,
}

/// Hands the payload to every player of the stream as a `data` event, and to the page that publishes it, where there is
/// one. A stream that nobody plays takes it, too.
///
/// # Errors
/// 400 without a name, 404 when there is no such stream, 503 when a player has more to hear than it takes.
pub(super) fn send(registry: &Registry, connected: &Connected, event: StreamEvent) -> Result<(), ApiError> {
    let name = event
        .stream_name
        .filter(|name| !name.is_empty())
        .ok_or_else(|| ApiError::bad_request("streamName is missing"))?;
    let stream = registry.find(&name).ok_or_else(|| ApiError::not_found("Stream not found"))?;
    let payload = Arc::new(event.payload);
    let publication = stream.publication();
    let event = ToClient::NotifyStreamEvent([signal::StreamEvent {
        media_session_id: Some(publication.media_session_id.to_string()),
        kind: StreamEventKind::Data(SharedJson(payload.clone())),
    }]);
    // What came by another way than the WebSocket has no page, and no connection of that id.
    let page = connected.say(&publication.session_id, event);
    match (registry.viewers().tell(&stream, &Notice::Data(payload)), page) {
        (0, Ok(_)) => Ok(()),
        (0, Err(error)) => Err(ApiError::unavailable(error.to_string())),
        (lost, _) => Err(ApiError::unavailable(format!("{lost} players do not keep up"))),
    }
}
