//! Who watches what: every player that holds a place on a stream, for lists, for messages to all of them, and to end one.
//!
//! What belongs here: the list and the way to a viewer's thread. What does not: how media reaches it (`edge::rtc`), and
//! consumers that are no players of a client (snapshots, recordings).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use crossbeam_channel::Receiver;

use super::{EndReason, Stream};
use crate::base::id::{MediaSessionId, StreamName};
use crate::base::lock::{Mutex, rank};
use crate::base::queue::{Offer, queue};
use crate::base::wait::Waker;

/// Notices that may wait for one viewer. A publisher's page that says more than its viewers can hear at once is not
/// heard in full: notices that do not fit are lost.
const NOTICES_MAX: usize = 64;

/// The facts of one player that do not change while it lasts (protocol document, section 9.3).
#[derive(Clone, Debug)]
pub struct Viewing {
    /// The name that is played.
    pub name: StreamName,
    /// The player's own media session.
    pub media_session_id: MediaSessionId,
    /// Backend application key of its connection.
    pub app_key: String,
    /// Id of its connection.
    pub session_id: String,
    /// When it was asked for, by the wall clock.
    pub created: SystemTime,
    /// `mediaProvider` in REST: "WebRTC".
    pub media_provider: &'static str,
    /// `transport` in REST: "UDP".
    pub transport: &'static str,
    /// Codec of the pictures as sent ("H264"); empty where none are.
    pub video_codec: String,
    /// Codec of the sound as sent ("opus"); empty where there is none.
    pub audio_codec: String,
    /// The client's offer, where there is one.
    pub sdp: String,
    /// Width and height asked for, in pixels; 0 is as published.
    pub size: [u32; 2],
    /// Bit rates asked for in kbit/s (now, least, most); 0 is unset.
    pub bitrates_kbps: [u32; 3],
    /// What the page gave for hooks, as JSON; `null` when nothing.
    pub custom: serde_json::Value,
}

/// What all viewers of a stream are told.
#[derive(Clone, Debug)]
pub enum Notice {
    /// The publisher turned its microphone or camera off or on; `None` is unchanged.
    Muted {
        /// Microphone off.
        audio: Option<bool>,
        /// Camera off.
        video: Option<bool>,
    },
    /// Data of the publisher's page, any JSON.
    Data(Arc<serde_json::Value>),
}

/// One player, found through [`Viewers`].
#[derive(Debug)]
pub struct Viewer {
    viewing: Viewing,
    stream: Arc<Stream>,
    notices: Offer<Notice>,
    /// Used when something is asked of the viewer's thread.
    waker: Option<Waker>,
    is_playing: AtomicBool,
    asked_to_end: Mutex<Option<EndReason>, { rank::LEAF }>,
}

impl Viewer {
    /// What does not change.
    #[must_use]
    pub fn viewing(&self) -> &Viewing {
        &self.viewing
    }

    /// What it watches.
    #[must_use]
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// Whether its media transport is up: `PLAYING` rather than `PENDING`.
    #[must_use]
    pub fn is_playing(&self) -> bool {
        self.is_playing.load(Ordering::Relaxed)
    }

    /// Media transport is up.
    pub fn set_playing(&self) {
        self.is_playing.store(true, Ordering::Relaxed);
    }

    /// Asks it to end; the first reason counts. It ends a moment later, on its own thread.
    pub fn ask_to_end(&self, reason: EndReason) {
        self.asked_to_end.lock().get_or_insert(reason);
        if let Some(waker) = &self.waker {
            waker.wake();
        }
    }

    /// Whether somebody asked it to end, and why. Its thread looks here whenever it is woken.
    #[must_use]
    pub fn asked_to_end(&self) -> Option<EndReason> {
        self.asked_to_end.lock().clone()
    }
}

/// All players; clones share the list.
#[derive(Clone, Debug, Default)]
pub struct Viewers(Arc<Mutex<HashMap<MediaSessionId, Arc<Viewer>>, { rank::LEAF }>>);

/// The media session of a new player is that of another one; the text is the one that clients know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("MediaSessionId is already in use")]
pub struct ViewerExists;

/// A place in the list; dropping it gives the place back.
#[derive(Debug)]
pub struct ViewerPlace {
    viewers: Viewers,
    viewer: Arc<Viewer>,
}

impl ViewerPlace {
    /// The player as others see it.
    #[must_use]
    pub fn viewer(&self) -> &Arc<Viewer> {
        &self.viewer
    }
}

impl Drop for ViewerPlace {
    fn drop(&mut self) {
        self.viewers.0.lock().remove(&self.viewer.viewing.media_session_id);
    }
}

impl Viewers {
    /// Adds a player of `stream`. `waker` wakes its thread when a notice came or it is asked to end; the queue brings the
    /// notices.
    ///
    /// # Errors
    /// When another player has its media session.
    pub fn enter(
        &self,
        viewing: Viewing,
        stream: Arc<Stream>,
        waker: Option<Waker>,
    ) -> Result<(ViewerPlace, Receiver<Notice>), ViewerExists> {
        let (notices, heard) = queue(NOTICES_MAX, waker.clone());
        let id = viewing.media_session_id.clone();
        let viewer = Arc::new(Viewer {
            viewing,
            stream,
            notices,
            waker,
            is_playing: AtomicBool::new(false),
            asked_to_end: Mutex::default(),
        });
        let mut viewers = self.0.lock();
        if viewers.contains_key(&id) {
            return Err(ViewerExists);
        }
        viewers.insert(id, viewer.clone());
        Ok((ViewerPlace { viewers: self.clone(), viewer }, heard))
    }

    /// All players, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Viewer>> {
        let mut viewers: Vec<_> = self.0.lock().values().cloned().collect();
        viewers.sort_by(|a, b| {
            let key = |viewer: &Viewer| (viewer.viewing.created, viewer.viewing.media_session_id.clone());
            key(a).cmp(&key(b))
        });
        viewers
    }

    /// The players of one publication, in no order.
    #[must_use]
    pub fn of(&self, stream: &Arc<Stream>) -> Vec<Arc<Viewer>> {
        let viewers = self.0.lock();
        viewers.values().filter(|viewer| Arc::ptr_eq(&viewer.stream, stream)).cloned().collect()
    }

    /// The player of this media session.
    #[must_use]
    pub fn find(&self, media_session_id: &str) -> Option<Arc<Viewer>> {
        let id = MediaSessionId::new(media_session_id).ok()?;
        self.0.lock().get(&id).cloned()
    }

    /// Number of players.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether nobody plays anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells every player of a publication. Never waits; returns how many could not be told because more waits for them
    /// than they can hear.
    pub fn tell(&self, stream: &Arc<Stream>, notice: &Notice) -> usize {
        self.of(stream).iter().filter(|viewer| viewer.notices.offer(notice.clone()).is_err()).count()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::base::clock::Clock;
    use crate::base::wait::Waiter;
    use crate::hub::stream::tests::{publication, registry};

    /// A player for tests.
    pub(crate) fn viewing(name: &str, session: &str) -> Viewing {
        Viewing {
            name: StreamName::new(name).unwrap(),
            media_session_id: MediaSessionId::new(session).unwrap(),
            app_key: "defaultApp".into(),
            session_id: "c2".into(),
            created: Clock::manual().wall(),
            media_provider: "WebRTC",
            transport: "UDP",
            video_codec: "H264".into(),
            audio_codec: "opus".into(),
            sdp: String::new(),
            size: [0; 2],
            bitrates_kbps: [0; 3],
            custom: serde_json::Value::Null,
        }
    }

    #[test]
    fn viewers_are_told_by_stream_and_leave_when_their_place_falls() {
        let registry = registry();
        let one = registry.publish(publication("one", "p1"), None).unwrap();
        let two = registry.publish(publication("two", "p2"), None).unwrap();
        let enter = |name: &str, id: &str, publisher: &crate::hub::Publisher| {
            registry.viewers().enter(viewing(name, id), publisher.stream().clone(), None)
        };
        let (first, heard) = enter("one", "v1", &one).unwrap();
        let (_second, other) = enter("two", "v2", &two).unwrap();
        assert_eq!(enter("two", "v1", &two).unwrap_err(), ViewerExists);
        let muted = Notice::Muted { audio: Some(true), video: None };
        assert_eq!(registry.viewers().tell(one.stream(), &muted), 0);
        assert!(matches!(heard.try_recv(), Ok(Notice::Muted { audio: Some(true), video: None })));
        assert!(other.try_recv().is_err(), "another stream");
        let data = Notice::Data(Arc::new(serde_json::json!({"count": 23})));
        let untold =
            (0..NOTICES_MAX + 2).map(|_| registry.viewers().tell(one.stream(), &data)).sum::<usize>();
        assert_eq!(untold, 2, "what does not fit is lost, and nobody waits");
        assert_eq!(registry.viewers().len(), 2);
        drop(first);
        assert!(registry.viewers().find("v1").is_none() && registry.viewers().find("v2").is_some());
        drop((one, two));
    }

    #[test]
    fn a_viewer_that_is_asked_to_end_is_woken_and_the_first_reason_counts() {
        let registry = registry();
        let publisher = registry.publish(publication("one", "p1"), None).unwrap();
        let mut waiter = Waiter::new().unwrap();
        let (place, _heard) = registry
            .viewers()
            .enter(viewing("one", "v1"), publisher.stream().clone(), Some(waiter.waker()))
            .unwrap();
        let viewer = registry.viewers().list().pop().unwrap();
        assert!(!viewer.is_playing());
        viewer.ask_to_end(EndReason::Terminated);
        viewer.ask_to_end(EndReason::ByUser);
        assert!(waiter.wait(&[], None).unwrap().woken);
        assert_eq!(place.viewer().asked_to_end(), Some(EndReason::Terminated));
    }
}
