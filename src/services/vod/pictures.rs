//! Pictures of files on request: some threads that decode, what they made lately, and who waits for them.
//!
//! ```text
//! http-… ─source─► open, fstat ─take─► jobs (64) ─► file-picture-k: index, keyframe … picture, PNG ─► reply
//! ```
//!
//! A file is opened by whoever asks, and read and decoded by one of few threads, so that a thousand askers cost no more than that.
//! A picture is kept for some seconds: pages ask for the same one again.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded, select};
use sha2::{Digest as _, Sha256};

use super::demux::{Demuxer, VodError, open_below};
use super::picture::{NoPicture, picture_at};
use crate::base::clock::Clock;
use crate::base::lock::{Mutex, rank};
use crate::base::metrics::Metrics;
use crate::base::stop::{StopSource, StopToken};
use crate::base::threads::{self, STACK_CODEC_BYTES, Thread};
use crate::services::colour;
use crate::services::decode::{DecodeError, StreamDecoder};
use crate::services::png::{self, Origin, PngError, PngText};
use crate::services::scale::{Scale, ScaleError};

/// Requests that wait for a thread; more are refused as busy.
const QUEUE: usize = 64;
/// How long an answer is waited for beyond the deadline, by which it should have come.
const GRACE: Duration = Duration::from_secs(1);
/// How long a picture is kept that nobody asks for.
const KEPT: Duration = Duration::from_secs(20);
/// Pictures kept, and their bytes in all.
const KEPT_MAX: usize = 64;
const KEPT_BYTES_MAX: usize = 32 << 20;

/// Where files are, and what their pictures may cost.
#[derive(Clone, Debug)]
pub struct FilePictureSettings {
    /// The folder of files (`media_dir`).
    pub media_dir: PathBuf,
    /// Longest wait for a picture (`snapshot_taking_interval_ms`).
    pub limit: Duration,
    /// Threads that decode (`snapshot_decoders`).
    pub threads: usize,
    /// Most pixels of a coded picture (`pixels_max`).
    pub pixels_max: u64,
}

/// Why there is no picture; the texts are for clients.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FilePictureError {
    /// There is no such file, or it is outside of the folder: the two are not told apart.
    #[error("File not found")]
    NotFound,
    /// It is no MP4 file, or one that is damaged.
    #[error("File has wrong format")]
    Format,
    /// The system does not read it.
    #[error("Failed to read file")]
    Read,
    /// There is no H.264 in it.
    #[error("File has no video")]
    NoVideo,
    /// It is not as long as that.
    #[error("File ends at {:.3} s", .0.as_secs_f64())]
    PastEnd(Duration),
    /// The picture cannot be scaled so.
    #[error("Snapshot taking error: {0}")]
    Scale(#[source] ScaleError),
    /// More is asked for than the server can do.
    #[error("Snapshot taking error: server is busy")]
    Busy,
    /// No picture in time.
    #[error("Snapshot response timeout")]
    Timeout,
    /// The picture cannot be decoded.
    #[error("Snapshot taking error: {0}")]
    Decode(#[source] DecodeError),
    /// The picture cannot be written.
    #[error("Snapshot taking error: {0}")]
    Encode(#[source] Arc<PngError>),
    /// A fault of ours; the log tells which.
    #[error("Snapshot taking error")]
    Internal,
    /// The server stops.
    #[error("Snapshot taking error: server stops")]
    Stopping,
}

impl FilePictureError {
    /// `result` in the counts.
    fn label(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Format => "format",
            Self::Read => "read",
            Self::NoVideo => "no_video",
            Self::PastEnd(_) => "past_end",
            Self::Scale(_) => "scale",
            Self::Busy => "busy",
            Self::Timeout => "timeout",
            Self::Decode(_) => "decode",
            Self::Encode(_) => "encode",
            Self::Internal => "internal",
            Self::Stopping => "stopping",
        }
    }
}

impl From<VodError> for FilePictureError {
    fn from(error: VodError) -> Self {
        match error {
            VodError::NotFound => Self::NotFound,
            VodError::Format(_) => Self::Format,
            VodError::Read(_) => Self::Read,
        }
    }
}

impl From<NoPicture> for FilePictureError {
    fn from(error: NoPicture) -> Self {
        match error {
            NoPicture::NoVideo => Self::NoVideo,
            NoPicture::PastEnd(end) => Self::PastEnd(end),
            NoPicture::File(error) => error.into(),
            NoPicture::Decode(DecodeError::OutOfTime) => Self::Timeout,
            NoPicture::Decode(error) => Self::Decode(error),
        }
    }
}

/// A picture of a file.
#[derive(Debug)]
pub struct FilePicture {
    /// The picture as PNG.
    pub png: Bytes,
    /// Pixels in a row of it.
    pub width: u32,
    /// Rows of it.
    pub height: u32,
    /// From which moment on it is shown, from the beginning of the file.
    pub at: Duration,
}

/// A file whose picture is wanted, open.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    name: String,
    version: [u8; 8],
    modified: SystemTime,
}

impl FileSource {
    /// Names this file as it is now: another one under its name, and the same one when it was written to, have another version.
    #[must_use]
    pub fn version(&self) -> u64 {
        u64::from_be_bytes(self.version)
    }

    /// When it was written to last.
    #[must_use]
    pub fn modified(&self) -> SystemTime {
        self.modified
    }
}

type Outcome = Result<Arc<FilePicture>, FilePictureError>;
type Key = (u64, Duration, Option<Scale>);

/// A picture that somebody waits for.
struct Job {
    source: FileSource,
    at: Duration,
    scale: Option<Scale>,
    deadline: Instant,
    reply: Sender<Outcome>,
}

/// Pictures made lately.
#[derive(Default)]
struct Made(HashMap<Key, (Arc<FilePicture>, Instant)>);

impl Made {
    fn get(&mut self, key: &Key, now: Instant) -> Option<Arc<FilePicture>> {
        let (picture, asked) = self.0.get_mut(key)?;
        *asked = now;
        Some(picture.clone())
    }

    /// Keeps a picture, and forgets those that nobody asks for any more, and the oldest where there are too many.
    fn keep(&mut self, key: Key, picture: Arc<FilePicture>, now: Instant) {
        self.0.insert(key, (picture, now));
        self.forget(now);
        let bytes = |made: &Self| made.0.values().map(|(picture, _)| picture.png.len()).sum::<usize>();
        while self.0.len() > KEPT_MAX || bytes(self) > KEPT_BYTES_MAX {
            let oldest = self.0.iter().min_by_key(|(_, (_, asked))| *asked).map(|(key, _)| *key);
            let Some(oldest) = oldest else { return };
            self.0.remove(&oldest);
        }
    }

    fn forget(&mut self, now: Instant) {
        self.0.retain(|_, (_, asked)| *asked + KEPT > now);
    }
}

struct Shared {
    settings: FilePictureSettings,
    clock: Clock,
    metrics: Metrics,
    jobs: Sender<Job>,
    made: Mutex<Made, { rank::LEAF }>,
    stop: StopToken,
}

/// Pictures of files for those who ask; clones share them.
#[derive(Clone)]
pub struct FilePictures(Arc<Shared>);

impl std::fmt::Debug for FilePictures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FilePictures").finish_non_exhaustive()
    }
}

/// The running service. Dropping it lets its threads end.
#[derive(Debug)]
pub struct FilePictureService {
    handle: FilePictures,
    stop: StopSource,
    threads: Vec<Thread>,
}

impl FilePictureService {
    /// Starts the threads; nothing is read before somebody asks.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(settings: FilePictureSettings, clock: Clock, metrics: Metrics) -> std::io::Result<Self> {
        let stop = StopSource::new();
        let (jobs, waiting) = bounded(QUEUE);
        let number = settings.threads.max(1);
        let shared =
            Arc::new(Shared { settings, clock, metrics, jobs, made: Mutex::default(), stop: stop.token() });
        let mut service = Self { handle: FilePictures(shared.clone()), stop, threads: Vec::new() };
        for k in 0..number {
            let (shared, waiting) = (shared.clone(), waiting.clone());
            let body = move || shared.work(&waiting);
            service.threads.push(threads::spawn(format!("file-picture-{k}"), STACK_CODEC_BYTES, body)?);
        }
        Ok(service)
    }

    /// For those who ask.
    #[must_use]
    pub fn handle(&self) -> FilePictures {
        self.handle.clone()
    }

    /// Waits up to `limit` for each thread; returns whether all ended.
    pub fn stop(mut self, limit: Duration) -> bool {
        self.stop.set();
        let threads = std::mem::take(&mut self.threads);
        threads.into_iter().map(|thread| thread.join(limit)).filter(|ended| !ended).count() == 0
    }
}

impl FilePictures {
    /// Opens a file of the folder; `name` may have folders in it.
    ///
    /// # Errors
    /// [`FilePictureError::NotFound`], whatever the reason.
    pub fn source(&self, name: &str) -> Result<FileSource, FilePictureError> {
        let opened = open_below(&self.0.settings.media_dir, name).map_err(FilePictureError::from);
        opened.and_then(|file| source_of(file, name)).inspect_err(|error| self.0.count(error.label()))
    }

    /// The picture that a file shows at a moment. Waits for it, at most the limit of the settings.
    ///
    /// # Errors
    /// See [`FilePictureError`].
    pub fn take(&self, source: FileSource, at: Duration, scale: Option<Scale>) -> Outcome {
        let outcome = self.ask(source, at, scale);
        self.0.count(outcome.as_ref().map_or_else(FilePictureError::label, |_| "ok"));
        outcome
    }

    fn ask(&self, source: FileSource, at: Duration, scale: Option<Scale>) -> Outcome {
        let shared = &self.0;
        if let Some(Err(error)) = scale.map(|scale| scale.check()) {
            return Err(FilePictureError::Scale(error));
        }
        let limit = shared.settings.limit;
        let (reply, answer) = bounded(1);
        let job = Job { source, at, scale, deadline: shared.clock.now() + limit, reply };
        if shared.jobs.try_send(job).is_err() {
            return Err(shared.stopping().unwrap_or(FilePictureError::Busy));
        }
        match answer.recv_timeout(limit.saturating_add(GRACE)) {
            Ok(outcome) => outcome,
            Err(_) => Err(shared.stopping().unwrap_or(FilePictureError::Timeout)),
        }
    }
}

fn source_of(file: File, name: &str) -> Result<FileSource, FilePictureError> {
    let status = file.metadata().map_err(|_| FilePictureError::Read)?;
    let modified = status.modified().map_err(|_| FilePictureError::Read)?;
    let mut digest = Sha256::new();
    for number in [status.dev(), status.ino(), status.size()] {
        digest.update(number.to_be_bytes());
    }
    for number in [status.mtime(), status.mtime_nsec(), status.ctime(), status.ctime_nsec()] {
        digest.update(number.to_be_bytes());
    }
    let digest = digest.finalize();
    let version = digest.first_chunk::<8>().copied().unwrap_or_default();
    Ok(FileSource { file, name: name.to_owned(), version, modified })
}

impl Shared {
    fn count(&self, result: &str) {
        self.metrics.file_pictures_total.with_label_values(&[result]).inc();
    }

    fn stopping(&self) -> Option<FilePictureError> {
        self.stop.is_set().then_some(FilePictureError::Stopping)
    }

    /// The body of a thread. A job that panics costs itself, not the thread.
    fn work(&self, waiting: &Receiver<Job>) {
        loop {
            let job = select! {
                recv(waiting) -> job => job,
                recv(self.stop.channel()) -> _ => return,
                default(KEPT) => {
                    self.made.lock().forget(self.clock.now());
                    continue;
                }
            };
            let Ok(Job { source, at, scale, deadline, reply }) = job else { return };
            let outcome = threads::caught("file picture", || self.make(source, at, scale, deadline));
            let _ = reply.try_send(outcome.unwrap_or(Err(FilePictureError::Internal)));
        }
    }

    fn make(&self, source: FileSource, at: Duration, scale: Option<Scale>, deadline: Instant) -> Outcome {
        let (now, key) = (self.clock.now(), (source.version(), at, scale));
        if now >= deadline {
            return Err(FilePictureError::Timeout);
        }
        if let Some(made) = self.made.lock().get(&key, now) {
            return Ok(made);
        }
        let FileSource { file, name, .. } = source;
        let failed = |error: NoPicture| {
            tracing::debug!("no picture of {name} at {at:?}: {error:?}");
            FilePictureError::from(error)
        };
        let mut demuxer =
            Demuxer::open(file, self.settings.pixels_max).map_err(|error| failed(error.into()))?;
        let mut decoder = StreamDecoder::new(self.settings.pixels_max, self.metrics.clone());
        let goes_on = || !self.stop.is_set() && self.clock.now() < deadline;
        self.metrics.decode_runs_total.inc();
        let decoded = picture_at(&mut demuxer, &mut decoder, at, now, &goes_on);
        let (picture, at) = decoded.map_err(failed)?;
        let mut rgb = colour::to_rgb(&picture);
        if let Some(scale) = scale {
            rgb = scale.apply(rgb).map_err(FilePictureError::Scale)?;
        }
        self.metrics.pictures_encoded_total.inc();
        let text = PngText {
            stream_name: &name,
            origin: Origin::File { at },
            sample_aspect_ratio: picture.params.display_sample_aspect_ratio(),
        };
        let png = png::encode(&rgb, &text).map_err(|error| FilePictureError::Encode(Arc::new(error)))?;
        let made = Arc::new(FilePicture { png: png.into(), width: rgb.width, height: rgb.height, at });
        self.made.lock().keep(key, made.clone(), self.clock.now());
        Ok(made)
    }
}
