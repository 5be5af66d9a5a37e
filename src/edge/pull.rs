//! Pulled sources: cameras and servers from which streams are fetched by RTSP and RTMP, for viewers or by order of an operator.
//!
//! ```text
//! playStream rtsp://… ─watch──┐                       ┌ fence ─ connect ─ machine (proto) ─┐
//! REST /rtsp/startup ──start──┴► Book ─► thread pull-n ┤                                    ├─► Publisher ─► hub
//!                                  ▲                  └ rests 1 s to 30 s after a loss ─────┘
//! leaving, idleness, terminate ────┘
//! ```
//!
//! A source has one pull however many watch it. What belongs here: who may pull what, threads, sockets, when to try again and
//! when to let go. How RTSP and RTMP are spoken belongs to `proto`.

mod book;
mod connect;
mod drive;
pub mod fence;
mod machine;
pub mod source;
mod worker;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use self::book::{Book, NewPull};
use self::connect::Connector;
use self::fence::{Fence, RuleError};
pub use self::source::{BadUri, Source, is_uri};
use self::worker::Worker;
use super::ports::MediaPorts;
use super::tls::{TlsError, client_config};
use crate::base::clock::Clock;
use crate::base::id::{MediaSessionId, StreamName, random_id};
use crate::base::lock::{Mutex, rank};
use crate::base::metrics::Metrics;
use crate::base::queue::queue;
use crate::base::stop::StopSource;
use crate::base::threads::{self, STACK_PROTOCOL_BYTES};
use crate::base::wait::Waiter;
use crate::hub::{EndReason, Registry, Stream};

/// What may be pulled, and how.
#[derive(Clone, Debug)]
pub struct PullSettings {
    /// Hosts and networks that may be pulled from although they are not public (`pull_allow`).
    pub allow: Vec<String>,
    /// Hosts and networks from which nothing is pulled (`pull_deny`).
    pub deny: Vec<String>,
    /// Most pulls at once (`pulls_max`).
    pub pulls_max: usize,
    /// Without watchers for so long, a pull that no operator started ends (`pull_idle_ms`).
    pub idle: Duration,
    /// For the connection, and for each answer (`pull_answer_ms`).
    pub answer: Duration,
    /// Without media for so long, a source is lost (`rtp_activity_detecting`); `None`: as [`PullSettings::answer`].
    pub silence: Option<Duration>,
    /// Media inside the RTSP connection; else by UDP (`rtsp_interleaved_mode`).
    pub interleaved: bool,
    /// Channels to ask for inside it, of audio and video (`rtsp_interleaved_channels`).
    pub channels: [Option<(u8, u8)>; 2],
    /// Local addresses to connect from (`rtsp_client_address`).
    pub local: Vec<IpAddr>,
    /// Largest picture that is taken, in pixels.
    pub pixels_max: u64,
    /// How we name ourselves to sources.
    pub user_agent: String,
}

/// Why a source is not pulled; the texts are those that clients know (protocol document, appendix B). They tell nothing of the
/// network behind us: the log does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// The text is no address of a source.
    #[error("Bad URI")]
    BadUri,
    /// The fence refuses it.
    #[error("Restricted access")]
    Restricted,
    /// No connection to the camera, or it did not answer, or wants another password.
    #[error("Failed to connect to rtsp stream")]
    RtspConnect,
    /// The camera does not know the stream.
    #[error("Rtsp stream not found")]
    RtspNotFound,
    /// What the camera says cannot be used.
    #[error("Rtsp has wrong format")]
    RtspFormat,
    /// No connection to the server, or it refused us.
    #[error("Failed to connect to origin stream")]
    RtmpConnect,
    /// The server does not know the stream.
    #[error("Stream not found")]
    RtmpNotFound,
    /// What the server says cannot be used.
    #[error("Stream failed")]
    RtmpFormat,
    /// The source is pulled already.
    #[error("Stream name is already in use")]
    Exists,
    /// Somebody else publishes under the name.
    #[error("Stream name is already in use")]
    NameInUse,
    /// As many are pulled as may be, or the system refuses a thread.
    #[error("Failed to add stream to proxy")]
    TooMany,
    /// The source sends nothing that can be watched.
    #[error("Publish stream is not ready")]
    NotReady,
    /// There is no such pull, or it was let go.
    #[error("RtspAgent shutdown")]
    Gone,
    /// The server stops.
    #[error("Requested stream shutdown")]
    Stopping,
}

impl From<BadUri> for PullError {
    fn from(_: BadUri) -> Self {
        Self::BadUri
    }
}

impl PullError {
    /// The error as a label of a count.
    fn label(self) -> &'static str {
        match self {
            Self::BadUri => "uri",
            Self::Restricted => "fence",
            Self::RtspConnect | Self::RtmpConnect => "connect",
            Self::RtspNotFound | Self::RtmpNotFound => "not_found",
            Self::RtspFormat | Self::RtmpFormat => "format",
            Self::Exists | Self::NameInUse => "name",
            Self::TooMany => "limit",
            Self::NotReady => "not_ready",
            Self::Gone | Self::Stopping => "ended",
        }
    }
}

/// Which protocol's pulls a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullKind {
    /// `rtsp://`, `rtsps://`.
    Rtsp,
    /// `rtmp://`, `rtmps://`.
    Rtmp,
}

/// Where a pull stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullState {
    /// On the way to the source, or at rest until the next attempt.
    Waiting,
    /// Its stream is published and has media.
    Up,
}

/// A pull at one moment, for lists.
#[derive(Clone, Debug)]
pub struct PullFacts {
    /// The address, without password.
    pub uri: StreamName,
    /// The stream's name.
    pub name: StreamName,
    /// The stream's media session.
    pub media_session_id: MediaSessionId,
    /// An id for the source's side, which has none that we are told.
    pub remote_session_id: String,
    /// What the source calls the stream: the end of its path.
    pub remote_name: String,
    /// Where it stands.
    pub state: PullState,
    /// A picture track comes, or is expected.
    pub has_video: bool,
    /// Likewise sound.
    pub has_audio: bool,
}

/// Called once with the stream, or with the reason why there is none. It must not wait.
pub(super) type Ready = Box<dyn FnOnce(Result<Arc<Stream>, PullError>) + Send>;

/// All pulls; clones share them.
#[derive(Clone, Debug)]
pub struct Pulls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: PullSettings,
    connector: Connector,
    ports: MediaPorts,
    registry: Registry,
    metrics: Metrics,
    clock: Clock,
    book: Mutex<Book, { rank::DOOR }>,
    stop: Mutex<StopSource, { rank::LEAF }>,
}

/// Numbers of pulls; their threads are named by them.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// Answers for which somebody waits: the connection, and the few that lead to media.
const ANSWERS_WAITED: u32 = 3;
/// How long [`Pulls::terminate`] waits for the goodbye.
const FAREWELL: Duration = Duration::from_secs(3);

/// The right to expect a stream to be pulled on: held by a viewer as long as it watches, or waits to.
#[must_use]
pub struct Watching {
    pulls: Pulls,
    number: u64,
}

impl fmt::Debug for Watching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watching").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let now = self.pulls.0.clock.now();
        self.pulls.0.book.lock().leave(self.number, now);
    }
}

/// Why there can be no pulls at all.
#[derive(Debug, thiserror::Error)]
pub enum PullsError {
    /// A rule of the fence means nothing.
    #[error("{key}: {source}")]
    Rule {
        /// The key.
        key: &'static str,
        /// The rule.
        source: RuleError,
    },
    /// TLS cannot be had.
    #[error("no TLS for sources")]
    Tls(#[from] TlsError),
}

impl Pulls {
    /// Nothing is pulled yet; `ports` are those for media by UDP.
    ///
    /// # Errors
    /// When a rule of the fence means nothing.
    pub fn new(
        settings: PullSettings,
        ports: MediaPorts,
        registry: Registry,
        metrics: Metrics,
        clock: Clock,
    ) -> Result<Self, PullsError> {
        let rule = |key| move |source| PullsError::Rule { key, source };
        // One after the other, so that the error names the key.
        Fence::new(&settings.allow, &[]).map_err(rule("pull_allow"))?;
        let fence = Fence::new(&settings.allow, &settings.deny).map_err(rule("pull_deny"))?;
        let connector = Connector::new(fence, &settings.local, client_config()?, clock.clone());
        let patience = settings.answer.saturating_mul(ANSWERS_WAITED);
        let book = Mutex::new(Book::new(settings.pulls_max, settings.idle, patience));
        let stop = Mutex::new(StopSource::new());
        Ok(Self(Arc::new(Inner { settings, connector, ports, registry, metrics, clock, book, stop })))
    }

    /// Joins the pull of a source, or begins it. `ready` is called once: with the stream as soon as it has media, or with the reason
    /// why it has none; possibly before this returns.
    ///
    /// # Errors
    /// When there is nothing to wait for; `ready` is then not called.
    pub fn watch(
        &self,
        uri: &str,
        ready: impl FnOnce(Result<Arc<Stream>, PullError>) + Send + 'static,
    ) -> Result<Watching, PullError> {
        let source = Source::parse(uri)?;
        let name = source.name().clone();
        let number = self.begin(source, name, Wish::Watch(Box::new(ready)))?;
        Ok(Watching { pulls: self.clone(), number })
    }

    /// Pulls a source until it is told otherwise, under `local_name` or its address, and waits until its stream has media.
    ///
    /// # Errors
    /// When it is pulled already, or cannot be; nothing is left of it then.
    pub fn start(&self, uri: &str, local_name: Option<&str>, kind: PullKind) -> Result<PullFacts, PullError> {
        let source = Source::parse(uri)?;
        if source.kind() != kind {
            return Err(PullError::BadUri);
        }
        let name = match local_name {
            Some(name) => StreamName::new(name).map_err(|_| PullError::BadUri)?,
            None => source.name().clone(),
        };
        let uri = source.name().clone();
        let (answer, answered) = queue(1, None);
        let ready = Box::new(move |result: Result<Arc<Stream>, PullError>| {
            let _ = answer.offer(result);
        });
        self.begin(source, name, Wish::Keep(ready))?;
        // The worker answers everybody who waits; the sum is a limit for the case that it has a fault.
        let limit = self.0.settings.answer.saturating_mul(ANSWERS_WAITED + 1);
        answered.recv_timeout(limit).unwrap_or(Err(PullError::NotReady))?;
        let facts = self.0.book.lock().by_uri(uri.as_str()).map(|pull| facts(pull));
        facts.ok_or(PullError::Gone)
    }

    /// Pulls of one protocol, by address.
    #[must_use]
    pub fn list(&self, kind: PullKind) -> Vec<PullFacts> {
        self.0.book.lock().all().filter(|pull| pull.source.kind() == kind).map(facts).collect()
    }

    /// Ends a pull, and waits for its goodbye.
    ///
    /// # Errors
    /// When there is none from this address.
    pub fn terminate(&self, uri: &str, kind: PullKind) -> Result<(), PullError> {
        let name = StreamName::new(uri).map_err(|_| PullError::Gone)?;
        let mut book = self.0.book.lock();
        let pull = book.by_uri(name.as_str()).filter(|pull| pull.source.kind() == kind);
        let pull = pull.ok_or(PullError::Gone)?;
        pull.asked_to_end.get_or_insert(EndReason::Terminated);
        pull.waker.wake();
        let thread = pull.thread.take();
        drop(book);
        if let Some(thread) = thread {
            thread.join(FAREWELL);
        }
        Ok(())
    }

    /// Ends all pulls, and waits up to `limit`; returns whether all ended.
    pub fn stop(&self, limit: Duration) -> bool {
        let deadline = self.0.clock.now() + limit;
        let threads = self.0.book.lock().close();
        self.0.stop.lock().set();
        let left = || deadline.saturating_duration_since(self.0.clock.now());
        threads.into_iter().map(|thread| thread.join(left())).filter(|ended| !ended).count() == 0
    }

    /// Joins the pull of a source, or enters one into the book and starts its thread.
    fn begin(&self, source: Source, name: StreamName, wish: Wish) -> Result<u64, PullError> {
        let begun = self.enter(source, name, wish);
        if let Err(error) = begun {
            self.0.metrics.pulls_failed_total.with_label_values(&[error.label()]).inc();
        }
        begun
    }

    fn enter(&self, source: Source, name: StreamName, wish: Wish) -> Result<u64, PullError> {
        let inner = &self.0;
        let now = inner.clock.now();
        let waiter = Waiter::new().map_err(|_| PullError::TooMany)?;
        let stop = inner.stop.lock().token();
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let media_session_id = MediaSessionId::new(&random_id()).map_err(|_| PullError::TooMany)?;
        let source = Arc::new(source);
        let new = |kept| NewPull {
            number,
            source: source.clone(),
            name: name.clone(),
            media_session_id: media_session_id.clone(),
            remote_session_id: random_id(),
            kept,
            waker: waiter.waker(),
        };
        // Under one lock: the thread may be through before this returns, and must find who waits for it.
        let mut book = inner.book.lock();
        let running = book.by_uri(source.name().as_str()).map(|pull| pull.number);
        match (running, wish) {
            (Some(_), Wish::Keep(_)) => return Err(PullError::Exists),
            (Some(running), Wish::Watch(ready)) => {
                let answers = book.join(running, now, ready);
                drop(book);
                answers.give();
                return Ok(running);
            }
            (None, wish) => {
                book.admit()?;
                if inner.registry.find(name.as_str()).is_some() {
                    return Err(PullError::NameInUse);
                }
                match wish {
                    Wish::Watch(ready) => {
                        book.enter(new(false), now);
                        // It is on its way: there is nothing to answer yet.
                        let _ = book.join(number, now, ready);
                    }
                    Wish::Keep(ready) => {
                        book.enter(new(true), now);
                        book.wait(number, now, ready);
                    }
                }
            }
        }
        inner.metrics.pulls.inc();
        drop(book);
        stop.wakes(&waiter.waker());
        let worker = Worker::new(self.clone(), number, source, name, media_session_id, waiter, stop);
        // When there is no thread, the worker is dropped, which takes the pull out again and answers those who wait.
        let thread = threads::spawn(format!("pull-{number}"), STACK_PROTOCOL_BYTES, move || worker.run());
        match thread {
            Ok(thread) => {
                if let Some(pull) = inner.book.lock().find(number) {
                    pull.thread = Some(thread);
                }
            }
            Err(error) => tracing::warn!("no thread for a pull: {error}"),
        }
        Ok(number)
    }
}

/// Why a pull is begun or joined, and who is told what came of it.
enum Wish {
    /// Somebody watches.
    Watch(Ready),
    /// An operator wants it to stay.
    Keep(Ready),
}

fn facts(pull: &book::Pull) -> PullFacts {
    let stream = pull.stream.as_ref().map(|stream| stream.facts());
    PullFacts {
        uri: pull.source.name().clone(),
        name: pull.name.clone(),
        media_session_id: pull.media_session_id.clone(),
        remote_session_id: pull.remote_session_id.clone(),
        remote_name: pull.source.remote_name().to_owned(),
        state: pull.state(),
        has_video: stream.as_ref().is_some_and(|facts| facts.has_video),
        has_audio: stream.as_ref().is_some_and(|facts| facts.has_audio),
    }
}
