//! Waiting until another connection has taken in all that its client said.
//!
//! A page that is loaded again leaves one connection and publishes the same name over the next one some milliseconds
//! later. Nothing says that the thread of the old one runs first, so whoever finds a name taken asks its owner, which
//! reads its socket to the end before it answers. An owner whose client is gone frees its names instead.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, never, select};

use crate::base::queue::{Offer, queue};
use crate::base::stop::StopToken;
use crate::base::wait::Waker;

/// Questions that may wait for one connection. When it is full, whoever asks more gets no answer: so many for one name
/// at once are no page that was loaded again.
const QUESTIONS_MAX: usize = 8;

/// Dropping it is the answer.
type Question = Sender<()>;

/// The connections that are served, by session id; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Connected(Arc<parking_lot::Mutex<HashMap<String, Offer<Question>>>>);

/// One connection among them.
#[derive(Debug)]
pub(super) struct Presence {
    connected: Connected,
    session_id: String,
    questions: Receiver<Question>,
    /// To be answered when the socket is read to the end.
    heard: Vec<Question>,
}

impl Connected {
    /// Adds a connection; `waker` ends its sleep when somebody asks.
    pub(super) fn enter(&self, session_id: &str, waker: Waker) -> Presence {
        let (offer, questions) = queue(QUESTIONS_MAX, Some(waker));
        self.0.lock().insert(session_id.to_owned(), offer);
        Presence { connected: self.clone(), session_id: session_id.to_owned(), questions, heard: Vec::new() }
    }

    /// Waits until this connection has taken in what its client sent before now, or has left, at most for `limit`.
    pub(super) fn wait_for(&self, session_id: &str, limit: Duration, stop: &StopToken) {
        let (question, answer) = bounded(0);
        let Some(offer) = self.0.lock().get(session_id).cloned() else { return };
        let asked = offer.offer(question);
        // A question that is not heard is dropped with the last sender of its queue.
        drop(offer);
        if asked.is_ok() {
            select! {
                recv(answer) -> _ => {}
                recv(stop.channel()) -> _ => {}
                default(limit) => {}
            }
        }
    }
}

impl Presence {
    /// Hears what is asked; to be called before the socket is looked at. Returns whether somebody waits.
    pub(super) fn hear(&mut self) -> bool {
        self.heard.extend(self.questions.try_iter());
        !self.heard.is_empty()
    }

    /// Answers what was heard: the socket had nothing more.
    pub(super) fn answer(&mut self) {
        self.heard.clear();
    }

    /// Leaves, which answers everybody.
    pub(super) fn leave(&mut self) {
        self.connected.0.lock().remove(&self.session_id);
        self.questions = never();
        self.heard.clear();
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::stop::StopSource;
    use crate::base::threads::{STACK_PROTOCOL_BYTES, Thread, spawn};
    use crate::base::wait::Waiter;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Somebody who asks, and for how long at most.
    fn asking(connected: &Connected, stop: &StopToken, limit: Duration) -> Thread {
        let (connected, stop) = (connected.clone(), stop.clone());
        spawn("asking", STACK_PROTOCOL_BYTES, move || connected.wait_for("s1", limit, &stop)).unwrap()
    }

    #[test]
    fn whoever_asks_waits_for_the_answer_or_the_end_of_the_asked() {
        let (connected, stop) = (Connected::default(), StopSource::new());
        let mut waiter = Waiter::new().unwrap();
        let mut presence = connected.enter("s1", waiter.waker());
        assert!(!presence.hear());
        let asks = asking(&connected, &stop.token(), 2 * LIMIT);
        assert!(waiter.wait(&[], Some(LIMIT)).unwrap().woken);
        assert!(presence.hear() && !asks.is_ended());
        presence.answer();
        assert!(asks.join(LIMIT));

        let asks = asking(&connected, &stop.token(), 2 * LIMIT);
        while presence.questions.is_empty() {
            assert!(waiter.wait(&[], Some(LIMIT)).unwrap().woken);
        }
        drop(presence);
        assert!(asks.join(LIMIT), "a question that nobody heard ends with the connection");
        connected.wait_for("s1", LIMIT, &stop.token());
        assert!(connected.0.lock().is_empty());
    }

    #[test]
    fn an_owner_that_does_not_answer_is_not_waited_for_for_ever() {
        let (connected, stop) = (Connected::default(), StopSource::new());
        let _presence = connected.enter("s1", Waiter::new().unwrap().waker());
        connected.wait_for("s1", Duration::from_millis(1), &stop.token());
        let asks = asking(&connected, &stop.token(), 2 * LIMIT);
        drop(stop);
        assert!(asks.join(LIMIT));
    }
}
