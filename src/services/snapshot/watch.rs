//! A watched stream: a decoder in step, so that the next request costs conversion, PNG and the reply alone.

use std::sync::Arc;

use crossbeam_channel::{RecvTimeoutError, select};

use super::service::Shared;
use crate::base::stop::StopToken;
use crate::hub::Stream;
use crate::media::picture::YuvPicture;
use crate::media::time::Timestamp;
use crate::media::unit::{AccessUnit, MediaUnit};
use crate::services::decode::{DecodeError, StreamDecoder};

/// Units (of sound, too) that may wait for this thread: more than a second's.
const LIVE_QUEUE: usize = 128;
/// With more than this in the queue, a second of video, the decoder is not in step, and the watch ends.
const LAG_MAX: usize = 30;

/// Follows a stream from where `decoder` stands, and tells the desk of each new picture. Returns when nobody has asked
/// for some time, the stream ended, the desk let it go, or this machine is too slow for it.
pub(super) fn follow(
    shared: &Shared,
    number: u64,
    stream: &Stream,
    decoder: StreamDecoder,
    stop: &StopToken,
) {
    let epoch = stream.epoch();
    let subscription = stream.subscribe(LIVE_QUEUE, None);
    let live = subscription.live.receiver();
    let mut following =
        Following { decoder, newest: None, reorders: false, owed: false, last: None, before_last: None };
    let report = |told: Told| {
        let actions =
            shared.desk.lock().watched(shared.clock.now(), (epoch, number), told.picture, told.covers);
        shared.perform(actions);
    };
    let take = |unit: &AccessUnit, following: &mut Following, more: bool| match following.take(unit, more) {
        Ok(told) => {
            told.into_iter().for_each(report);
            true
        }
        // After damage each unit says that one is missing, until a keyframe comes: the request for it may be lost, too.
        Err(
            DecodeError::Gap
            | DecodeError::Damaged { .. }
            | DecodeError::Corrupt { .. }
            | DecodeError::NoPicture { .. }
            | DecodeError::Framing,
        ) => {
            stream.request_keyframe();
            true
        }
        Err(error) => {
            tracing::debug!("watch of stream {} ends: {error}", stream.publication().name);
            false
        }
    };
    let mut take_all = |units: Vec<Arc<AccessUnit>>| {
        following.foresee(&units);
        let last = units.len().saturating_sub(1);
        units.iter().enumerate().all(|(n, unit)| !stop.is_set() && take(unit, &mut following, n < last))
    };
    if !take_all(subscription.backlog.units) {
        return;
    }
    loop {
        let now = shared.clock.now();
        let Some(until) = shared.desk.lock().watch_until(now, epoch, number) else { return };
        let next = select! {
            recv(live) -> unit => unit.map_err(|_| RecvTimeoutError::Disconnected),
            recv(stop.channel()) -> _ => return,
            default(until.saturating_duration_since(now)) => Err(RecvTimeoutError::Timeout),
        };
        let next = match next {
            Ok(next) => next,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => {
                let actions = shared.desk.lock().ended(epoch);
                return shared.perform(actions);
            }
        };
        let video = |unit| match unit {
            MediaUnit::Video(unit) => Some(unit),
            MediaUnit::Audio(_) => None,
        };
        let units: Vec<_> = std::iter::once(next).chain(live.try_iter()).filter_map(video).collect();
        if units.len() > LAG_MAX || !take_all(units) {
            return;
        }
    }
}

/// What the desk is told: the stream's newest picture stands for unit `covers`; `picture` where it is another one.
struct Told {
    picture: Option<Arc<YuvPicture>>,
    covers: u64,
}

struct Following {
    decoder: StreamDecoder,
    /// Presentation time of the picture that is shown last in this group.
    newest: Option<Timestamp>,
    /// B-frames or hidden ones were seen: a unit may be shown before one that was decoded earlier, or not at all.
    reorders: bool,
    /// The picture that is shown last was decoded, and not copied.
    owed: bool,
    /// The picture told last, which the desk holds until it is told the next one.
    last: Option<Arc<YuvPicture>>,
    /// The one before it, for its room when nobody else holds it any more.
    before_last: Option<Arc<YuvPicture>>,
}

impl Following {
    /// Looks at units before they are taken: with B-frames among them the first may be the one that is shown last.
    fn foresee(&mut self, units: &[Arc<AccessUnit>]) {
        self.reorders |= units.iter().any(|unit| unit.bidirectional || unit.hidden);
    }

    /// Takes the next unit. `more`: others wait behind it, so that its picture will not be the newest for long.
    fn take(&mut self, unit: &AccessUnit, more: bool) -> Result<Option<Told>, DecodeError> {
        self.reorders |= unit.bidirectional || unit.hidden;
        if unit.key {
            self.newest = None;
        }
        let later = |newest: Timestamp| unit.pts.since(newest).is_some_and(|by| !by.is_zero());
        // A picture without B slices is shown after all before it, whatever its time stamp says.
        let shows = !unit.hidden && (!unit.bidirectional || self.newest.is_none_or(later));
        if shows {
            self.newest = Some(unit.pts);
        }
        // What was decoded before the watch began is in the desk's hands already.
        if self.decoder.last_seq().is_some_and(|last| unit.seq <= last) {
            return Ok(None);
        }
        if let Some(unused) = self.before_last.take().and_then(Arc::into_inner) {
            self.decoder.recycle(unused);
        }
        let wanted = shows && (!more || self.reorders);
        let picture = self.decoder.step(unit, wanted)?;
        self.owed = if shows { picture.is_none() } else { self.owed };
        if self.owed {
            return Ok(None);
        }
        let picture = picture.map(Arc::new);
        if let Some(picture) = &picture {
            self.before_last = self.last.replace(picture.clone());
        }
        Ok(Some(Told { picture, covers: unit.seq }))
    }
}
