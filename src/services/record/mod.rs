//! Recordings: streams into files that can be played at every moment.
//!
//! ```text
//! registry ──ring──► record-watch ──starts──► rec-<id> (one a stream) ──► <records_dir>/<name>.mp4, .webm ◄─ record-sync
//! REST, signalling ──Recordings──►              timeline.rs: one clock for all tracks
//!                                               mp4_file.rs, webm_file.rs: fragments, then an index
//! at start: record-repair finishes what a crash left         record-hook runs the operator's program
//! ```
//!
//! H.264 goes with Opus or AAC into MP4, VP8 with Opus into WebM, as they came; nothing is decoded. A disk that is slow, full or
//! refuses ends the recording, never the stream: a recorder is one more consumer with a queue.

#[cfg(test)]
mod cut_tests;
mod durable;
mod ebml;
#[cfg(test)]
mod growing_tests;
mod hook;
mod mp4_file;
mod name;
mod recorder;
mod repair;
mod rotation;
mod sample;
mod store;
#[cfg(test)]
mod tests;
mod timeline;
#[cfg(test)]
mod truth_tests;
mod webm_file;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};
use rand::Rng as _;

use self::durable::Disk;
use self::hook::{Hook, Run};
use self::name::NameFacts;
pub use self::name::{Naming, is_recording};
pub use self::recorder::RecordFailure;
use self::recorder::{Plan, Recorder};
pub use self::rotation::Rotation;
use self::store::Store;
use super::retention::Keep;
use crate::base::clock::Clock;
use crate::base::lock::{Mutex, rank};
use crate::base::metrics::Metrics;
use crate::base::stop::{StopSource, StopToken};
use crate::base::threads::{STACK_PROTOCOL_BYTES, Thread, spawn};
use crate::hub::{Registry, SourceProtocol, Stream};

/// Units that wait for one recorder: some ten seconds of picture and sound. When full, the stream goes on for it at the next
/// keyframe.
const LIVE_WAITING_MAX: usize = 1024;
/// How long recorders may take to finish their files when the server stops.
const RECORDERS_END_LIMIT: Duration = Duration::from_millis(1500);
/// From one look at what nobody rings for to the next: who waits for a file, what is to be removed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// From one removal of old files to the next.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);
/// Names of complete recordings that are remembered for publishers who ask late.
const REMEMBERED_MAX: usize = 512;

/// What is recorded, where to and for how long.
#[derive(Clone, Debug)]
pub struct RecordSettings {
    /// Folder of the files (`records_dir`); made when it is not there.
    pub dir: PathBuf,
    /// Whether publishers who ask for it are recorded (`record_streams`).
    pub on_request: bool,
    /// Whether all that is published by RTMP is (`record_flash_published_streams`).
    pub all_rtmp: bool,
    /// Whether all that is pulled by RTSP is (`record_rtsp_streams`).
    pub all_rtsp_pulls: bool,
    /// How files are named.
    pub naming: Naming,
    /// When another file is begun.
    pub rotation: Rotation,
    /// Which complete files are kept.
    pub keep: Keep,
    /// Recordings end when fewer bytes are free; 0: never.
    pub free_min_bytes: u64,
    /// Program that is run after each file.
    pub hook: Option<PathBuf>,
    /// How long one run of it may last.
    pub hook_limit: Duration,
    /// How long a publisher's last status may wait for its file.
    pub finish_limit: Duration,
}

/// Why a recording does not begin or end by request.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// No stream of this media session is published, or none of it is recorded.
    #[error("Stream not found")]
    NotFound,
    /// The file or the thread cannot be made.
    #[error("cannot record: {0}")]
    System(#[from] std::io::Error),
}

/// A recording that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingFacts {
    /// Name of the file in the folder.
    pub file_name: String,
    /// The publisher's media session.
    pub media_session_id: String,
}

/// A recording's last word, for its publisher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Name of the (last) file.
    pub name: String,
    /// Why it ended before its stream; `None`: it did not.
    pub failure: Option<String>,
}

/// Called once with what became of a recording.
pub type RecordedReply = Box<dyn FnOnce(Recorded) + Send>;

/// Whether a recording is complete.
pub enum Completion {
    /// The stream was not recorded.
    NotRecorded,
    /// It is.
    Done(Recorded),
    /// It is not yet; the reply is called when it is, or when waiting has no end.
    Later,
}

/// A complete file.
#[derive(Debug)]
struct Completed {
    name: String,
    path: PathBuf,
    duration: Duration,
}

struct Waiter {
    until: Instant,
    reply: RecordedReply,
}

/// A stream that is being recorded.
struct Running {
    stream: Arc<Stream>,
    name: String,
    stop: StopSource,
    thread: Option<Thread>,
    waiters: Vec<Waiter>,
}

#[derive(Default)]
struct State {
    /// By the stream's epoch, which no two streams share.
    running: HashMap<u64, Running>,
    /// What the last recordings became, oldest first.
    done: VecDeque<(u64, Recorded)>,
    is_stopping: bool,
}

/// What recorders, callers and the watch share.
struct Shared {
    settings: RecordSettings,
    registry: Registry,
    clock: Clock,
    metrics: Metrics,
    hook: Hook,
    disk: Disk,
    begins: Mutex<(), { rank::RECORDING_BEGINS }>,
    state: Mutex<State, { rank::RECORDINGS }>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Recordings for those who begin, end and list them; clones share them.
#[derive(Clone, Debug)]
pub struct Recordings(Arc<Shared>);

/// The running service. Dropping it stops its threads.
#[derive(Debug)]
pub struct RecordService {
    handle: Recordings,
    stop: StopSource,
    hook_stop: StopSource,
    watch: Option<Thread>,
    repair: Option<Thread>,
    hook: Option<Thread>,
    sync: Option<Thread>,
}

impl RecordService {
    /// Begins to record what the settings say, now and later, and to repair what a crash left.
    ///
    /// # Errors
    /// When the system refuses a thread. A folder that cannot be used is no error: it is told when a recording begins.
    pub fn start(
        settings: RecordSettings,
        registry: &Registry,
        clock: Clock,
        metrics: Metrics,
    ) -> std::io::Result<Self> {
        let (stop, hook_stop) = (StopSource::new(), StopSource::new());
        let (hook, hook_thread) =
            Hook::start(settings.hook.clone(), settings.hook_limit, clock.clone(), hook_stop.token())?;
        let (disk, sync) = Disk::start(clock.clone(), hook_stop.token())?;
        let shared = Arc::new(Shared {
            settings,
            registry: registry.clone(),
            clock,
            metrics,
            hook,
            disk,
            begins: Mutex::default(),
            state: Mutex::default(),
        });
        let handle = Recordings(shared.clone());
        let (token, rung, watched) = (stop.token(), registry.watch(None), handle.clone());
        let watch = spawn("record-watch", STACK_PROTOCOL_BYTES, move || watched.watch(&token, &rung))?;
        let repair = spawn("record-repair", STACK_PROTOCOL_BYTES, move || shared.repair())?;
        let (watch, repair, sync) = (Some(watch), Some(repair), Some(sync));
        Ok(Self { handle, stop, hook_stop, watch, repair, hook: hook_thread, sync })
    }

    /// For those who begin, end and list recordings.
    #[must_use]
    pub fn handle(&self) -> Recordings {
        self.handle.clone()
    }

    /// Whether all that a crash left was looked at.
    #[must_use]
    pub fn is_repaired(&self) -> bool {
        self.repair.as_ref().is_none_or(Thread::is_ended)
    }

    /// Finishes every file and ends; returns whether all threads ended in time.
    pub fn stop(mut self) -> bool {
        self.end()
    }

    fn end(&mut self) -> bool {
        self.stop.set();
        let mut ended = true;
        if let Some(watch) = self.watch.take() {
            ended &= watch.join(RECORDERS_END_LIMIT);
            ended &= self.handle.stop_all(RECORDERS_END_LIMIT);
        }
        if let Some(repair) = self.repair.take() {
            ended &= repair.join(RECORDERS_END_LIMIT);
        }
        self.hook_stop.set();
        if let Some(sync) = self.sync.take() {
            ended &= sync.join(RECORDERS_END_LIMIT);
        }
        // A program of the operator's that still runs is not ours to wait for.
        if let Some(hook) = self.hook.take().filter(|hook| hook.is_ended()) {
            ended &= hook.join(Duration::ZERO);
        }
        ended
    }
}

impl Drop for RecordService {
    fn drop(&mut self) {
        self.end();
    }
}

impl Recordings {
    /// Name of the file that a stream is recorded to; begins the recording where the settings or the publisher ask for it.
    /// `None`: it is not recorded.
    #[must_use]
    pub fn name_of(&self, stream: &Arc<Stream>) -> Option<String> {
        let known = self.0.state.lock().running.get(&stream.epoch()).map(|running| running.name.clone());
        if known.is_some() || !self.0.wants(stream) {
            return known;
        }
        match self.begin(stream, false, None, None) {
            Ok(name) => Some(name),
            Err(error) => {
                self.0.metrics.recordings_total.with_label_values(&["failed"]).inc();
                tracing::error!("{}: {error}", stream.publication().name);
                None
            }
        }
    }

    /// Name of the file that a stream is being recorded to.
    #[must_use]
    pub fn current(&self, stream: &Stream) -> Option<String> {
        self.0.state.lock().running.get(&stream.epoch()).map(|running| running.name.clone())
    }

    /// Begins to record the stream of a media session; one that is recorded already goes on in another file.
    ///
    /// # Errors
    /// When there is no such stream, or the system refuses.
    pub fn start(
        &self,
        media_session_id: &str,
        template: Option<String>,
        rotation: Option<Rotation>,
    ) -> Result<(), RecordError> {
        let streams = self.0.registry.list();
        let stream = streams.iter().find(|s| s.publication().media_session_id.as_str() == media_session_id);
        let stream = stream.ok_or(RecordError::NotFound)?;
        if let Some(before) = self.end_one(stream.epoch()) {
            before.join(self.0.settings.finish_limit);
        }
        self.begin(stream, true, template, rotation).map(|_| ())
    }

    /// Ends the recording of a media session; returns when the file is complete, or after the limit of the settings.
    ///
    /// # Errors
    /// When nothing of it is recorded.
    pub fn stop(&self, media_session_id: &str) -> Result<(), RecordError> {
        let epoch = {
            let state = self.0.state.lock();
            let of_session = |running: &&Running| {
                running.stream.publication().media_session_id.as_str() == media_session_id
            };
            state.running.values().find(of_session).map(|running| running.stream.epoch())
        };
        let thread = self.end_one(epoch.ok_or(RecordError::NotFound)?).ok_or(RecordError::NotFound)?;
        thread.join(self.0.settings.finish_limit);
        Ok(())
    }

    /// What is being recorded, by name.
    #[must_use]
    pub fn list(&self) -> Vec<RecordingFacts> {
        let state = self.0.state.lock();
        let mut list: Vec<_> = state
            .running
            .values()
            .map(|running| RecordingFacts {
                file_name: running.name.clone(),
                media_session_id: running.stream.publication().media_session_id.to_string(),
            })
            .collect();
        list.sort_by(|a, b| a.file_name.cmp(&b.file_name));
        list
    }

    /// Asks to be told when the recording of an ended stream is complete. The wait is bounded by the settings.
    pub fn when_complete(&self, stream: &Stream, reply: RecordedReply) -> Completion {
        let until = self.0.clock.now() + self.0.settings.finish_limit;
        let mut state = self.0.state.lock();
        if let Some(running) = state.running.get_mut(&stream.epoch()) {
            running.waiters.push(Waiter { until, reply });
            return Completion::Later;
        }
        let done = state.done.iter().rev().find(|(epoch, _)| *epoch == stream.epoch());
        done.map_or(Completion::NotRecorded, |(_, recorded)| Completion::Done(recorded.clone()))
    }

    /// Where complete files are, for whoever serves them.
    #[must_use]
    pub fn dir(&self) -> &std::path::Path {
        &self.0.settings.dir
    }

    fn begin(
        &self,
        stream: &Arc<Stream>,
        is_asked: bool,
        template: Option<String>,
        rotation: Option<Rotation>,
    ) -> Result<String, RecordError> {
        let shared = &self.0;
        let store = Store::open(&shared.settings.dir)?;
        let publication = stream.publication();
        let facts = stream.facts();
        let codec = |comes: &str, negotiated: &str| {
            if comes.is_empty() { negotiated.to_owned() } else { comes.to_owned() }
        };
        let naming = template.map_or_else(|| shared.settings.naming.clone(), Naming::Template);
        let name_facts = NameFacts {
            stream_name: publication.name.to_string(),
            media_session_id: publication.media_session_id.to_string(),
            session_id: publication.session_id.clone(),
            login: random_login(),
            audio_codec: codec(facts.audio_codec(), &publication.audio_codec),
            video_codec: codec(facts.video_codec(), &publication.video_codec),
            start_time_ms: 0,
            started: Some(shared.clock.wall()),
            end: None,
        };
        let ending = if name_facts.video_codec.eq_ignore_ascii_case("VP8") { "webm" } else { "mp4" };
        // One at a time: the watch and the publisher's own thread begin the same one, which shall have the first name. Before the lock
        // of the list: a disk that hangs must not hold up whoever asks for it.
        let _begins = shared.begins.lock();
        if let Some(name) = self.current(stream) {
            return Ok(name);
        }
        let first = store.create(&naming.name(&name_facts, ending), publication.name.as_str())?;
        let name = first.name.clone();
        let mut state = shared.state.lock();
        if state.is_stopping {
            drop(state);
            store.discard(first)?;
            return Err(RecordError::NotFound);
        }
        let plan = Plan {
            naming,
            rotation: rotation.unwrap_or(shared.settings.rotation),
            facts: name_facts,
            first_ending: ending,
        };
        let recorder =
            Recorder { shared: shared.clone(), store, stream: stream.clone(), plan, first: Some(first) };
        let stop = StopSource::new();
        let token = stop.token();
        // Here, not in the thread: what is pushed from now on is not missed.
        // Only who was asked for by name holds a source that is pulled for those who watch it.
        let join = if is_asked { Stream::subscribe } else { Stream::follow };
        let subscription = join(stream, LIVE_WAITING_MAX, None);
        let epoch = stream.epoch();
        let guard = EndGuard { shared: shared.clone(), epoch };
        let thread =
            spawn(format!("rec-{}", publication.media_session_id), STACK_PROTOCOL_BYTES, move || {
                let guard = guard;
                let result = recorder.run(&subscription, &token);
                guard.shared.ended(guard.epoch, result);
            })?;
        let running = Running {
            stream: stream.clone(),
            name: name.clone(),
            stop,
            thread: Some(thread),
            waiters: Vec::new(),
        };
        state.running.insert(epoch, running);
        drop(state);
        if stream.makes_keyframes() {
            stream.request_keyframe();
        }
        Ok(name)
    }

    fn end_one(&self, epoch: u64) -> Option<Thread> {
        let mut state = self.0.state.lock();
        let running = state.running.get_mut(&epoch)?;
        running.stop.set();
        running.thread.take()
    }

    fn stop_all(&self, limit: Duration) -> bool {
        let deadline = self.0.clock.now() + limit;
        let threads: Vec<_> = {
            let mut state = self.0.state.lock();
            state.is_stopping = true;
            state
                .running
                .values_mut()
                .filter_map(|running| {
                    running.stop.set();
                    running.thread.take()
                })
                .collect()
        };
        let left = || deadline.saturating_duration_since(self.0.clock.now());
        // Each is waited for, whatever another one did.
        let stuck = threads.into_iter().map(|thread| thread.join(left())).filter(|ended| !ended).count();
        stuck == 0
    }

    fn watch(&self, stop: &StopToken, rung: &Receiver<()>) {
        let mut prune_at = self.0.clock.now();
        loop {
            for stream in self.0.registry.list() {
                if stream.ended().is_none() && !self.0.was_recorded(stream.epoch()) {
                    let _ = self.name_of(&stream);
                }
            }
            let now = self.0.clock.now();
            self.0.answer_late(now);
            if now >= prune_at {
                prune_at = now + PRUNE_INTERVAL;
                self.0.prune();
            }
            select! {
                recv(stop.channel()) -> _ => return,
                recv(rung) -> rung => if rung.is_err() { return },
                default(LOOK_INTERVAL) => {}
            }
        }
    }
}

/// However a recorder's thread ends, by a panic too, it is no longer listed and who waits is answered.
struct EndGuard {
    shared: Arc<Shared>,
    epoch: u64,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        let is_listed = self.shared.state.lock().running.contains_key(&self.epoch);
        if is_listed {
            self.shared.ended(self.epoch, Err(RecordFailure::Write("a fault of the server".to_owned())));
        }
    }
}

impl Shared {
    /// Whether a stream is to be recorded without being asked for by REST.
    fn wants(&self, stream: &Stream) -> bool {
        let publication = stream.publication();
        match publication.protocol {
            SourceProtocol::Rtmp if self.settings.all_rtmp => true,
            SourceProtocol::RtspPull if self.settings.all_rtsp_pulls => true,
            _ => publication.record && self.settings.on_request,
        }
    }

    fn was_recorded(&self, epoch: u64) -> bool {
        self.state.lock().done.iter().any(|(done, _)| *done == epoch)
    }

    /// A recorder writes to this file now.
    fn now_writing(&self, stream: &Stream, name: &str) {
        if let Some(running) = self.state.lock().running.get_mut(&stream.epoch()) {
            name.clone_into(&mut running.name);
        }
    }

    /// A file is complete.
    fn completed(&self, stream: &Stream, completed: Completed) {
        let Completed { name, path, duration } = completed;
        let stream_name = &stream.publication().name;
        tracing::info!("{name} is complete: {:.1} s of {stream_name}", duration.as_secs_f64());
        self.metrics.recordings_total.with_label_values(&["complete"]).inc();
        self.now_writing(stream, &name);
        self.hook.run(Run { stream: stream_name.to_string(), path });
        self.prune();
    }

    /// A recorder is at its end: tells who waits.
    fn ended(&self, epoch: u64, result: Result<(), RecordFailure>) {
        let failure = result.err().map(|failure| failure.to_string());
        let mut state = self.state.lock();
        let Some(running) = state.running.remove(&epoch) else { return };
        let recorded = Recorded { name: running.name, failure: failure.clone() };
        if state.done.len() >= REMEMBERED_MAX {
            state.done.pop_front();
        }
        state.done.push_back((epoch, recorded.clone()));
        drop(state);
        if let Some(failure) = failure {
            self.metrics.recordings_total.with_label_values(&["failed"]).inc();
            tracing::error!("{} ({}): {failure}", running.stream.publication().name, recorded.name);
        }
        for waiter in running.waiters {
            (waiter.reply)(recorded.clone());
        }
    }

    /// Answers those who have waited for as long as they may.
    fn answer_late(&self, now: Instant) {
        let mut late = Vec::new();
        for running in self.state.lock().running.values_mut() {
            let name = running.name.clone();
            late.extend(running.waiters.extract_if(.., |w| now >= w.until).map(|w| (w, name.clone())));
        }
        for (waiter, name) in late {
            tracing::warn!("{name} is not complete yet");
            (waiter.reply)(Recorded { name, failure: None });
        }
    }
}

/// 26 characters of 32, as the original's files have in their names.
fn random_login() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut random = rand::rng();
    (0..26).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect()
}
