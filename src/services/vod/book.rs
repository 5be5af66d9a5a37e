//! Which files are played, who waits for them, and who watches them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Ready, VodFacts, VodKind, VodRefused};
use crate::base::id::{MediaSessionId, StreamName};
use crate::base::threads::Thread;
use crate::hub::{EndReason, Publisher, Stream};

/// The files that are played, by number.
#[derive(Debug)]
pub(super) struct Book {
    is_open: bool,
    entries: BTreeMap<u64, Entry>,
}

/// One of them.
pub(super) struct Entry {
    uri: String,
    name: StreamName,
    media_session_id: MediaSessionId,
    kind: VodKind,
    loops: bool,
    kept: bool,
    /// Viewers that hold it, on their way to its stream or there.
    watchers: usize,
    /// Since when nobody watches.
    idle_since: Instant,
    waiting: Vec<Ready>,
    stream: Option<Arc<Stream>>,
    asked_to_end: Option<EndReason>,
    thread: Option<Thread>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("uri", &self.uri).field("name", &self.name).finish_non_exhaustive()
    }
}

impl Entry {
    #[allow(clippy::too_many_arguments, reason = "each is a fact of its own")]
    pub(super) fn new(
        uri: String,
        name: StreamName,
        media_session_id: MediaSessionId,
        kind: VodKind,
        loops: bool,
        kept: bool,
        ready: Ready,
        now: Instant,
    ) -> Self {
        Self {
            uri,
            name,
            media_session_id,
            kind,
            loops,
            kept,
            watchers: usize::from(!kept),
            idle_since: now,
            waiting: vec![ready],
            stream: None,
            asked_to_end: None,
            thread: None,
        }
    }

    fn end(&mut self, reason: EndReason) {
        self.asked_to_end.get_or_insert(reason.clone());
        if let Some(stream) = &self.stream {
            stream.ask_to_end(reason);
        }
    }
}

impl Book {
    pub(super) fn new() -> Self {
        Self { is_open: true, entries: BTreeMap::new() }
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The one that is played for all from this address, unless it is about to end.
    pub(super) fn live(&self, uri: &str) -> Option<u64> {
        let found = self.entries.iter().find(|(_, entry)| entry.kind == VodKind::Live && entry.uri == uri);
        found.map(|(number, _)| *number)
    }

    pub(super) fn has_name(&self, name: &StreamName) -> bool {
        self.entries.values().any(|entry| entry.name == *name)
    }

    pub(super) fn enter(&mut self, number: u64, entry: Entry) {
        self.entries.insert(number, entry);
    }

    pub(super) fn set_thread(&mut self, number: u64, thread: Thread) {
        // Without an entry it is over already.
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.thread = Some(thread);
        }
    }

    /// One more watches; whoever can be answered at once is given back with the stream.
    pub(super) fn join(&mut self, number: u64, ready: Ready) -> Option<(Ready, Arc<Stream>)> {
        let entry = self.entries.get_mut(&number)?;
        entry.watchers += 1;
        match &entry.stream {
            Some(stream) => Some((ready, stream.clone())),
            None => {
                entry.waiting.push(ready);
                None
            }
        }
    }

    /// One less watches.
    pub(super) fn leave(&mut self, number: u64, now: Instant) {
        let Some(entry) = self.entries.get_mut(&number) else { return };
        entry.watchers = entry.watchers.saturating_sub(1);
        if entry.watchers == 0 {
            entry.idle_since = now;
            if entry.kind == VodKind::Personal {
                entry.end(EndReason::ByUser);
            }
        }
    }

    /// The stream is there: those who wait are given back, or the reason to end it at once.
    pub(super) fn up(&mut self, number: u64, stream: &Arc<Stream>) -> Result<Vec<Ready>, EndReason> {
        let entry = self.entries.get_mut(&number).ok_or(EndReason::Internal)?;
        if let Some(reason) = &entry.asked_to_end {
            return Err(reason.clone());
        }
        entry.stream = Some(stream.clone());
        Ok(std::mem::take(&mut entry.waiting))
    }

    /// Ends a publication and takes it out, in one step for everybody who looks here. Those who still wait are given back.
    pub(super) fn over(&mut self, number: u64, publisher: Option<(Publisher, EndReason)>) -> Vec<Ready> {
        if let Some((publisher, reason)) = publisher {
            publisher.end(reason);
        }
        self.entries.remove(&number).map(|entry| entry.waiting).unwrap_or_default()
    }

    /// Whether nobody has wanted it for as long as `idle`.
    pub(super) fn is_idle(&mut self, number: u64, now: Instant, idle: Duration) -> bool {
        let Some(entry) = self.entries.get_mut(&number) else { return true };
        if entry.kept || entry.kind == VodKind::Personal {
            return false;
        }
        let facts = entry.stream.as_ref().map(|stream| stream.facts());
        if entry.watchers > 0 || facts.as_ref().is_some_and(|facts| facts.watchers > 0) {
            entry.idle_since = now;
        }
        let asked = facts.and_then(|facts| facts.asked);
        let since = asked.map_or(entry.idle_since, |asked| asked.max(entry.idle_since));
        now.saturating_duration_since(since) >= idle
    }

    /// Asks one to end; gives its thread to whoever asks first. `None`: there is none.
    pub(super) fn ask_to_end(&mut self, id: &MediaSessionId, reason: EndReason) -> Option<Option<Thread>> {
        let entry = self.entries.values_mut().find(|entry| entry.media_session_id == *id)?;
        entry.end(reason);
        Some(entry.thread.take())
    }

    /// Takes no new ones; gives the threads of those that there are.
    pub(super) fn close(&mut self) -> Vec<Thread> {
        self.is_open = false;
        self.entries.values_mut().filter_map(|entry| entry.thread.take()).collect()
    }

    pub(super) fn facts(&self) -> Vec<VodFacts> {
        let facts = |entry: &Entry| {
            let stream = entry.stream.as_ref().map(|stream| stream.facts());
            VodFacts {
                uri: entry.uri.clone(),
                name: entry.name.clone(),
                media_session_id: entry.media_session_id.clone(),
                is_up: stream.is_some(),
                has_video: stream.as_ref().is_some_and(|facts| facts.has_video),
                has_audio: stream.as_ref().is_some_and(|facts| facts.has_audio),
                loops: entry.loops,
            }
        };
        self.entries.values().map(facts).collect()
    }
}

/// Tells all of them that there is no stream, outside of any lock.
pub(super) fn refuse(waiting: Vec<Ready>, why: VodRefused) {
    waiting.into_iter().for_each(|ready| ready(Err(why)));
}
