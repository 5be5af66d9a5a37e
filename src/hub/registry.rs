//! All published streams, by name.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use crossbeam_channel::Receiver;

use super::{Bell, GopLimits, Publication, Publisher, Stream, Viewers};
use crate::base::id::{MediaSessionId, StreamName};
use crate::base::lock::{Mutex, rank};
use crate::base::queue::{Offer, Refused, queue};
use crate::base::wait::Waker;

/// Why a publication is refused; the first two texts are those that clients know (protocol document, appendix B).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Another publisher has the name.
    #[error("Stream name is already in use")]
    NameInUse,
    /// The media session id is taken.
    #[error("MediaSessionId is already in use")]
    SessionInUse,
    /// The name is an address, under which only what was fetched from there is published: who asks for it trusts that.
    #[error("Bad URI")]
    Address,
    /// As many publications exist as may be.
    #[error("streams_max streams are published")]
    TooMany,
}

#[derive(Debug, Default)]
struct Map {
    streams: HashMap<StreamName, Arc<Stream>>,
    sessions: HashSet<MediaSessionId>,
}

#[derive(Debug)]
struct Inner {
    map: Mutex<Map, { rank::REGISTRY }>,
    watchers: Mutex<Vec<Offer<()>>, { rank::LEAF }>,
    limits: GopLimits,
    streams_max: usize,
    last_epoch: AtomicU64,
    viewers: Viewers,
}

/// The map of streams; clones share it.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Inner>);

impl Registry {
    /// An empty map whose streams keep groups of pictures within `limits`, and which holds at most `streams_max`.
    #[must_use]
    pub fn new(limits: GopLimits, streams_max: usize) -> Self {
        Self(Arc::new(Inner {
            map: Mutex::default(),
            watchers: Mutex::default(),
            limits,
            streams_max,
            last_epoch: AtomicU64::new(0),
            viewers: Viewers::default(),
        }))
    }

    /// Those who play these streams.
    #[must_use]
    pub fn viewers(&self) -> &Viewers {
        &self.0.viewers
    }

    /// Takes a name. `bell` is rung when a keyframe is wanted; `None` for publishers that cannot make one.
    ///
    /// # Errors
    /// When the name or the media session is in use, or there are too many streams.
    pub fn publish(&self, publication: Publication, bell: Option<Bell>) -> Result<Publisher, PublishError> {
        if publication.name.as_str().contains("://") && !publication.protocol.is_fetched() {
            return Err(PublishError::Address);
        }
        let mut map = self.0.map.lock();
        if map.streams.contains_key(&publication.name) {
            return Err(PublishError::NameInUse);
        }
        if map.sessions.contains(&publication.media_session_id) {
            return Err(PublishError::SessionInUse);
        }
        if map.streams.len() >= self.0.streams_max {
            return Err(PublishError::TooMany);
        }
        // Under the lock, so that epochs rise with the order in which names are taken.
        let stream = self.new_stream(publication, bell);
        map.sessions.insert(stream.publication().media_session_id.clone());
        map.streams.insert(stream.publication().name.clone(), stream.clone());
        drop(map);
        self.tell_watchers();
        Ok(Publisher::new(stream, Some(self.clone())))
    }

    /// A stream that is in no list and takes no name: another form of one that is published, for those who are handed it. `bell`
    /// as for [`Registry::publish`].
    #[must_use]
    pub fn publish_unlisted(&self, publication: Publication, bell: Option<Bell>) -> Publisher {
        Publisher::new(self.new_stream(publication, bell), None)
    }

    fn new_stream(&self, publication: Publication, bell: Option<Bell>) -> Arc<Stream> {
        let created_ms = publication
            .created
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        // Two publications may begin in one millisecond.
        let last = self.0.last_epoch.fetch_max(created_ms, Ordering::Relaxed);
        let epoch = if created_ms > last {
            created_ms
        } else {
            self.0.last_epoch.fetch_add(1, Ordering::Relaxed) + 1
        };
        Arc::new(Stream::new(publication, epoch, self.0.limits, bell))
    }

    /// A queue of one that holds a ring after a stream came or went; [`Registry::list`] then tells which. Rings that
    /// nobody took yet are one ring, so that nothing is lost and nobody waits. Dropping the queue ends the watch.
    #[must_use]
    pub fn watch(&self, waker: Option<Waker>) -> Receiver<()> {
        let (offer, rung) = queue(1, waker);
        self.0.watchers.lock().push(offer);
        rung
    }

    fn tell_watchers(&self) {
        self.0.watchers.lock().retain(|watcher| !matches!(watcher.offer(()), Err(Refused::Closed(()))));
    }

    /// The stream of this name, pending ones included.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Stream>> {
        let name = StreamName::new(name).ok()?;
        self.0.map.lock().streams.get(&name).cloned()
    }

    /// All streams, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Stream>> {
        let mut streams: Vec<_> = self.0.map.lock().streams.values().cloned().collect();
        streams.sort_by_key(|stream| stream.epoch());
        streams
    }

    /// Number of streams.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.map.lock().streams.len()
    }

    /// Whether nothing is published.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn remove(&self, stream: &Arc<Stream>) {
        let publication = stream.publication();
        let mut map = self.0.map.lock();
        map.streams.remove(&publication.name);
        map.sessions.remove(&publication.media_session_id);
        drop(map);
        self.tell_watchers();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::stream::tests::{publication, registry};
    use crate::hub::{EndReason, SourceProtocol};

    #[test]
    fn a_taken_name_is_refused_and_free_again_at_once() {
        let registry = registry();
        let first = registry.publish(publication("a", "m1"), None).unwrap();
        assert_eq!(registry.publish(publication("a", "m2"), None).unwrap_err(), PublishError::NameInUse);
        assert_eq!(registry.publish(publication("b", "m1"), None).unwrap_err(), PublishError::SessionInUse);
        let old = registry.find("a").unwrap();
        first.end(EndReason::ByUser);
        assert_eq!(old.ended(), Some(EndReason::ByUser));
        let second = registry.publish(publication("a", "m1"), None).unwrap();
        assert!(second.stream().epoch() > old.epoch());
    }

    #[test]
    fn the_address_of_a_source_cannot_be_taken_by_a_publisher() {
        let registry = registry();
        let claim =
            |protocol| registry.publish(Publication { protocol, ..publication("rtsp://cam/1", "m") }, None);
        assert_eq!(claim(SourceProtocol::WebRtc).unwrap_err(), PublishError::Address);
        assert_eq!(claim(SourceProtocol::Rtmp).unwrap_err(), PublishError::Address);
        assert!(claim(SourceProtocol::RtspPull).is_ok());
    }

    #[test]
    fn an_unlisted_stream_takes_no_name_and_its_end_frees_none() {
        let registry = registry();
        let listed = registry.publish(publication("a", "m1"), None).unwrap();
        let unlisted = registry.publish_unlisted(publication("a", "m1"), None);
        assert_ne!(listed.stream().epoch(), unlisted.stream().epoch());
        let stream = unlisted.stream().clone();
        drop(unlisted);
        assert!(stream.ended().is_some());
        assert_eq!(registry.find("a").unwrap().epoch(), listed.stream().epoch());
    }

    #[test]
    fn a_dropped_publisher_ends_its_stream() {
        let registry = registry();
        drop(registry.publish(publication("a", "m1"), None).unwrap());
        assert!(registry.find("a").is_none() && registry.is_empty());
    }

    #[test]
    fn a_watcher_hears_that_streams_came_or_went_and_may_leave() {
        let registry = registry();
        let (rung, other) = (registry.watch(None), registry.watch(None));
        assert!(rung.try_recv().is_err());
        let one = registry.publish(publication("a", "m1"), None).unwrap();
        let _two = registry.publish(publication("b", "m2"), None).unwrap();
        assert!(rung.try_recv().is_ok() && rung.try_recv().is_err(), "two comings are one ring");
        drop(other);
        drop(one);
        assert!(rung.try_recv().is_ok());
        assert_eq!(registry.0.watchers.lock().len(), 1);
    }

    #[test]
    fn more_streams_than_allowed_are_refused() {
        let registry = Registry::new(GopLimits { units: 1, bytes: 1 }, 1);
        let _one = registry.publish(publication("a", "m1"), None).unwrap();
        assert_eq!(registry.publish(publication("b", "m2"), None).unwrap_err(), PublishError::TooMany);
    }
}
