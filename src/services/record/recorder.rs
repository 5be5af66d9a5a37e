//! One recorded stream: the body of its thread.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{RecvTimeoutError, select};

use super::durable::Durable;
use super::mp4_file::{self, Mp4File, WriteError};
use super::name::{EndFacts, NameFacts, Naming};
use super::sample::{AudioSample, VideoSample};
use super::store::{Store, Unfinished};
use super::timeline::Timeline;
use super::webm_file::{self, WebmFile};
use super::{Completed, Rotation, Shared};
use crate::base::stop::StopToken;
use crate::hub::{Stream, Subscription};
use crate::media::track::{AudioCodec, VideoCodec};
use crate::media::unit::MediaUnit;
use crate::services::mp4::Mp4Error;

/// Media that waits at most before it is written: with the time of writing, less than a second is lost by a crash.
const FLUSH_AFTER: Duration = Duration::from_millis(700);
/// From one time that a file is forced onto the disk to the next.
const FORCE_INTERVAL: Duration = Duration::from_secs(1);
/// For so long the first units are looked at before the first is placed.
const ALIGN_FOR: Duration = Duration::from_millis(600);
/// And no more than so many.
const ALIGN_UNITS_MAX: usize = 400;
/// From one look at the free space to the next.
const SPACE_INTERVAL: Duration = Duration::from_secs(2);
/// Times that the queue may run full, in a minute, before the disk counts as too slow.
const LAGS_MAX: usize = 3;
const LAGS_WITHIN: Duration = Duration::from_secs(60);

/// Why a recording ended before its stream.
#[derive(Debug, thiserror::Error)]
pub enum RecordFailure {
    /// The system does not take what is written.
    #[error("recording ended: {0}")]
    Write(String),
    /// The floor of free space is reached.
    #[error("recording ended: less than {0} bytes are free")]
    Full(u64),
    /// The disk does not keep up.
    #[error("recording ended: the disk is too slow")]
    Slow,
}

/// How one stream is recorded.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) naming: Naming,
    pub(super) rotation: Rotation,
    pub(super) facts: NameFacts,
    /// The first file was made already, so that its name can be told.
    pub(super) first_ending: &'static str,
}

/// The body of the thread.
pub(super) struct Recorder {
    pub(super) shared: Arc<Shared>,
    pub(super) store: Store,
    pub(super) stream: Arc<Stream>,
    pub(super) plan: Plan,
    /// The file whose name was told.
    pub(super) first: Option<Unfinished>,
}

/// One container.
#[derive(Debug)]
enum Writer {
    Mp4(Box<Mp4File>),
    Webm(Box<WebmFile>),
}

/// A file that is being written.
#[derive(Debug)]
struct Part {
    unfinished: Unfinished,
    writer: Writer,
    begun: Instant,
    facts: NameFacts,
    /// Sound that has no place in it was told of.
    told: bool,
    durable: Arc<Durable>,
    /// When it is to be forced onto the disk next.
    force_at: Instant,
}

enum Sample {
    Video(VideoSample),
    Audio(AudioSample),
}

impl Recorder {
    /// Until the stream ends or `stop` is set; every file is finished then. `completed` is called for each.
    pub(super) fn run(mut self, subscription: &Subscription, stop: &StopToken) -> Result<(), RecordFailure> {
        let mut timeline = Timeline::new(self.stream.facts().sound_offset_ns);
        let mut part = None;
        let result = self.record(&mut timeline, &mut part, subscription, stop);
        let failure = match (result, part) {
            (result, Some(part)) => result.and(self.complete(part)),
            (result, None) => result,
        };
        if let Some(first) = self.first.take() {
            // Nothing came: there is no file to be named.
            self.discard(first);
            self.shared.now_writing(&self.stream, "");
        }
        failure
    }

    fn record(
        &mut self,
        timeline: &mut Timeline,
        part: &mut Option<Part>,
        subscription: &Subscription,
        stop: &StopToken,
    ) -> Result<(), RecordFailure> {
        let clock = self.shared.clock.clone();
        let mut early: Vec<MediaUnit> = subscription.backlog_units().collect();
        let mut begin_at = early.first().map(|_| clock.now() + ALIGN_FOR / 4);
        let mut is_begun = false;
        let (mut missed, mut lags) = (0, VecDeque::new());
        let mut space_at = clock.now();
        loop {
            let now = clock.now();
            let wait =
                begin_at.filter(|_| !is_begun).map_or(FLUSH_AFTER, |at| at.saturating_duration_since(now));
            let unit = select! {
                recv(stop.channel()) -> _ => Err(RecvTimeoutError::Disconnected),
                recv(subscription.live.receiver()) -> unit => unit.map_err(|_| RecvTimeoutError::Disconnected),
                default(wait) => Err(RecvTimeoutError::Timeout),
            };
            let is_over = matches!(unit, Err(RecvTimeoutError::Disconnected));
            let now = clock.now();
            if !is_begun {
                if unit.is_ok() && begin_at.is_none() {
                    begin_at = Some(now + ALIGN_FOR);
                }
                early.extend(unit);
                if is_over {
                    early.extend(subscription.live.receiver().try_iter());
                }
                if is_over || early.len() >= ALIGN_UNITS_MAX || begin_at.is_some_and(|at| now >= at) {
                    timeline.align(&early);
                    is_begun = !early.is_empty();
                    for unit in std::mem::take(&mut early) {
                        self.take(timeline, part, &unit)?;
                    }
                }
            } else if let Ok(unit) = unit {
                self.take(timeline, part, &unit)?;
            } else if let Some(part) = part {
                // A source that stands still: what there is of it is written.
                part.flush().map_err(failed)?;
                self.force(part)?;
            }
            if is_over {
                // What came before the stop is part of it.
                for unit in subscription.live.receiver().try_iter() {
                    self.take(timeline, part, &unit)?;
                }
                return Ok(());
            }
            if subscription.live.missed() > missed {
                missed = subscription.live.missed();
                if lags
                    .back()
                    .is_none_or(|last| now.saturating_duration_since(*last) > Duration::from_secs(1))
                {
                    lags.push_back(now);
                    tracing::warn!(
                        "{}: the disk is slow, pictures are missing",
                        self.stream.publication().name
                    );
                }
                lags.retain(|at| now.saturating_duration_since(*at) < LAGS_WITHIN);
                if lags.len() >= LAGS_MAX {
                    return Err(RecordFailure::Slow);
                }
            }
            if now >= space_at {
                space_at = now + SPACE_INTERVAL;
                timeline.know_sound_offset(self.stream.facts().sound_offset_ns);
                let floor = self.shared.settings.free_min_bytes;
                if floor > 0 && self.store.free_bytes().is_ok_and(|free| free < floor) {
                    return Err(RecordFailure::Full(floor));
                }
            }
        }
    }

    /// Takes the next unit.
    fn take(
        &mut self,
        timeline: &mut Timeline,
        part: &mut Option<Part>,
        unit: &MediaUnit,
    ) -> Result<(), RecordFailure> {
        let sample = match unit {
            MediaUnit::Video(unit) => Sample::Video(timeline.video(unit)),
            MediaUnit::Audio(frame) => match timeline.audio(frame) {
                Some(sample) => Sample::Audio(sample),
                None => return Ok(()),
            },
        };
        if part.as_ref().is_some_and(|part| self.is_full(part, &sample))
            && let Some(full) = part.take()
        {
            self.complete(full)?;
        }
        if part.is_none() {
            *part = self.open(&sample).map_err(|error| RecordFailure::Write(error.to_string()))?;
        }
        // Without a part: it cannot begin here.
        let Some(open) = part else { return Ok(()) };
        match open.push(&sample) {
            Ok(()) => {}
            Err(WriteError::File(error)) => return Err(failed(error)),
            // A change that does not fit into this file: another one.
            Err(WriteError::NewFile) => {
                if let Some(full) = part.take() {
                    self.complete(full)?;
                }
                *part = self.open(&sample).map_err(|error| RecordFailure::Write(error.to_string()))?;
                if let Some(part) = part {
                    match part.push(&sample) {
                        Ok(()) => {}
                        Err(WriteError::File(error)) => return Err(failed(error)),
                        Err(WriteError::NewFile) => {
                            return Err(RecordFailure::Write("the stream cannot be stored".to_owned()));
                        }
                    }
                }
            }
        }
        if part.as_ref().is_some_and(|part| part.waiting() >= FLUSH_AFTER)
            && let Some(part) = part
        {
            part.flush().map_err(failed)?;
            self.force(part)?;
        }
        Ok(())
    }

    /// Asks for what was written to be forced onto the disk, when it is time, and hears what came of it before.
    fn force(&self, part: &mut Part) -> Result<(), RecordFailure> {
        if let Some(failure) = part.durable.failure() {
            return Err(RecordFailure::Write(failure.to_owned()));
        }
        let now = self.shared.clock.now();
        if now >= part.force_at {
            part.force_at = now + FORCE_INTERVAL;
            self.shared.disk.ask(&part.durable);
        }
        Ok(())
    }

    /// Whether the next sample begins another file.
    fn is_full(&self, part: &Part, sample: &Sample) -> bool {
        let has_video = self.stream.facts().video.is_some();
        let can_begin = match sample {
            Sample::Video(sample) => sample.key,
            Sample::Audio(_) => !has_video,
        };
        can_begin
            && match self.plan.rotation {
                Rotation::Never => false,
                Rotation::After(time) => {
                    self.shared.clock.now().saturating_duration_since(part.begun) >= time
                }
                Rotation::Bytes(bytes) => part.bytes() >= bytes,
            }
    }

    /// Opens the file that begins with this sample; `None` where none can begin with it.
    fn open(&mut self, sample: &Sample) -> io::Result<Option<Part>> {
        let webm = match sample {
            Sample::Video(sample) if sample.key => sample.params.codec == VideoCodec::Vp8,
            Sample::Video(_) => return Ok(None),
            // A stream without pictures, or whose pictures are not there yet.
            Sample::Audio(sample) => {
                if !is_kept(&sample.params.codec) {
                    return Ok(None);
                }
                let facts = self.stream.facts();
                facts.video.is_some_and(|params| params.codec == VideoCodec::Vp8)
            }
        };
        let ending = if webm { "webm" } else { "mp4" };
        let facts = self.facts(sample);
        let first = self.first.take();
        let unfinished = match first {
            Some(first) if self.plan.first_ending == ending => first,
            other => {
                let made = self.create(&facts, ending)?;
                if let Some(wrong) = other {
                    self.discard(wrong);
                }
                made
            }
        };
        tracing::info!("{} is recorded as {}", self.stream.publication().name, unfinished.name);
        self.shared.now_writing(&self.stream, &unfinished.name);
        let file = unfinished.file.try_clone()?;
        let created = since_1970(self.shared.clock.wall());
        let writer = if webm {
            Writer::Webm(Box::new(WebmFile::new(file, created)))
        } else {
            Writer::Mp4(Box::new(Mp4File::new(file, created)))
        };
        let durable = Durable::new(unfinished.file.try_clone()?, self.store.folder()?);
        let begun = self.shared.clock.now();
        Ok(Some(Part { unfinished, writer, begun, facts, told: false, durable, force_at: begun }))
    }

    fn create(&self, facts: &NameFacts, ending: &str) -> io::Result<Unfinished> {
        let name = self.plan.naming.name(facts, ending);
        self.store.create(&name, self.stream.publication().name.as_str())
    }

    /// What is known of a file at its beginning.
    fn facts(&self, sample: &Sample) -> NameFacts {
        let facts = self.stream.facts();
        let start_time_ms = match sample {
            Sample::Video(sample) => sample.dts / 90,
            Sample::Audio(sample) => sample.dts * 1000 / i64::from(sample.params.sample_rate.get()),
        };
        NameFacts {
            audio_codec: facts.audio_codec().to_owned(),
            video_codec: facts.video_codec().to_owned(),
            start_time_ms,
            started: Some(self.shared.clock.wall()),
            ..self.plan.facts.clone()
        }
    }

    /// Finishes a file and tells of it.
    fn complete(&self, part: Part) -> Result<(), RecordFailure> {
        let Part { unfinished, writer, facts, .. } = part;
        let file = unfinished.file.try_clone();
        let name = unfinished.name.clone();
        let finished = match writer {
            Writer::Mp4(mp4) => mp4.finish(),
            Writer::Webm(webm) => webm.finish(),
        };
        let (duration, failure) = match finished {
            Ok(duration) => (Some(duration), None),
            Err(error) => {
                // What could be written before is worth as much as after a crash.
                let rest = file.ok().and_then(|file| finish_by_name(&name, &file).ok());
                (rest, Some(RecordFailure::Write(error.to_string())))
            }
        };
        let Some(duration) = duration else {
            tracing::error!("{name} cannot be finished now: it will be looked at when the server starts");
            return failure.map_or(Ok(()), Err);
        };
        let ended = self.shared.clock.wall();
        let last_name = (!self.plan.naming.is_known_at_start()).then(|| {
            let ending = name.rsplit_once('.').map_or("mp4", |(_, ending)| ending);
            self.plan.naming.name(&NameFacts { end: Some(EndFacts { duration, ended }), ..facts }, ending)
        });
        match self.store.complete(unfinished, last_name.as_deref()) {
            Ok(name) => {
                let path = self.store.path_of(&name);
                self.shared.completed(&self.stream, Completed { name, path, duration });
                failure.map_or(Ok(()), Err)
            }
            Err(error) => Err(RecordFailure::Write(error.to_string())),
        }
    }

    fn discard(&self, empty: Unfinished) {
        let name = empty.name.clone();
        if let Err(error) = self.store.discard(empty) {
            tracing::warn!("empty recording {name} cannot be removed: {error}");
        }
    }
}

/// Finishes what was written of a file, by its ending.
pub(super) fn finish_by_name(name: &str, file: &std::fs::File) -> Result<Duration, Mp4Error> {
    if name.ends_with(".webm") { webm_file::finish(file) } else { mp4_file::finish(file) }
}

/// Whether sound of this codec has its place in a recording.
fn is_kept(codec: &AudioCodec) -> bool {
    matches!(codec, AudioCodec::Opus | AudioCodec::Aac { .. })
}

pub(super) fn since_1970(at: SystemTime) -> Duration {
    at.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn failed(error: impl std::fmt::Display) -> RecordFailure {
    RecordFailure::Write(error.to_string())
}

impl Part {
    fn push(&mut self, sample: &Sample) -> Result<(), WriteError> {
        match (sample, &mut self.writer) {
            (Sample::Video(sample), Writer::Mp4(mp4)) => mp4.video(sample),
            (Sample::Video(sample), Writer::Webm(webm)) => webm.video(sample),
            (Sample::Audio(sample), writer) => {
                let fits = match writer {
                    Writer::Mp4(_) => is_kept(&sample.params.codec),
                    Writer::Webm(_) => sample.params.codec == AudioCodec::Opus,
                };
                if !fits {
                    if !std::mem::replace(&mut self.told, true) {
                        let (codec, name) = (sample.params.codec.name(), &self.unfinished.name);
                        tracing::warn!(
                            "{name}: sound ({codec}) has no place in this container and is left out"
                        );
                    }
                    return Ok(());
                }
                match writer {
                    Writer::Mp4(mp4) => mp4.audio(sample),
                    Writer::Webm(webm) => webm.audio(sample),
                }
            }
        }
    }

    fn flush(&mut self) -> Result<(), WriteError> {
        match &mut self.writer {
            Writer::Mp4(mp4) => mp4.flush(),
            Writer::Webm(webm) => webm.flush(),
        }
    }

    fn waiting(&self) -> Duration {
        match &self.writer {
            Writer::Mp4(mp4) => mp4.waiting(),
            Writer::Webm(webm) => webm.waiting(),
        }
    }

    fn bytes(&self) -> u64 {
        match &self.writer {
            Writer::Mp4(mp4) => mp4.bytes(),
            Writer::Webm(webm) => webm.bytes(),
        }
    }
}
