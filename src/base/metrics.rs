//! Counts for the operator, in one Prometheus registry.
//!
//! Every count is made here, so that this file is the list of what the server tells about itself. Labels come from
//! closed sets in our code, never from outside: a stranger cannot grow the registry.

use std::sync::Arc;

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// All counts of one server; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Counts>);

/// The counts themselves.
#[derive(Debug)]
pub struct Counts {
    registry: Registry,
    /// Connections accepted, by port (`ws`, `http`, …).
    pub connections_total: IntCounterVec,
    /// Connections refused before a thread was made for them, by `reason`.
    pub connections_refused_total: IntCounterVec,
    /// Connections open now, all ports.
    pub connections: IntGauge,
    /// Likewise by port.
    pub connections_by_port: IntGaugeVec,
    /// Streams published now; set when the metrics are read.
    pub streams: IntGauge,
    /// Likewise by the protocol through which they come (`webrtc`, `rtmp`, …).
    pub streams_by_protocol: IntGaugeVec,
    /// Bytes of coded video cached for pictures, all streams together.
    pub gop_bytes: IntGauge,
    /// Panics caught since the process began; set when the metrics are read.
    pub panics: IntGauge,
    /// Bad input, by `kind`: what it was that could not be used.
    pub bad_input_total: IntCounterVec,
    /// HTTP responses, by class of their status (`2xx` …).
    pub http_responses_total: IntCounterVec,
    /// WebSocket messages that are not known, or not served.
    pub unknown_messages_total: IntCounter,
    /// RTP packets that never came.
    pub rtp_lost_total: IntCounter,
    /// RTP packets taken.
    pub rtp_received_total: IntCounter,
    /// Keyframes asked of publishers.
    pub keyframe_requests_total: IntCounter,
    /// RTP packets sent to viewers, without repetitions.
    pub rtp_sent_total: IntCounter,
    /// RTP packets sent to viewers again.
    pub rtp_repeated_total: IntCounter,
    /// Pictures that viewers did not get because they could not keep up, or waited for a keyframe.
    pub pictures_left_out_total: IntCounter,
    /// Streams that are made anew now for viewers who cannot be sent what is published.
    pub renditions: IntGauge,
    /// Pictures decoded and encoded for them.
    pub pictures_transcoded_total: IntCounter,
    /// Players now.
    pub viewers: IntGauge,
    /// Players that ended, by `reason`.
    pub views_ended_total: IntCounterVec,
    /// Publications that ended, by `reason`.
    pub publications_ended_total: IntCounterVec,
    /// Sources pulled now, those at rest included.
    pub pulls: IntGauge,
    /// Attempts to pull that failed, and refusals to, by `reason`.
    pub pulls_failed_total: IntCounterVec,
    /// Snapshots asked for, by `result` (`ok`, `not_found`, `timeout`, …).
    pub snapshots_total: IntCounterVec,
    /// From request to picture, in seconds.
    pub snapshot_seconds: Histogram,
    /// Pictures of files asked for, by `result` (`ok`, `not_found`, `timeout`, …).
    pub file_pictures_total: IntCounterVec,
    /// Access units decoded.
    pub units_decoded_total: IntCounter,
    /// Decoding runs: one serves all who ask for the same moment.
    pub decode_runs_total: IntCounter,
    /// Pictures encoded as PNG.
    pub pictures_encoded_total: IntCounter,
    /// Bytes that came from RTMP clients of ours, without TLS.
    pub rtmp_received_bytes_total: IntCounter,
    /// Bytes that went to them, with TLS.
    pub rtmp_sent_bytes_total: IntCounter,
    /// Automatic pictures, by `result` (`written`, `skipped`, `failed`).
    pub auto_pictures_total: IntCounterVec,
    /// Files of recordings, by `result` (`complete`, `repaired`, `failed`).
    pub recordings_total: IntCounterVec,
}

impl Metrics {
    /// Counts at zero in a registry of their own.
    ///
    /// # Panics
    /// Never: the names are constants and distinct, which a test checks.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(format!("stillcast_{name}"), help).expect("constant name");
            registry.register(Box::new(counter.clone())).expect("distinct name");
            counter
        };
        let counters = |name: &str, help: &str, label: &str| {
            let counters = IntCounterVec::new(Opts::new(format!("stillcast_{name}"), help), &[label])
                .expect("constant name");
            registry.register(Box::new(counters.clone())).expect("distinct name");
            counters
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(format!("stillcast_{name}"), help).expect("constant name");
            registry.register(Box::new(gauge.clone())).expect("distinct name");
            gauge
        };
        let gauges = |name: &str, help: &str, label: &str| {
            let gauges = IntGaugeVec::new(Opts::new(format!("stillcast_{name}"), help), &[label])
                .expect("constant name");
            registry.register(Box::new(gauges.clone())).expect("distinct name");
            gauges
        };
        let buckets = vec![0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 3.0];
        let options =
            HistogramOpts::new("stillcast_snapshot_seconds", "From request to picture").buckets(buckets);
        let snapshot_seconds = Histogram::with_opts(options).expect("constant name");
        registry.register(Box::new(snapshot_seconds.clone())).expect("distinct name");
        Self(Arc::new(Counts {
            connections_total: counters("connections_total", "Connections accepted", "port"),
            connections_refused_total: counters("connections_refused_total", "Connections refused", "reason"),
            connections: gauge("connections", "Connections open now"),
            connections_by_port: gauges("connections_by_port", "Connections open now", "port"),
            streams: gauge("streams", "Streams published now"),
            streams_by_protocol: gauges("streams_by_protocol", "Streams published now", "protocol"),
            gop_bytes: gauge("gop_bytes", "Bytes of coded video cached for pictures"),
            panics: gauge("panics", "Panics caught since the process began"),
            bad_input_total: counters("bad_input_total", "Input that could not be used", "kind"),
            http_responses_total: counters("http_responses_total", "HTTP responses", "class"),
            unknown_messages_total: counter("unknown_messages_total", "WebSocket messages not served"),
            rtp_lost_total: counter("rtp_lost_total", "RTP packets that never came"),
            rtp_received_total: counter("rtp_received_total", "RTP packets taken"),
            keyframe_requests_total: counter("keyframe_requests_total", "Keyframes asked of publishers"),
            rtp_sent_total: counter("rtp_sent_total", "RTP packets sent to viewers"),
            rtp_repeated_total: counter("rtp_repeated_total", "RTP packets sent to viewers again"),
            pictures_left_out_total: counter(
                "pictures_left_out_total",
                "Pictures that viewers could not get in time",
            ),
            renditions: gauge("renditions", "Streams made anew now for viewers"),
            pictures_transcoded_total: counter(
                "pictures_transcoded_total",
                "Pictures decoded and encoded for viewers",
            ),
            viewers: gauge("viewers", "Players now"),
            views_ended_total: counters("views_ended_total", "Players that ended", "reason"),
            publications_ended_total: counters(
                "publications_ended_total",
                "Publications that ended",
                "reason",
            ),
            pulls: gauge("pulls", "Sources pulled now"),
            pulls_failed_total: counters("pulls_failed_total", "Attempts to pull that failed", "reason"),
            snapshots_total: counters("snapshots_total", "Snapshots asked for", "result"),
            snapshot_seconds,
            file_pictures_total: counters("file_pictures_total", "Pictures of files asked for", "result"),
            units_decoded_total: counter("units_decoded_total", "Access units decoded"),
            decode_runs_total: counter("decode_runs_total", "Decoding runs"),
            pictures_encoded_total: counter("pictures_encoded_total", "Pictures encoded as PNG"),
            rtmp_received_bytes_total: counter("rtmp_received_bytes_total", "Bytes from RTMP clients"),
            rtmp_sent_bytes_total: counter("rtmp_sent_bytes_total", "Bytes to RTMP clients"),
            auto_pictures_total: counters("auto_pictures_total", "Automatic pictures", "result"),
            recordings_total: counters("recordings_total", "Files of recordings", "result"),
            registry,
        }))
    }

    /// Counts one piece of bad input of this kind; `kind` is a constant of the caller.
    pub fn bad_input(&self, kind: &'static str) {
        self.0.bad_input_total.with_label_values(&[kind]).inc();
    }

    /// Counts a connection as open on this port until the guard falls.
    #[must_use]
    pub fn connection_on(&self, port: &'static str) -> OpenConnection {
        let gauge = self.0.connections_by_port.with_label_values(&[port]);
        gauge.inc();
        OpenConnection(gauge)
    }

    /// The text exposition format.
    #[must_use]
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.0.registry.gather()).unwrap_or_default()
    }
}

/// A connection counted in [`Counts::connections_by_port`].
#[derive(Debug)]
pub struct OpenConnection(IntGauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl std::ops::Deref for Metrics {
    type Target = Counts;
    fn deref(&self) -> &Counts {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_show_in_the_exposition() {
        let metrics = Metrics::new();
        metrics.bad_input("stun");
        metrics.connections.set(3);
        let text = metrics.render();
        assert!(text.contains("stillcast_bad_input_total{kind=\"stun\"} 1"), "{text}");
        assert!(text.contains("stillcast_connections 3"));
    }
}
