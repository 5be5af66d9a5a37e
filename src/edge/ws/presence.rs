//! Waiting until another connection has taken in all that its client said.
//!
//! A page that is loaded again leaves one connection and publishes the same name over the next one some milliseconds
//! later. Nothing says that the thread of the old one runs first, so whoever finds a name taken asks its owner, which
//! reads its socket to the end before it answers. An owner whose client is gone frees its names instead.
//!
//! An operator uses the same list: to see who is connected, to end a connection, to say something to its page.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, never, select};
use serde_json::{Map, Value};

use crate::base::queue::{Offer, queue};
use crate::base::stop::StopToken;
use crate::base::wait::Waker;
use crate::proto::signal::message::ToClient;

/// Calls that may wait for one connection. When it is full, whoever asks more gets no answer: so many for one name at
/// once are no page that was loaded again, and a page that is told more than it takes in is not told all of it.
const CALLS_MAX: usize = 16;

/// Dropping it is the answer.
type Question = Sender<()>;

/// What others want of a connection.
#[derive(Debug)]
enum Call {
    Answer(Question),
    Say(Box<ToClient>),
    End,
}

#[derive(Debug)]
struct Entry {
    calls: Offer<Call>,
    /// What the client told of itself; `None` before its `connection` message.
    client: Option<Arc<Map<String, Value>>>,
}

/// The connections that are served, by session id; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Connected(Arc<parking_lot::Mutex<BTreeMap<String, Entry>>>);

/// A connection cannot be told anything now: more waits for it than it takes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection does not keep up")]
pub struct DoesNotKeepUp;

/// One connection among them.
#[derive(Debug)]
pub(super) struct Presence {
    connected: Connected,
    session_id: String,
    calls: Receiver<Call>,
    /// To be answered when the socket is read to the end.
    heard: Vec<Question>,
    words: Vec<ToClient>,
    is_to_end: bool,
    is_introduced: bool,
}

impl Connected {
    /// Adds a connection; `waker` ends its sleep when somebody asks.
    pub(super) fn enter(&self, session_id: &str, waker: Waker) -> Presence {
        let (offer, calls) = queue(CALLS_MAX, Some(waker));
        self.0.lock().insert(session_id.to_owned(), Entry { calls: offer, client: None });
        Presence {
            connected: self.clone(),
            session_id: session_id.to_owned(),
            calls,
            heard: Vec::new(),
            words: Vec::new(),
            is_to_end: false,
            is_introduced: false,
        }
    }

    /// What each client told of itself in its `connection` message, with `sessionId` and without secrets.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Map<String, Value>>> {
        self.0.lock().values().filter_map(|entry| entry.client.clone()).collect()
    }

    /// Ends a connection and its streams, a moment later, on its own thread; returns whether there is such a one.
    ///
    /// # Errors
    /// When more waits for it than it takes in.
    pub fn end(&self, session_id: &str) -> Result<bool, DoesNotKeepUp> {
        self.call(session_id, Call::End)
    }

    /// Says something to a client that has introduced itself; returns whether there is such a one. Never waits.
    ///
    /// # Errors
    /// When more waits for it than it takes in.
    pub fn say(&self, session_id: &str, message: ToClient) -> Result<bool, DoesNotKeepUp> {
        self.call(session_id, Call::Say(Box::new(message)))
    }

    fn call(&self, session_id: &str, call: Call) -> Result<bool, DoesNotKeepUp> {
        let connected = self.0.lock();
        match connected.get(session_id).filter(|entry| entry.client.is_some()) {
            None => Ok(false),
            Some(entry) => entry.calls.offer(call).map(|()| true).map_err(|_| DoesNotKeepUp),
        }
    }

    /// Waits until this connection has taken in what its client sent before now, or has left, at most for `limit`.
    pub(super) fn wait_for(&self, session_id: &str, limit: Duration, stop: &StopToken) {
        let (question, answer) = bounded(0);
        let Some(offer) = self.0.lock().get(session_id).map(|entry| entry.calls.clone()) else { return };
        let asked = offer.offer(Call::Answer(question));
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
        for call in self.calls.try_iter() {
            match call {
                Call::Answer(question) => self.heard.push(question),
                Call::Say(message) if self.words.len() < CALLS_MAX => self.words.push(*message),
                // The client reads too slowly, for which it will be closed if it goes on so.
                Call::Say(_) => tracing::debug!("{} does not take what it is told", self.session_id),
                Call::End => self.is_to_end = true,
            }
        }
        !self.heard.is_empty()
    }

    /// What was heard for the client, in order.
    pub(super) fn words(&mut self) -> impl Iterator<Item = ToClient> + '_ {
        self.words.drain(..)
    }

    /// Whether an operator wants the connection to end.
    pub(super) fn is_to_end(&self) -> bool {
        self.is_to_end
    }

    /// Tells the list what the client says of itself, once.
    pub(super) fn introduce(&mut self, client: Option<&Arc<Map<String, Value>>>) {
        if let Some(client) = client.filter(|_| !self.is_introduced) {
            self.is_introduced = true;
            if let Some(entry) = self.connected.0.lock().get_mut(&self.session_id) {
                entry.client = Some(client.clone());
            }
        }
    }

    /// Answers what was heard: the socket had nothing more.
    pub(super) fn answer(&mut self) {
        self.heard.clear();
    }

    /// Leaves, which answers everybody.
    pub(super) fn leave(&mut self) {
        self.connected.0.lock().remove(&self.session_id);
        self.calls = never();
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
        while presence.calls.is_empty() {
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

    #[test]
    fn an_operator_reaches_connections_that_have_introduced_themselves() {
        let connected = Connected::default();
        let mut waiter = Waiter::new().unwrap();
        let mut presence = connected.enter("s1", waiter.waker());
        let word = || ToClient::Ping([]);
        assert_eq!((connected.say("s1", word()), connected.list().len()), (Ok(false), 0));
        let client = Arc::new(Map::from_iter([("appKey".to_owned(), Value::from("a"))]));
        presence.introduce(Some(&client));
        assert_eq!(connected.list(), [client]);
        assert_eq!((connected.say("s2", word()), connected.say("s1", word())), (Ok(false), Ok(true)));
        assert!(waiter.wait(&[], Some(LIMIT)).unwrap().woken);
        assert!(!presence.hear() && presence.words().count() == 1 && !presence.is_to_end());
        assert_eq!(connected.end("s1"), Ok(true));
        presence.hear();
        assert!(presence.is_to_end());
        let told: Vec<_> = (0..CALLS_MAX + 1).map(|_| connected.say("s1", word())).collect();
        assert_eq!(told.last(), Some(&Err(DoesNotKeepUp)));
        presence.leave();
        assert!(connected.list().is_empty());
    }
}
