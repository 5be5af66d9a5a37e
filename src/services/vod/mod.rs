//! Files as streams: read as units, sent in time, for one viewer or for all.
//!
//! ```text
//! playStream vod://…       ─watch─┐
//! playStream vod-live://…  ─watch─┼► Vods ─► thread vod-n: Demuxer ─► Pacer ─► Publisher ─► hub
//! REST /vod/startup        ─start─┘
//!
//! GET /vod/<file>.png ─take─► FilePictures ─► threads file-picture-k: Demuxer ─► decoder ─► PNG
//! ```
//!
//! A file of `vod-live://` is one publication however many watch it; each viewer of `vod://` has one of its own, under a name
//! that nobody else can guess. What belongs here: which file, when its units are due, when it ends. How MP4 is read belongs to
//! [`super::mp4`].

mod book;
mod demux;
mod pacer;
mod picture;
#[cfg(test)]
mod picture_tests;
mod pictures;
mod player;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use self::book::{Book, Entry};
pub use self::demux::{Demuxer, Due, VodError, open_below};
pub(crate) use self::picture::picture_at;
pub use self::pictures::{
    FilePicture, FilePictureError, FilePictureService, FilePictureSettings, FilePictures, FileSource,
};
use self::player::Player;
use crate::base::clock::Clock;
use crate::base::id::{MediaSessionId, StreamName, random_id};
use crate::base::lock::{Mutex, rank};
use crate::base::queue::queue;
use crate::base::stop::StopSource;
use crate::base::threads::{self, STACK_PROTOCOL_BYTES};
use crate::hub::{EndReason, PublishError, Registry, SourceProtocol, Stream};

/// Where files are, and how long they are played.
#[derive(Clone, Debug)]
pub struct VodSettings {
    /// The folder of files (`media_dir`).
    pub media_dir: PathBuf,
    /// Every file of `vod-live://` begins anew at its end (`vod_live_loop`).
    pub live_loop: bool,
    /// Without watchers for so long, a file of `vod-live://` that no operator started ends (`vod_stream_timeout`).
    pub idle: Duration,
    /// Most files played at once.
    pub files_max: usize,
    /// Largest picture that is taken, in pixels.
    pub pixels_max: u64,
}

/// Why a file is not played; the texts are those that clients know (protocol document, section 6 and appendix B).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VodRefused {
    /// There is no such file, or it is outside of the folder: the two are not told apart.
    #[error("File not found")]
    NotFound,
    /// It holds nothing that can be played.
    #[error("File has wrong format")]
    Format,
    /// The system does not read it.
    #[error("Failed to read file")]
    Read,
    /// The text names no file, or a stream name cannot be used.
    #[error("Bad URI")]
    BadUri,
    /// The file is shown already, or somebody else publishes under the name.
    #[error("Stream name is already in use")]
    NameInUse,
    /// As many are played as may be, or the system refuses a thread.
    #[error("Failed to add stream to proxy")]
    TooMany,
    /// It was ended before it began; or there is no such one.
    #[error("Stream not found")]
    Gone,
    /// The server stops.
    #[error("Requested stream shutdown")]
    Stopping,
}

impl From<VodError> for VodRefused {
    fn from(error: VodError) -> Self {
        match error {
            VodError::NotFound => Self::NotFound,
            VodError::Format(_) => Self::Format,
            VodError::Read(_) => Self::Read,
        }
    }
}

impl From<PublishError> for VodRefused {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::NameInUse | PublishError::SessionInUse | PublishError::Address => Self::NameInUse,
            PublishError::TooMany => Self::TooMany,
        }
    }
}

/// How a file is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VodKind {
    /// `vod://`: for one viewer, from its beginning.
    Personal,
    /// `vod-live://`: one for all.
    Live,
}

impl VodKind {
    /// Takes a name apart into its kind and the file's name; `None` when it names no file.
    #[must_use]
    pub fn of(uri: &str) -> Option<(Self, &str)> {
        let (scheme, file) = uri.split_once("://")?;
        [(Self::Personal, "vod"), (Self::Live, "vod-live")]
            .into_iter()
            .find(|(_, known)| scheme.eq_ignore_ascii_case(known))
            .map(|(kind, _)| (kind, file))
    }

    /// Whether a stream is a file that is played to one viewer.
    #[must_use]
    pub fn is_personal(stream: &Stream) -> bool {
        let publication = stream.publication();
        publication.protocol == SourceProtocol::Vod
            && matches!(Self::of(publication.name.as_str()), Some((Self::Personal, _)))
    }

    /// The scheme with what follows it, as names are kept.
    fn prefix(self) -> &'static str {
        match self {
            Self::Personal => "vod://",
            Self::Live => "vod-live://",
        }
    }
}

/// A file that is played, at one moment, for lists.
#[derive(Clone, Debug)]
pub struct VodFacts {
    /// What was asked for: `vod-live://film.mp4`.
    pub uri: String,
    /// The stream's name.
    pub name: StreamName,
    /// The stream's media session.
    pub media_session_id: MediaSessionId,
    /// Its stream is published; before that the file is being opened.
    pub is_up: bool,
    /// Pictures are in it.
    pub has_video: bool,
    /// Sound is in it.
    pub has_audio: bool,
    /// It begins anew at its end.
    pub loops: bool,
}

/// Called once with the stream, or with the reason why there is none. It must not wait.
type Ready = Box<dyn FnOnce(Result<Arc<Stream>, VodRefused>) + Send>;

/// How long an operator waits for a file to be opened.
const OPEN_LIMIT: Duration = Duration::from_secs(30);
/// How long the end of one is waited for.
const END_LIMIT: Duration = Duration::from_secs(2);

/// Numbers of files played; their threads are named by them.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// All files that are played; clones share them.
#[derive(Clone, Debug)]
pub struct Vods(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: VodSettings,
    registry: Registry,
    clock: Clock,
    book: Mutex<Book, { rank::DOOR }>,
    stop: Mutex<StopSource, { rank::LEAF }>,
}

/// A file that somebody watches: held as long as it is watched, or waited for. A personal one ends when this is dropped.
#[must_use]
pub struct VodWatching {
    vods: Vods,
    number: u64,
}

impl fmt::Debug for VodWatching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VodWatching").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Drop for VodWatching {
    fn drop(&mut self) {
        let inner = &self.vods.0;
        inner.book.lock().leave(self.number, inner.clock.now());
    }
}

/// What a caller wants of a file.
struct Wish {
    kind: VodKind,
    file: String,
    name: Option<StreamName>,
    loops: bool,
    /// Started by an operator: it does not end for want of viewers.
    kept: bool,
    ready: Ready,
}

impl Vods {
    /// Nothing is played yet.
    #[must_use]
    pub fn new(settings: VodSettings, registry: Registry, clock: Clock) -> Self {
        let book = Mutex::new(Book::new());
        let stop = Mutex::new(StopSource::new());
        Self(Arc::new(Inner { settings, registry, clock, book, stop }))
    }

    /// Begins to play a file for a viewer, or joins the one of `vod-live://` that is played. `ready` is called once: with the
    /// stream as soon as its first unit is there, or with the reason why it has none; possibly before this returns.
    ///
    /// # Errors
    /// When there is nothing to wait for; `ready` is then not called.
    pub fn watch(
        &self,
        uri: &str,
        ready: impl FnOnce(Result<Arc<Stream>, VodRefused>) + Send + 'static,
    ) -> Result<VodWatching, VodRefused> {
        let (kind, file) = VodKind::of(uri).ok_or(VodRefused::BadUri)?;
        let loops = kind == VodKind::Live && self.0.settings.live_loop;
        let ready: Ready = Box::new(ready);
        let number =
            self.begin(Wish { kind, file: file.to_owned(), name: None, loops, kept: false, ready })?;
        Ok(VodWatching { vods: self.clone(), number })
    }

    /// Publishes a file of `vod-live://` until its end or until it is told otherwise, under `local_name` or its address, and
    /// waits until its first unit is there.
    ///
    /// # Errors
    /// When it is played already, or cannot be; nothing is left of it then.
    pub fn start(&self, uri: &str, local_name: Option<&str>, loops: Option<bool>) -> Result<(), VodRefused> {
        let (kind, file) =
            VodKind::of(uri).filter(|(kind, _)| *kind == VodKind::Live).ok_or(VodRefused::BadUri)?;
        // Names with a scheme are ours to give.
        let name = local_name
            .map(|name| StreamName::new(name).ok().filter(|name| !name.as_str().contains("://")))
            .map(|name| name.ok_or(VodRefused::BadUri))
            .transpose()?;
        let (answer, answered) = queue(1, None);
        let ready: Ready = Box::new(move |result| {
            let _ = answer.offer(result);
        });
        let loops = loops.unwrap_or(self.0.settings.live_loop);
        self.begin(Wish { kind, file: file.to_owned(), name, loops, kept: true, ready })?;
        // The thread answers everybody who waits; the limit is for a disk that does not.
        answered.recv_timeout(OPEN_LIMIT).unwrap_or(Err(VodRefused::Read)).map(|_| ())
    }

    /// The folder of files, for whoever lists it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0.settings.media_dir
    }

    /// All files that are played, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<VodFacts> {
        self.0.book.lock().facts()
    }

    /// Ends the one that publishes under this media session, and waits for its end.
    ///
    /// # Errors
    /// When there is none.
    pub fn terminate(&self, media_session_id: &MediaSessionId) -> Result<(), VodRefused> {
        let thread = self.0.book.lock().ask_to_end(media_session_id, EndReason::Terminated);
        if let Some(thread) = thread.ok_or(VodRefused::Gone)? {
            thread.join(END_LIMIT);
        }
        Ok(())
    }

    /// Ends all of them, and waits up to `limit`; returns whether all ended.
    pub fn stop(&self, limit: Duration) -> bool {
        let deadline = self.0.clock.now() + limit;
        let threads = self.0.book.lock().close();
        self.0.stop.lock().set();
        let left = || deadline.saturating_duration_since(self.0.clock.now());
        threads.into_iter().map(|thread| thread.join(left())).filter(|ended| !ended).count() == 0
    }

    /// Joins what is played, or enters a file into the book and starts its thread.
    fn begin(&self, wish: Wish) -> Result<u64, VodRefused> {
        let inner = &self.0;
        let uri = format!("{}{}", wish.kind.prefix(), wish.file);
        let own_name = match wish.kind {
            // Nobody else comes upon it: neither by accident nor by guessing.
            VodKind::Personal => StreamName::new(&format!("{uri}#{}", random_id())),
            VodKind::Live => StreamName::new(&uri),
        };
        // What cannot be a name names no file.
        let own_name = own_name.map_err(|_| VodRefused::NotFound)?;
        let media_session_id = MediaSessionId::new(&random_id()).map_err(|_| VodRefused::TooMany)?;
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let stop = inner.stop.lock().token();
        let now = inner.clock.now();
        // Under one lock: the thread may be through before this returns, and must find who waits for it.
        let mut book = inner.book.lock();
        if wish.kind == VodKind::Live
            && let Some(running) = book.live(&uri)
        {
            if wish.kept {
                return Err(VodRefused::NameInUse);
            }
            let joined = book.join(running, wish.ready);
            drop(book);
            if let Some((ready, stream)) = joined {
                ready(Ok(stream));
            }
            return Ok(running);
        }
        if !book.is_open() {
            return Err(VodRefused::Stopping);
        }
        if book.len() >= inner.settings.files_max {
            return Err(VodRefused::TooMany);
        }
        let name = wish.name.unwrap_or(own_name);
        if inner.registry.find(name.as_str()).is_some() || book.has_name(&name) {
            return Err(VodRefused::NameInUse);
        }
        let (kind, loops) = (wish.kind, wish.loops);
        let player = Player {
            vods: self.clone(),
            number,
            kind,
            file: wish.file,
            name: name.clone(),
            media_session_id: media_session_id.clone(),
            loops,
            stop,
        };
        let entry = Entry::new(uri, name, media_session_id, kind, loops, wish.kept, wish.ready, now);
        book.enter(number, entry);
        drop(book);
        // When there is no thread, the player is dropped, which takes the entry out again and answers those who wait.
        match threads::spawn(format!("vod-{number}"), STACK_PROTOCOL_BYTES, move || player.run()) {
            Ok(thread) => self.0.book.lock().set_thread(number, thread),
            Err(error) => tracing::warn!("no thread for a file: {error}"),
        }
        Ok(number)
    }
}
