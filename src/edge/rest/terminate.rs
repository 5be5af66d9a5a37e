//! `/stream/terminate`: an operator ends streams (protocol document, section 9.4).

use std::sync::Arc;
use std::time::Duration;

use super::error::ApiError;
use super::query::Query;
use super::streams::{Target, matching};
use crate::base::clock::Clock;
use crate::hub::{EndReason, Registry};

/// Time in which a publisher that is asked to end must have ended.
const END_LIMIT: Duration = Duration::from_secs(3);

/// Ends all streams that match, and waits until the names of those that were published are free, at most [`END_LIMIT`].
/// Players end a moment later.
///
/// # Errors
/// 400 for a query that has only keys that we do not know: it must not mean everything. 404 when nothing matches, 500
/// when a publisher does not end.
pub(super) fn streams(
    registry: &Registry,
    node_id: &str,
    query: &Query,
    clock: &Clock,
) -> Result<(), ApiError> {
    if !query.is_definite() {
        return Err(ApiError::bad_request("Which streams are meant is not clear"));
    }
    let deadline = clock.now() + END_LIMIT;
    // Before anybody is asked, so that no end is missed.
    let changed = registry.watch(None);
    let targets = matching(registry, node_id, query);
    if targets.is_empty() {
        return Err(ApiError::not_found("Stream not found"));
    }
    let mut ending = Vec::new();
    for (target, _) in targets {
        match target {
            Target::Publication(stream) => {
                let publication = stream.publication();
                let (name, id) = (&publication.name, &publication.media_session_id);
                tracing::info!("{name} ({id}) is terminated by REST");
                stream.ask_to_end(EndReason::Terminated);
                ending.push(stream);
            }
            Target::Player(viewer) => {
                let viewing = viewer.viewing();
                let (name, id) = (&viewing.name, &viewing.media_session_id);
                tracing::info!("playing of {name} ({id}) is terminated by REST");
                viewer.ask_to_end(EndReason::Terminated);
            }
        }
    }
    loop {
        let live = registry.list();
        ending.retain(|stream| live.iter().any(|other| Arc::ptr_eq(stream, other)));
        let left = deadline.saturating_duration_since(clock.now());
        if ending.is_empty() {
            return Ok(());
        }
        if left.is_zero() || changed.recv_timeout(left).is_err() {
            return Err(ApiError::internal(format!("{} streams did not end in time", ending.len())));
        }
    }
}
