//! How a player ends: its reason, its place, and its last word.

use crate::base::metrics::Metrics;
use crate::base::queue::Offer;
use crate::hub::{EndReason, ViewerPlace};
use crate::proto::signal::{EndStatus, Event};

/// Why a player ended; the texts are those that clients know (protocol document, section 3.4).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewEnd {
    /// Something that ends publications likewise.
    #[error(transparent)]
    Reason(#[from] EndReason),
    /// The stream that was played ended.
    #[error("Stopped by publisher stop")]
    PublisherStopped,
    /// The stream became one that cannot be sent as it is, and nothing is made anew.
    #[error("Transcoding required, but disabled")]
    Transcoding,
    /// The stream cannot be made anew, or not now.
    #[error("No available transcoders")]
    NoTranscoder,
}

impl ViewEnd {
    /// `STOPPED` rather than `FAILED`: what the client itself wished, and the end of its own file.
    fn status(&self) -> EndStatus {
        match self {
            Self::Reason(EndReason::ByUser | EndReason::SessionDisconnect | EndReason::EndOfFile) => {
                EndStatus::Orderly
            }
            _ => EndStatus::Failed,
        }
    }

    /// The reason as a label of a count.
    fn label(&self) -> &'static str {
        match self {
            Self::Reason(reason) => reason.label(),
            Self::PublisherStopped => "publisher_stopped",
            Self::Transcoding => "transcoding",
            Self::NoTranscoder => "no_transcoder",
        }
    }
}

/// The place among the viewers and the last word. However the thread ends, by a panic too, the client's session hears of it.
pub(super) struct Ending {
    pub(super) place: Option<ViewerPlace>,
    events: Offer<Event>,
    pub(super) metrics: Metrics,
    /// Why it ends, once that is known.
    pub(super) reason: ViewEnd,
}

impl Ending {
    pub(super) fn new(place: ViewerPlace, events: Offer<Event>, metrics: Metrics) -> Self {
        metrics.viewers.inc();
        Self { place: Some(place), events, metrics, reason: EndReason::Internal.into() }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.metrics.viewers.dec();
        self.metrics.views_ended_total.with_label_values(&[self.reason.label()]).inc();
        let Some(place) = self.place.take() else { return };
        let viewing = place.viewer().viewing().clone();
        tracing::info!(
            "{} is no longer played by {}: {}",
            viewing.name,
            viewing.media_session_id,
            self.reason
        );
        drop(place);
        // Full: the connection sees it by the count of refused events, and closes.
        let _ = self.events.offer(Event::Ended {
            media_session_id: viewing.media_session_id,
            status: self.reason.status(),
            info: self.reason.to_string(),
        });
    }
}
