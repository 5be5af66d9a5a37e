//! `/connection/find`, `/connection/terminate` and `/data/send`: clients of the WebSocket (protocol document, section 9.4).

use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::ApiError;
use super::query::plain;
use crate::edge::ws::Connected;
use crate::proto::signal::message::{DataEvent, ToClient};

/// The body of `/connection/terminate`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Session {
    session_id: Option<String>,
}

/// The body of `/data/send`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Data {
    operation_id: Option<String>,
    session_id: Option<String>,
    session_ids: Vec<String>,
    payload: Value,
}

fn not_found() -> ApiError {
    ApiError::not_found("Connection not found")
}

/// The connections whose plain values are those of the query.
///
/// # Errors
/// 404 when there are none.
pub(super) fn find(
    connected: &Connected,
    node_id: &str,
    query: &Map<String, Value>,
) -> Result<Vec<Map<String, Value>>, ApiError> {
    let mut found: Vec<_> = connected
        .list()
        .iter()
        .map(|client| {
            let node_id = ("nodeId".to_owned(), Value::from(node_id));
            std::iter::once(node_id)
                .chain(client.iter().map(|(key, value)| (key.clone(), value.clone())))
                .collect()
        })
        .collect();
    found.retain(|client: &Map<String, Value>| {
        query
            .iter()
            .filter_map(|(key, value)| Some((key, plain(value)?)))
            .all(|(key, wanted)| client.get(key).and_then(plain).is_some_and(|value| value == wanted))
    });
    if found.is_empty() { Err(not_found()) } else { Ok(found) }
}

/// Ends one connection and its streams.
///
/// # Errors
/// 400 without an id, 404 when there is no such connection, 503 when it cannot be told.
pub(super) fn terminate(connected: &Connected, session: &Session) -> Result<(), ApiError> {
    let id = session.session_id.as_ref().ok_or_else(|| ApiError::bad_request("sessionId is missing"))?;
    match connected.end(id) {
        Ok(true) => {
            tracing::info!("connection {id} is terminated by REST");
            Ok(())
        }
        Ok(false) => Err(not_found()),
        Err(error) => Err(ApiError::unavailable(error.to_string())),
    }
}

/// Hands the payload to the pages of these connections.
///
/// # Errors
/// 400 without an id, 404 when one of them is not there, 503 when one does not keep up; the others have it then.
pub(super) fn send(connected: &Connected, data: Data) -> Result<(), ApiError> {
    let Data { operation_id, session_id, session_ids, payload } = data;
    let ids: Vec<_> = session_id.into_iter().chain(session_ids).collect();
    if ids.is_empty() {
        return Err(ApiError::bad_request("sessionId is missing"));
    }
    let event = DataEvent { operation_id, payload };
    let mut failure = None;
    for id in ids {
        match connected.say(&id, ToClient::OnDataEvent([event.clone()])) {
            Ok(true) => {}
            Ok(false) => failure = Some(not_found()),
            Err(error) => failure = Some(ApiError::unavailable(error.to_string())),
        }
    }
    failure.map_or(Ok(()), Err)
}
