//! The service: takes requests, owns the threads, and carries out what the desk decides.
//!
//! | queue | from → to | size | when full |
//! |---|---|---|---|
//! | decoding jobs | desk → `decode-k` | `queue_max`; one a stream at most | `Busy` to those who wait for that stream |
//! | encoding jobs | desk → `snapshot-k`, or the caller's own thread | [`ENCODING_QUEUE`]; one a stream and scale at most | `Busy`, likewise |
//! | stills | caller → `stills` | [`stills::QUEUE`] | `Busy`, at once |
//! | live | stream → `watch-…` | see [`watch`] | the watch rejoins at a keyframe |

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};

use super::desk::{Action, Desk, DeskSettings, Failure, Request};
use super::stills::{self, StillJob};
use super::work::EncodingJob;
use super::{Snapshot, SnapshotError, SnapshotRequest, SnapshotSettings, watch};
use crate::base::clock::Clock;
use crate::base::lock::{Mutex, rank};
use crate::base::metrics::Metrics;
use crate::base::stop::{StopSource, StopToken};
use crate::base::threads::{self, STACK_CODEC_BYTES, STACK_PROTOCOL_BYTES, Thread};
use crate::base::wait::{Waiter, Waker};
use crate::hub::{Registry, Stream, Subscription};
use crate::services::decode::StreamDecoder;

/// Pictures that wait for an encoder: at about 5 ms each, a third of a second's work.
const ENCODING_QUEUE: usize = 64;
/// A subscription that only tells when a keyframe came needs no room for what follows.
const KEYFRAME_QUEUE: usize = 2;
/// How long [`Snapshots::take`] waits beyond the deadline, by which it should have been answered.
pub(super) const GRACE: Duration = Duration::from_secs(1);

type Outcome = Result<Arc<Snapshot>, SnapshotError>;
type Actions = Vec<Action<Arc<Stream>, Reply>>;

/// Where an answer goes. It is called exactly once: when it is dropped without an answer, with an error.
pub(super) struct Reply(Option<Box<dyn FnOnce(Outcome) + Send>>);

impl Reply {
    fn call(mut self, outcome: Outcome) {
        if let Some(reply) = self.0.take() {
            reply(outcome);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(reply) = self.0.take() {
            reply(Err(SnapshotError::Internal));
        }
    }
}

/// A watch at work.
struct Watch {
    /// `None`: it was told to end.
    stop: Option<StopSource>,
    /// `None`: its thread is being started.
    thread: Option<Thread>,
}

/// What handles and threads share.
pub(super) struct Shared {
    pub(super) settings: SnapshotSettings,
    pub(super) clock: Clock,
    pub(super) desk: Mutex<Desk<Arc<Stream>, Reply>, { rank::DESK }>,
    pub(super) registry: Registry,
    pub(super) metrics: Metrics,
    decoding: Sender<u64>,
    encoding: Sender<EncodingJob>,
    pub(super) stills: Sender<StillJob>,
    waker: Waker,
    /// Callers that make their own PNG at the moment; at most as many as there are threads for it.
    encoding_callers: AtomicUsize,
    /// Watches at work.
    watches: Mutex<HashMap<u64, Watch>, { rank::LEAF }>,
    pub(super) stop: StopToken,
}

/// What the threads wait in.
pub(super) struct Queues {
    pub(super) decoding: Receiver<u64>,
    pub(super) encoding: Receiver<EncodingJob>,
    pub(super) stills: Receiver<StillJob>,
    pub(super) waiter: Waiter,
}

/// A handle to the service; clones share it.
#[derive(Clone)]
pub struct Snapshots(Arc<Shared>);

impl std::fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshots").finish_non_exhaustive()
    }
}

impl Snapshots {
    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }

    #[cfg(test)]
    pub(super) fn of(shared: &Arc<Shared>) -> Self {
        Self(shared.clone())
    }

    /// Asks for a picture that shows nothing older than the stream's newest decodable unit of this moment.
    ///
    /// Never blocks. `reply` is called exactly once, by whichever thread knows the answer, possibly before this
    /// returns: it must not block, nor hold a lock that the caller holds.
    pub fn request(&self, request: SnapshotRequest, reply: impl FnOnce(Outcome) + Send + 'static) {
        self.0.perform(self.ask(request, Reply(Some(Box::new(reply)))));
    }

    fn ask(&self, request: SnapshotRequest, reply: Reply) -> Actions {
        let shared = &self.0;
        let now = shared.clock.now();
        let refused = |reply, error| {
            shared.answer(reply, now, Err(error));
            Vec::new()
        };
        if let Some(Err(error)) = request.scale.map(|scale| scale.check()) {
            return refused(reply, SnapshotError::Scale(error));
        }
        let Some(stream) = shared.registry.find(&request.stream_name) else {
            return refused(reply, SnapshotError::StreamNotFound);
        };
        if !stream.facts().has_video {
            return refused(reply, SnapshotError::NoVideo);
        }
        stream.note_asked(now);
        let span = stream.span();
        let request = Request {
            scale: request.scale,
            max_age: request.max_age,
            asked: now,
            deadline: now + request.limit.unwrap_or(shared.settings.limit),
            reply,
        };
        shared.desk.lock().request(now, (stream.epoch(), &stream), span, request)
    }

    /// As [`Snapshots::request`], and waits for the answer. When the picture is decoded already, the PNG is made on this
    /// thread, which has nothing else to do: a busy machine takes longer to change threads than to encode.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub fn take(&self, request: SnapshotRequest) -> Outcome {
        let limit = request.limit.unwrap_or(self.0.settings.limit);
        let (sender, receiver) = bounded(1);
        let reply = Reply(Some(Box::new(move |outcome| {
            let _ = sender.try_send(outcome);
        })));
        self.0.perform_here(self.ask(request, reply));
        receiver.recv_timeout(limit.saturating_add(GRACE)).unwrap_or(Err(SnapshotError::Timeout))
    }
}

/// The running service. Dropping it answers everybody and lets its threads end.
pub struct SnapshotService {
    shared: Arc<Shared>,
    stop: StopSource,
    threads: Vec<Thread>,
}

impl std::fmt::Debug for SnapshotService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotService").finish_non_exhaustive()
    }
}

impl SnapshotService {
    /// Starts the threads; nothing is decoded before somebody asks.
    ///
    /// # Errors
    /// When the system refuses a thread or a file descriptor.
    pub fn start(
        settings: SnapshotSettings,
        registry: Registry,
        clock: Clock,
        metrics: Metrics,
    ) -> std::io::Result<Self> {
        let (shared, stop, Queues { decoding, encoding, stills, waiter }) =
            Shared::new(settings, registry, clock, metrics)?;
        let mut service = Self { shared: shared.clone(), stop, threads: Vec::new() };
        let desk = shared.clone();
        let desk = threads::spawn("snapshot-desk", STACK_PROTOCOL_BYTES, move || desk.look_after(waiter))?;
        service.threads.push(desk);
        let maker = shared.clone();
        let maker = threads::spawn("stills", STACK_CODEC_BYTES, move || maker.make_stills(&stills))?;
        service.threads.push(maker);
        for k in 0..settings.decoders.max(1) {
            let (shared, jobs) = (shared.clone(), decoding.clone());
            let body = move || shared.work(&jobs, |shared, epoch| shared.decode(epoch));
            service.threads.push(threads::spawn(format!("decode-{k}"), STACK_CODEC_BYTES, body)?);
        }
        for k in 0..settings.encoders.max(1) {
            let (shared, jobs) = (shared.clone(), encoding.clone());
            let body = move || shared.work(&jobs, Shared::encode);
            service.threads.push(threads::spawn(format!("snapshot-{k}"), STACK_CODEC_BYTES, body)?);
        }
        Ok(service)
    }

    /// A handle for those who ask.
    #[must_use]
    pub fn handle(&self) -> Snapshots {
        Snapshots(self.shared.clone())
    }

    /// Answers everybody, and waits up to `limit` for each thread; returns whether all ended.
    pub fn stop(mut self, limit: Duration) -> bool {
        self.end();
        let mut threads = std::mem::take(&mut self.threads);
        // The guard is gone before anybody is waited for: a watch takes itself out at its end.
        let watches = std::mem::take(&mut *self.shared.watches.lock());
        threads.extend(watches.into_values().filter_map(|watch| watch.thread));
        threads.into_iter().map(|thread| thread.join(limit)).filter(|ended| !ended).count() == 0
    }

    fn end(&mut self) {
        self.stop.set();
        let actions = self.shared.desk.lock().stop();
        self.shared.perform(actions);
    }
}

impl Drop for SnapshotService {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    pub(super) fn new(
        settings: SnapshotSettings,
        registry: Registry,
        clock: Clock,
        metrics: Metrics,
    ) -> std::io::Result<(Arc<Self>, StopSource, Queues)> {
        let stop = StopSource::new();
        let waiter = Waiter::new()?;
        stop.token().wakes(&waiter.waker());
        let (decoding, decoding_jobs) = bounded(settings.queue_max.max(1));
        let (encoding, encoding_jobs) = bounded(ENCODING_QUEUE);
        let (stills, still_jobs) = bounded(stills::QUEUE);
        let desk = DeskSettings {
            watch: settings.watch,
            watched_max: settings.watched_max,
            keyframe_units: settings.keyframe_units,
            slice: settings.limit / settings.attempts.max(1),
        };
        let shared = Arc::new(Shared {
            settings,
            clock,
            desk: Mutex::new(Desk::new(desk)),
            registry,
            metrics,
            decoding,
            encoding,
            stills,
            waker: waiter.waker(),
            encoding_callers: AtomicUsize::new(0),
            watches: Mutex::default(),
            stop: stop.token(),
        });
        let (decoding, encoding, stills) = (decoding_jobs, encoding_jobs, still_jobs);
        Ok((shared, stop, Queues { decoding, encoding, stills, waiter }))
    }

    /// As [`Shared::perform`], but an encoding job is done on this thread, unless too many callers are at that already.
    fn perform_here(self: &Arc<Self>, mut actions: Actions) {
        let most = self.settings.encoders.max(1);
        let one_more = |callers| (callers < most).then_some(callers + 1);
        let encode = actions.iter().position(|action| matches!(action, Action::Encode { .. }));
        let job = encode
            .filter(|_| {
                self.encoding_callers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
            })
            .map(|at| actions.remove(at));
        self.perform(actions);
        if let Some(Action::Encode { epoch, stream, picture, scale }) = job {
            let _ = threads::caught("snapshot job", || {
                self.encode(EncodingJob { epoch, stream, picture, scale })
            });
            self.encoding_callers.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Carries out what the desk decided. No lock is held here.
    pub(super) fn perform(&self, actions: Actions) {
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Decode { epoch } => {
                    if self.decoding.try_send(epoch).is_err() {
                        let busy = Failure::Refused(SnapshotError::Busy);
                        actions.extend(self.desk.lock().failed(self.clock.now(), epoch, busy));
                    }
                }
                Action::Encode { epoch, stream, picture, scale } => {
                    let job = EncodingJob { epoch, stream, picture, scale };
                    if self.encoding.try_send(job).is_err() {
                        let busy = Err(SnapshotError::Busy);
                        actions.extend(self.desk.lock().encoded(self.clock.now(), epoch, scale, &busy));
                    }
                }
                Action::Ring { stream } => stream.request_keyframe(),
                Action::EndWatch { watch } => {
                    let stop = self.watches.lock().get_mut(&watch).and_then(|watch| watch.stop.take());
                    drop(stop);
                }
                Action::Look => self.waker.wake(),
                Action::Answer { reply, asked, result } => self.answer(reply, asked, result),
            }
        }
    }

    fn answer(&self, reply: Reply, asked: Instant, outcome: Outcome) {
        let label = outcome.as_ref().map_or_else(SnapshotError::label, |_| "ok");
        self.metrics.snapshots_total.with_label_values(&[label]).inc();
        if outcome.is_ok() {
            let seconds = self.clock.now().saturating_duration_since(asked).as_secs_f64();
            self.metrics.snapshot_seconds.observe(seconds);
        }
        reply.call(outcome);
    }

    /// The body of a thread that does jobs until the service stops. A job that panics costs itself, not the thread.
    fn work<T>(self: Arc<Self>, jobs: &Receiver<T>, job: impl Fn(&Arc<Self>, T)) {
        loop {
            select! {
                recv(jobs) -> next => match next {
                    Ok(next) => { let _ = threads::caught("snapshot job", || job(&self, next)); }
                    Err(_) => return,
                },
                recv(self.stop.channel()) -> _ => return,
            }
        }
    }

    pub(super) fn watch(self: &Arc<Self>, number: u64, stream: Arc<Stream>, decoder: StreamDecoder) {
        let stop = StopSource::new();
        let token = stop.token();
        // Before the thread runs: it takes itself out of the map at its end.
        self.watches.lock().insert(number, Watch { stop: Some(stop), thread: None });
        let name = format!("watch-{number}");
        let (shared, epoch) = (self.clone(), stream.epoch());
        let body = move || {
            let ending = EndingWatch { shared: &shared, epoch, number };
            watch::follow(&shared, number, &stream, decoder, &token);
            drop(ending);
        };
        match threads::spawn(name, STACK_CODEC_BYTES, body) {
            Ok(thread) => {
                if let Some(watch) = self.watches.lock().get_mut(&number) {
                    watch.thread = Some(thread);
                }
            }
            // The body was dropped, and with it the guard's place: the desk must hear it from us.
            Err(error) => {
                tracing::warn!("no thread for a watched stream: {error}");
                drop(EndingWatch { shared: self, epoch, number });
            }
        }
    }

    /// The body of `snapshot-desk`: sleeps until a deadline or until a stream that owes a keyframe has moved.
    fn look_after(&self, mut waiter: Waiter) {
        let mut owed = HashMap::new();
        while !self.stop.is_set() {
            let next = self.look_around(&mut owed, &waiter);
            if let Err(error) = waiter.wait_until(&[], self.clock.now(), next) {
                tracing::error!("snapshot desk cannot sleep: {error}");
                return;
            }
        }
    }

    /// Looks at deadlines, and at streams that owe a keyframe; `owed` keeps the subscriptions that wake us for these.
    /// Returns when to look again.
    pub(super) fn look_around(
        &self,
        owed: &mut HashMap<u64, Subscription>,
        waiter: &Waiter,
    ) -> Option<Instant> {
        let now = self.clock.now();
        let (actions, awaiting) = {
            let mut desk = self.desk.lock();
            (desk.look(now), desk.awaiting())
        };
        self.perform(actions);
        owed.retain(|epoch, _| awaiting.iter().any(|(awaited, ..)| awaited == epoch));
        for (epoch, stream, unusable) in awaiting {
            // Subscribed first and looked at after: a keyframe in between is seen, and later ones wake us.
            let subscribe = || stream.subscribe(KEYFRAME_QUEUE, Some(waiter.waker()));
            owed.entry(epoch).or_insert_with(subscribe).live.receiver().try_iter().for_each(drop);
            let actions = if stream.ended().is_some() {
                self.desk.lock().ended(epoch)
            } else if stream.span().group.is_some_and(|group| Some(group.first_seq) != unusable) {
                self.desk.lock().keyframe_came(now, epoch)
            } else {
                continue;
            };
            owed.remove(&epoch);
            self.perform(actions);
        }
        self.desk.lock().next_look()
    }
}

/// A watch at work: the desk hears of its end, however it ends.
struct EndingWatch<'a> {
    shared: &'a Shared,
    epoch: u64,
    number: u64,
}

impl Drop for EndingWatch<'_> {
    fn drop(&mut self) {
        let watch = self.shared.watches.lock().remove(&self.number);
        drop(watch);
        let actions = self.shared.desk.lock().watch_ended(self.shared.clock.now(), self.epoch, self.number);
        self.shared.perform(actions);
    }
}
