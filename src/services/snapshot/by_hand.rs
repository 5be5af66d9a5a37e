//! The service without threads: a test turns its jobs one by one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::SnapshotSettings;
use super::desk::Failure;
use super::service::{Queues, Shared, Snapshots};
use super::work::{Job, Unfinished};
use crate::base::clock::Clock;
use crate::base::metrics::Metrics;
use crate::base::stop::StopSource;
use crate::hub::{Registry, Stream};
use crate::media::picture::YuvPicture;
use crate::services::decode::StreamDecoder;

pub(super) struct ByHand {
    shared: Arc<Shared>,
    queues: Queues,
    _stop: StopSource,
}

/// A decoding job that has left the queue.
pub(super) struct Begun {
    epoch: u64,
    stream: Arc<Stream>,
    deadline: Instant,
    decoder: StreamDecoder,
    /// Of a job that has decoded, and not yet told the desk.
    result: Option<Result<(YuvPicture, u64), Failure>>,
}

impl ByHand {
    pub(super) fn new(
        settings: SnapshotSettings,
        registry: Registry,
        clock: Clock,
        metrics: Metrics,
    ) -> Self {
        let (shared, stop, queues) = Shared::new(settings, registry, clock, metrics).unwrap();
        Self { shared, queues, _stop: stop }
    }

    pub(super) fn snapshots(&self) -> Snapshots {
        Snapshots::of(&self.shared)
    }

    /// Does the next decoding job; returns whether there was one.
    pub(super) fn decode(&self) -> bool {
        self.queues.decoding.try_recv().map(|epoch| self.shared.decode(epoch)).is_ok()
    }

    /// Likewise for an encoding job.
    pub(super) fn encode(&self) -> bool {
        self.queues.encoding.try_recv().map(|job| self.shared.encode(job)).is_ok()
    }

    /// A job that has decoded this many units of the group.
    pub(super) fn begin_decoding(&self, units: usize) -> Begun {
        let epoch = self.queues.decoding.try_recv().unwrap();
        let (stream, deadline) = self.shared.desk.lock().begin(epoch).unwrap();
        let mut decoder = self.shared.decoder();
        for unit in &stream.gop().units[..units] {
            decoder.step(unit, false).unwrap();
        }
        Begun { epoch, stream, deadline, decoder, result: None }
    }

    /// A job that has its picture, and has not told it yet.
    pub(super) fn decode_untold(&self) -> Begun {
        let mut begun = self.begin_decoding(0);
        begun.result = Some(self.shared.run(&mut begun.decoder, &begun.stream, begun.deadline));
        begun
    }

    pub(super) fn finish_decoding(&self, mut begun: Begun) {
        let run = || self.shared.run(&mut begun.decoder, &begun.stream, begun.deadline);
        let result = begun.result.unwrap_or_else(run);
        self.shared.end_decoding(begun.epoch, begun.stream, begun.decoder, result);
    }

    /// What a panic in a decoder leaves behind.
    pub(super) fn lose_decoding(&self, begun: Begun) {
        drop(Unfinished { shared: &self.shared, epoch: begun.epoch, what: Job::Decode });
    }

    pub(super) fn lose_encoding(&self) {
        let job = self.queues.encoding.try_recv().unwrap();
        drop(Unfinished { shared: &self.shared, epoch: job.epoch, what: Job::Encode(job.scale) });
    }

    /// What `snapshot-desk` does each time that it wakes.
    pub(super) fn look(&self) {
        self.shared.look_around(&mut HashMap::new(), &self.queues.waiter);
    }
}
