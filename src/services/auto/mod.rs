//! Automatic pictures: every N-th frame of every stream becomes a PNG in that stream's folder.
//!
//! ```text
//! registry ──ring──► auto-watch ──starts──► auto-<id> (one a stream) ──pictures (8)──► autosnap ──► <folder>/<n>.png
//!                                             │ taker.rs: decodes what the rate needs      writer.rs, store.rs
//! stream ──live──────────────────────────────►┘                                               auto-old: what goes (old.rs)
//! ```
//!
//! Which frames: the units of a stream are counted from 0, in decoding order. Of each run of N units (0 to N−1, N to 2N−1, …) the
//! first one that can be decoded is taken. So without loss the pictures show exactly the frames 0, N, 2N, …; where one of
//! these was lost, the next keyframe stands in, and the pace of the pictures stays.
//!
//! A disk that is full or read-only, a queue that is full: each costs pictures, never a stream.

mod old;
mod store;
mod taker;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, select};

use crate::base::clock::Clock;
use crate::base::metrics::Metrics;
use crate::base::queue::{Offer, queue};
use crate::base::stop::{StopSource, StopToken};
use crate::base::threads::{STACK_CODEC_BYTES, STACK_PROTOCOL_BYTES, Thread, spawn};
use crate::hub::{Publication, Registry, Stream};
use crate::services::retention::Keep;

use old::Pruner;
use taker::Taker;
use writer::{Job, Source, Writer};

/// What is taken, and where it goes.
#[derive(Clone, Debug)]
pub struct AutoSettings {
    /// The folder of folders (`snapshot_auto_dir`); made when it is not there.
    pub dir: PathBuf,
    /// What a stream's folder is called after (`snapshot_auto_naming`).
    pub naming: Naming,
    /// N: one picture of every N frames (`snapshot_auto_rate`).
    pub rate: NonZeroU64,
    /// Newest pictures kept in a folder (`snapshot_auto_retention`); 0 keeps all.
    pub retention: usize,
    /// What is kept of all folders together (`snapshot_auto_retention_*`).
    pub keep: Keep,
    /// Most pixels of a coded picture (`pixels_max`).
    pub pixels_max: u64,
}

/// What a stream's folder is called after; `store::folder_name` makes a safe name of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// The publisher's media session: a folder for each publication.
    MediaSessionId,
    /// The stream's name: one folder, whose numbers go on when the name is published again.
    StreamName,
}

impl Naming {
    /// The name that a stream's folder is called after.
    fn name_of(self, publication: &Publication) -> &str {
        match self {
            Self::MediaSessionId => publication.media_session_id.as_str(),
            Self::StreamName => publication.name.as_str(),
        }
    }
}

/// Pictures that wait for the writer, all streams together. When full, a picture is skipped and counted.
const PICTURES_WAITING_MAX: usize = 8;
/// Units that wait for one taker. When full, the stream goes on for it at the next keyframe.
const LIVE_WAITING_MAX: usize = 128;
/// How long takers may take to end: each looks at the stop between two units.
const TAKERS_END_LIMIT: Duration = Duration::from_secs(2);
/// How long the writer may take to write what waits.
const WRITER_END_LIMIT: Duration = Duration::from_secs(2);

/// The running service. Dropping it stops its threads.
#[derive(Debug)]
pub struct AutoSnapshots {
    stop: StopSource,
    watch: Option<Thread>,
    writer: Option<Thread>,
    old: Option<Thread>,
}

impl AutoSnapshots {
    /// Starts to take pictures of every stream in the registry, now and later.
    ///
    /// # Errors
    /// When the system refuses a thread. A folder that cannot be used is no error: it is logged when a picture is lost.
    pub fn start(
        settings: AutoSettings,
        registry: &Registry,
        clock: Clock,
        metrics: Metrics,
    ) -> std::io::Result<Self> {
        let (pictures, waiting) = queue(PICTURES_WAITING_MAX, None);
        let mut writer =
            Writer::new(settings.dir.clone(), settings.retention, clock.clone(), metrics.clone());
        let writer = spawn("autosnap", STACK_CODEC_BYTES, move || {
            // Ends when the last taker has gone and nothing waits.
            for job in &waiting {
                writer.write(&job);
            }
        })?;
        let stop = StopSource::new();
        let token = stop.token();
        let old = if settings.keep == Keep::default() {
            None
        } else {
            let (dir, registry, clock) = (settings.dir.clone(), registry.clone(), clock.clone());
            let pruner = Pruner { dir, naming: settings.naming, keep: settings.keep, registry, clock };
            Some(spawn("auto-old", STACK_PROTOCOL_BYTES, move || pruner.run(&token))?)
        };
        let watch =
            Watch { settings, registry: registry.clone(), pictures, clock, metrics, takers: HashMap::new() };
        let rung = registry.watch(None);
        let token = stop.token();
        let watch = spawn("auto-watch", STACK_PROTOCOL_BYTES, move || watch.run(&token, &rung))?;
        Ok(Self { stop, watch: Some(watch), writer: Some(writer), old })
    }

    /// Stops taking pictures, writes those that wait, and ends within four seconds; returns whether all threads ended.
    pub fn stop(mut self) -> bool {
        self.end()
    }

    fn end(&mut self) -> bool {
        self.stop.set();
        let margin = Duration::from_millis(500);
        let watch = self.watch.take().is_none_or(|thread| thread.join(TAKERS_END_LIMIT + margin));
        let writer = self.writer.take().is_none_or(|thread| thread.join(WRITER_END_LIMIT));
        let old = self.old.take().is_none_or(|thread| thread.join(margin));
        watch && writer && old
    }
}

impl Drop for AutoSnapshots {
    fn drop(&mut self) {
        self.end();
    }
}

/// Gives each stream its taker.
struct Watch {
    settings: AutoSettings,
    registry: Registry,
    pictures: Offer<Job>,
    clock: Clock,
    metrics: Metrics,
    /// By the stream's epoch, which no two streams share.
    takers: HashMap<u64, Thread>,
}

impl Watch {
    fn run(mut self, stop: &StopToken, rung: &Receiver<()>) {
        loop {
            self.look(stop);
            select! {
                recv(stop.channel()) -> _ => break,
                recv(rung) -> rung => if rung.is_err() { break },
            }
        }
        let deadline = self.clock.now() + TAKERS_END_LIMIT;
        for (_, taker) in self.takers.drain() {
            taker.join(deadline.saturating_duration_since(self.clock.now()));
        }
    }

    fn look(&mut self, stop: &StopToken) {
        self.takers.retain(|_, taker| !taker.is_ended());
        for stream in self.registry.list() {
            if self.takers.contains_key(&stream.epoch()) || !stream.facts().has_video {
                continue;
            }
            match self.start_taker(&stream, stop.clone()) {
                Ok(taker) => {
                    self.takers.insert(stream.epoch(), taker);
                }
                Err(error) => {
                    let name = &stream.publication().name;
                    tracing::error!(stream = %name, "no automatic pictures: thread refused: {error}");
                }
            }
        }
    }

    fn start_taker(&self, stream: &Arc<Stream>, stop: StopToken) -> std::io::Result<Thread> {
        let publication = stream.publication();
        let source = Source {
            folder: self.settings.naming.name_of(publication).to_owned(),
            stream_name: publication.name.clone(),
            epoch: stream.epoch(),
        };
        let mut taker = Taker::new(
            stream.clone(),
            source,
            self.settings.rate,
            self.settings.pixels_max,
            self.pictures.clone(),
            self.clock.clone(),
            self.metrics.clone(),
        );
        // Here, not in the thread: what is pushed from now on is not missed.
        let subscription = stream.follow(LIVE_WAITING_MAX, None);
        let name = format!("auto-{}", publication.media_session_id);
        spawn(name, STACK_CODEC_BYTES, move || taker.run(&subscription, &stop))
    }
}
