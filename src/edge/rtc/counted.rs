//! From one peer's counts to those of the server.

use crate::base::metrics::Metrics;
use crate::proto::peer::{Peer, PeerStats, Refused};

/// What of a peer's counts is in the metrics already.
pub(super) struct Counted {
    metrics: Metrics,
    name: String,
    before: Option<PeerStats>,
}

impl Counted {
    /// `name` is for the log.
    pub(super) fn new(metrics: Metrics, name: String) -> Self {
        Self { metrics, name, before: None }
    }

    /// Adds what came since the last call.
    pub(super) fn count(&mut self, peer: &Peer) {
        self.add(peer.stats());
    }

    fn add(&mut self, now: PeerStats) {
        let since =
            |count: fn(&PeerStats) -> u64| count(&now).saturating_sub(self.before.as_ref().map_or(0, count));
        self.metrics.rtp_received_total.inc_by(since(|stats| stats.receiver.packets));
        self.metrics.rtp_lost_total.inc_by(since(|stats| stats.receiver.lost));
        self.metrics.keyframe_requests_total.inc_by(since(|stats| stats.receiver.keyframe_requests));
        self.metrics.rtp_sent_total.inc_by(since(|stats| stats.sender.packets));
        self.metrics.rtp_repeated_total.inc_by(since(|stats| stats.sender.repeated));
        self.metrics.pictures_left_out_total.inc_by(since(|stats| stats.sender.dropped));
        if let Some(error) = now.receiver.last_unit_error {
            let unusable = since(|stats| stats.receiver.units_unusable);
            self.metrics.bad_input_total.with_label_values(&[error.codec()]).inc_by(unusable);
        }
        let error_before = self.before.as_ref().and_then(|before| before.receiver.last_unit_error);
        if let Some(error) = now.receiver.last_unit_error.filter(|error| Some(*error) != error_before) {
            tracing::warn!("pictures of {} cannot be used: {error}", self.name);
        }
        for kind in Refused::ALL {
            let before = self.before.as_ref().map_or(0, |before| before.refused.get(kind));
            let refused = now.refused.get(kind).saturating_sub(before);
            if refused > 0 {
                self.metrics.bad_input_total.with_label_values(&[kind.name()]).inc_by(refused);
            }
        }
        self.before = Some(now);
    }
}
