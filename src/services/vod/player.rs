//! The thread of one file: opens it, publishes it, sends each unit when it is due.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};

use super::book::refuse;
use super::pacer::Pacer;
use super::{Demuxer, Due, VodError, VodKind, VodRefused, Vods, open_below};
use crate::base::id::{MediaSessionId, StreamName};
use crate::base::stop::StopToken;
use crate::hub::{Bell, EndReason, Publication, Publisher, SourceProtocol};
use crate::media::unit::MediaUnit;

/// From one look at who watches to the next.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// From one look to the next whether the viewer of a personal file is there; it begins when it is.
const VIEWER_INTERVAL: Duration = Duration::from_millis(20);
/// From one look to the next whether a file that is being written has grown.
const GROWTH_INTERVAL: Duration = Duration::from_millis(200);
/// A file that was not written to for so long is complete.
const GROWTH_PAUSE: Duration = Duration::from_secs(5);

/// Plays one file. Dropping it takes it out of the book, whatever happened.
pub(super) struct Player {
    pub(super) vods: Vods,
    pub(super) number: u64,
    pub(super) kind: VodKind,
    pub(super) file: String,
    pub(super) name: StreamName,
    pub(super) media_session_id: MediaSessionId,
    pub(super) loops: bool,
    pub(super) stop: StopToken,
}

impl Drop for Player {
    fn drop(&mut self) {
        let waiting = self.vods.0.book.lock().over(self.number, None);
        refuse(waiting, VodRefused::Gone);
    }
}

/// A file that is published.
struct Show {
    publisher: Publisher,
    bell: Receiver<()>,
    demuxer: Demuxer<File>,
    /// The same file, to ask when it was written to.
    file: File,
    pacer: Pacer,
    look_at: Instant,
    /// The next unit, where it was read already.
    pending: Option<Due>,
    /// Place of the unit that was sent last.
    last: Duration,
    /// Nothing was sent since the file began anew.
    is_empty: bool,
}

impl Player {
    pub(super) fn run(self) {
        let (mut show, first) = match self.open() {
            Ok(opened) => opened,
            Err(why) => {
                tracing::info!("{} is not played: {why}", self.name);
                let waiting = self.vods.0.book.lock().over(self.number, None);
                return refuse(waiting, why);
            }
        };
        let mut reason = self.begin(&mut show, &first);
        let waiting = loop {
            let why = match reason.take().map_or_else(|| self.play(&mut show), Ok) {
                Ok(why) => why,
                Err(error) => {
                    tracing::warn!("{} cannot be read any more: {error:?}", self.name);
                    EndReason::FileFailed
                }
            };
            // Looked at and ended in one step: whoever comes meanwhile finds either this stream alive or none.
            let inner = &self.vods.0;
            let mut book = inner.book.lock();
            if why == EndReason::Unwatched && !book.is_idle(self.number, self.now(), inner.settings.idle) {
                continue;
            }
            tracing::info!("{} ends: {}", self.name, why.label());
            break book.over(self.number, Some((show.publisher, why)));
        };
        refuse(waiting, VodRefused::Gone);
    }

    fn now(&self) -> Instant {
        self.vods.0.clock.now()
    }

    /// Opens the file and takes the stream's name.
    fn open(&self) -> Result<(Show, Due), VodRefused> {
        let inner = &self.vods.0;
        let opened = open_below(&inner.settings.media_dir, &self.file)?;
        let file = opened.try_clone().map_err(|_| VodRefused::Read)?;
        let mut demuxer = Demuxer::open(opened, inner.settings.pixels_max)
            .inspect_err(|error| tracing::info!("{}: {error:?}", self.name))?;
        let first = demuxer.next(self.now())?.ok_or(VodRefused::Format)?;
        let (has_video, has_audio) = demuxer.has();
        let audio = demuxer.audio_params().cloned();
        let publication = Publication {
            has_video,
            has_audio,
            video_codec: if has_video { "H264".to_owned() } else { String::new() },
            audio_codec: audio.as_ref().map_or_else(String::new, |params| params.codec.name().to_owned()),
            ..Publication::new(
                self.name.clone(),
                self.media_session_id.clone(),
                SourceProtocol::Vod,
                inner.clock.wall(),
            )
        };
        let (bell, rung) = Bell::without_keyframes(None);
        let publisher = inner.registry.publish(publication, Some(bell))?;
        if let Some(audio) = audio {
            publisher.set_audio_params(audio);
        }
        publisher.set_publishing();
        let now = self.now();
        let show = Show {
            publisher,
            bell: rung,
            demuxer,
            file,
            pacer: Pacer::new(now),
            look_at: now + LOOK_INTERVAL,
            pending: None,
            last: first.at,
            is_empty: false,
        };
        Ok((show, first))
    }

    /// Sends the first unit and tells those who wait; of a personal file it waits for its viewer. Returns why it must end.
    fn begin(&self, show: &mut Show, first: &Due) -> Option<EndReason> {
        // The first unit before anybody is told: from it they learn what the stream is.
        show.send(first, self.now());
        let up = self.vods.0.book.lock().up(self.number, show.publisher.stream());
        let waiting = match up {
            Ok(waiting) => waiting,
            Err(reason) => return Some(reason),
        };
        let stream = show.publisher.stream();
        waiting.into_iter().for_each(|ready| ready(Ok(stream.clone())));
        while self.kind == VodKind::Personal && show.publisher.stream().facts().watchers == 0 {
            let ended = self.rest(show, self.now() + VIEWER_INTERVAL);
            if ended.is_some() {
                return ended;
            }
        }
        show.pacer.go_on(first.at, self.now());
        None
    }

    /// Plays to the end; returns why it ended.
    fn play(&self, show: &mut Show) -> Result<EndReason, VodError> {
        loop {
            let next = match show.pending.take() {
                Some(due) => Some(due),
                None => show.demuxer.next(self.now())?,
            };
            let Some(due) = next else {
                match self.more(show)? {
                    Growth::More => continue,
                    Growth::Over => {}
                    Growth::Ended(reason) => return Ok(reason),
                }
                // A file of which nothing is left is not tried again and again.
                if !self.loops || show.is_empty {
                    return Ok(EndReason::EndOfFile);
                }
                show.pacer.next_round(show.demuxer.duration().max(show.last + Duration::from_millis(1)));
                show.demuxer.seek(Duration::ZERO);
                (show.last, show.is_empty) = (Duration::ZERO, true);
                continue;
            };
            if let Some(reason) = self.rest(show, show.pacer.due(due.at)) {
                show.pending = Some(due);
                return Ok(reason);
            }
            let now = self.now();
            show.pacer.catch_up(due.at, now);
            show.send(&due, now);
            (show.last, show.is_empty) = (due.at, false);
        }
    }

    /// Waits until a moment; returns why the stream must end before it.
    fn rest(&self, show: &mut Show, until: Instant) -> Option<EndReason> {
        loop {
            let now = self.now();
            if now >= show.look_at {
                show.look_at = now + LOOK_INTERVAL;
                if let Some(reason) = self.look(now) {
                    return Some(reason);
                }
            }
            let wait = until.min(show.look_at).saturating_duration_since(now);
            select! {
                recv(self.stop.channel()) -> _ => return Some(EndReason::Shutdown),
                // The bell lives in the stream, which our publisher holds: it cannot be gone.
                recv(show.bell) -> _ => {
                    if let Some(reason) = show.publisher.asked_to_end() {
                        return Some(reason);
                    }
                }
                default(wait) => {}
            }
            if self.now() >= until {
                return None;
            }
        }
    }

    /// Whether nobody watches any more.
    fn look(&self, now: Instant) -> Option<EndReason> {
        let inner = &self.vods.0;
        inner.book.lock().is_idle(self.number, now, inner.settings.idle).then_some(EndReason::Unwatched)
    }

    /// At the end of what is there of a file: waits for more of one that is being written.
    fn more(&self, show: &mut Show) -> Result<Growth, VodError> {
        let mut waited = false;
        while !show.demuxer.refresh()? {
            let written = show.file.metadata().and_then(|metadata| metadata.modified()).ok();
            let quiet = written.and_then(|at| self.vods.0.clock.wall().duration_since(at).ok());
            if !show.demuxer.is_fragmented() || quiet.is_none_or(|quiet| quiet > GROWTH_PAUSE) {
                return Ok(Growth::Over);
            }
            waited = true;
            if let Some(reason) = self.rest(show, self.now() + GROWTH_INTERVAL) {
                return Ok(Growth::Ended(reason));
            }
        }
        if waited {
            show.pacer.go_on(show.last, self.now());
        }
        Ok(Growth::More)
    }
}

/// What came of waiting for more of a file.
enum Growth {
    /// It has grown.
    More,
    /// It is complete.
    Over,
    /// The stream must end.
    Ended(EndReason),
}

impl Show {
    /// Hands a unit to the hub, as if it arrived now.
    fn send(&self, due: &Due, now: Instant) {
        let stamp = |of_file| self.pacer.stamp(of_file);
        match &due.unit {
            MediaUnit::Video(unit) => {
                let mut unit = Arc::unwrap_or_clone(unit.clone());
                (unit.arrived, unit.pts, unit.dts) = (now, stamp(unit.pts), stamp(unit.dts));
                self.publisher.push_video(unit);
            }
            MediaUnit::Audio(frame) => {
                let mut frame = Arc::unwrap_or_clone(frame.clone());
                (frame.arrived, frame.pts) = (now, stamp(frame.pts));
                self.publisher.push_audio(frame);
            }
        }
    }
}
