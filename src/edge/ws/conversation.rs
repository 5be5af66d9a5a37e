//! One connection from handshake to goodbye: the loop of its thread.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use crossbeam_channel::Receiver;
use tungstenite::error::{CapacityError, ProtocolError};
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Message, WebSocket};

use super::WsService;
use super::ending::{Ending, close_frame};
use super::presence::Presence;
use super::pulled::Pulled;
use crate::base::id::{MediaSessionId, random_id};
use crate::base::queue::{Offer, queue};
use crate::base::stop::StopToken;
use crate::base::wait::{Interest, Waiter};
use crate::edge::rtc::{Playing, Publishing};
use crate::edge::tls::Transport;
use crate::hub::{EndReason, Notice, StreamStatus};
use crate::proto::signal::message::{FromClient, Hidden, MessageError, ToClient};
use crate::proto::signal::{Action, EndStatus, Event, Output, Session, SessionIds, StartPlay};
use crate::services::record::{Completion, Recorded};

/// Most events on their way from peers and pictures to one connection, where the settings would allow more. When it
/// is full the client is too slow for what it asked for, and is closed.
const EVENTS_MAX: usize = 1024;

/// Messages taken from a client before its other affairs are looked at.
const READ_BATCH: usize = 32;

/// Messages waiting for a client that reads slowly, from which on we do not read what else it wants.
const OUTBOX_PAUSE: usize = 32;

/// Payload of one frame; longer messages go in fragments (RFC 6455 section 5.4), so that a picture of megabytes
/// leaves no buffer of its size behind.
const FRAME_BYTES: usize = 64 * 1024;

/// Buffer for what comes in: messages are short, and connections are many.
const READ_BUFFER_BYTES: usize = 4 * 1024;

/// Bytes thrown away while the other end takes in that we closed.
const LINGER_BYTES: usize = 1 << 20;

pub(super) struct Conversation<'a> {
    service: &'a WsService,
    socket: WebSocket<Transport>,
    waiter: Waiter,
    stop: StopToken,
    session: Session,
    presence: Presence,
    /// Given to whoever has to tell the session something.
    offer: Offer<Event>,
    events: Receiver<Event>,
    publications: HashMap<MediaSessionId, Publishing>,
    players: HashMap<MediaSessionId, Playing>,
    /// Those of them whose stream is pulled for them, or is a file that is played for them.
    pulled: Pulled,
    outbox: VecDeque<ToClient>,
    /// What is left of the message that is being sent, and whether its first frame is out.
    sending: Option<(Bytes, bool)>,
    /// Frames wait in buffers for room in the socket.
    unflushed: bool,
    /// The client may have sent more than was read, though the socket is silent.
    more: bool,
    /// Since when the socket takes nothing, and how much it had taken by then.
    stalled: Option<(Instant, u64)>,
}

impl<'a> Conversation<'a> {
    pub(super) fn new(service: &'a WsService, transport: Transport, waiter: Waiter, stop: StopToken) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(service.settings.message_max_bytes))
            .max_frame_size(Some(service.settings.message_max_bytes));
        let ids = SessionIds { session_id: random_id(), auth_token: Hidden(random_id()) };
        let session = Session::new(service.settings.signal.clone(), ids, service.clock.now());
        // Each stream may be up, be resized, be muted and be over before we look, and each picture be there. What can be left
        // out takes no more than half of it.
        let signal = &service.settings.signal;
        let events_max =
            signal.streams_max.saturating_mul(8).saturating_add(signal.snapshots_max).saturating_mul(2);
        let (offer, events) = queue(events_max.min(EVENTS_MAX), Some(waiter.waker()));
        let pulled =
            Pulled::new(service.pulls.clone(), service.vods.clone(), signal.streams_max, waiter.waker());
        let presence = service.connected.enter(session.session_id(), waiter.waker());
        Self {
            service,
            socket: WebSocket::from_raw_socket(transport, Role::Server, Some(config)),
            waiter,
            stop,
            session,
            presence,
            offer,
            events,
            publications: HashMap::new(),
            players: HashMap::new(),
            pulled,
            outbox: VecDeque::new(),
            sending: None,
            unflushed: false,
            more: true,
            stalled: None,
        }
    }

    /// Serves the connection to its end.
    pub(super) fn run(mut self) -> Ending {
        let ending = loop {
            if let Err(ending) = self.turn() {
                break ending;
            }
        };
        self.finish(&ending);
        ending
    }

    fn now(&self) -> Instant {
        self.service.clock.now()
    }

    /// One round: say what there is to say, sleep, take in what came.
    fn turn(&mut self) -> Result<(), Ending> {
        let session_deadline = self.drain()?;
        // Before the client hears that it is connected.
        self.presence.introduce(self.session.client());
        self.write()?;
        let paused = self.outbox.len() >= OUTBOX_PAUSE;
        let now = self.now();
        let write_deadline = self.stalled.map(|(since, _)| since + self.service.settings.write_limit);
        if write_deadline.is_some_and(|deadline| now >= deadline) {
            self.service.metrics.bad_input("ws_not_reading");
            return Err(Ending::Gone("client does not read".into()));
        }
        let is_asked = self.presence.hear();
        if self.presence.is_to_end() {
            return Err(Ending::ByUs(CloseCode::Policy, "terminated by an operator".into()));
        }
        let waited = self.outbox.len();
        if !paused {
            self.outbox.extend(self.presence.words());
        }
        let has_words = self.outbox.len() > waited;
        // What was just heard for the client is sent at the next round's beginning.
        let deadline = if (self.more || is_asked || has_words) && !paused {
            Some(now)
        } else {
            session_deadline.into_iter().chain(write_deadline).min()
        };
        let readable = self.sleep(!paused, now, deadline)?;
        if self.stop.is_set() {
            return Err(Ending::Stop);
        }
        if !paused && (readable || self.more) {
            self.read()?;
        }
        if !paused && !self.more {
            self.presence.answer();
        }
        self.hear()?;
        self.session.handle_timeout(self.now());
        Ok(())
    }

    /// Waits for the socket, an event or the deadline; returns whether the socket is readable.
    fn sleep(&mut self, read: bool, now: Instant, deadline: Option<Instant>) -> Result<bool, Ending> {
        let write = self.unflushed || self.sending.is_some() || self.socket.get_ref().wants_write();
        let interest = match (read, write) {
            (true, true) => Interest::Both,
            (false, true) => Interest::Write,
            _ => Interest::Read,
        };
        let socket = (self.socket.get_ref().as_fd(), interest);
        let ready = self
            .waiter
            .wait_until(&[socket], now, deadline)
            .map_err(|error| Ending::Gone(format!("cannot wait: {error}")))?;
        Ok(ready.readable != 0)
    }

    /// Empties the session: messages into the outbox, actions done. Returns its deadline.
    fn drain(&mut self) -> Result<Option<Instant>, Ending> {
        loop {
            match self.session.poll_output() {
                Output::Send(message) => self.outbox.push_back(message),
                Output::Do(action) => self.act(action)?,
                Output::Timeout(at) => return Ok(at),
            }
        }
    }

    fn act(&mut self, action: Action) -> Result<(), Ending> {
        match action {
            Action::StartPublish(request) => {
                let media_session_id = request.media_session_id.clone();
                self.wait_for_owner(request.name.as_str());
                let event = match self.service.rtc.publish(
                    *request,
                    self.session.app_key(),
                    self.session.session_id(),
                    self.offer.clone(),
                    self.stop.clone(),
                ) {
                    Ok((publishing, answered)) => {
                        self.publications.insert(media_session_id, publishing);
                        answered
                    }
                    Err(refused) => failed(media_session_id, refused.to_string()),
                };
                self.session.handle_event(event);
            }
            Action::StopPublish { media_session_id } => match self.publications.get(&media_session_id) {
                Some(publishing) => publishing.stop(EndReason::ByUser),
                // It ended by itself, and its event is on the way.
                None => tracing::debug!("{media_session_id} is over already"),
            },
            Action::StartPlay(request) => match self.pulled.watch(request) {
                Ok(Some(request)) => self.play(&request),
                // It goes on when the source is there.
                Ok(None) => {}
                Err((media_session_id, info)) => {
                    self.session.handle_event(failed(media_session_id, info));
                }
            },
            Action::StopPlay { media_session_id } => match self.players.get(&media_session_id) {
                Some(playing) => playing.stop(EndReason::ByUser.into()),
                None if self.pulled.leave(&media_session_id) => self.session.handle_event(Event::Ended {
                    media_session_id,
                    status: EndStatus::Orderly,
                    info: EndReason::ByUser.to_string(),
                }),
                // It ended by itself, and its event is on the way.
                None => tracing::debug!("{media_session_id} is over already"),
            },
            Action::TakeSnapshot { ticket, name, media_session_id } => {
                let offer = self.offer.clone();
                let reply = Box::new(move |result| {
                    // Full: the connection sees it by the count of refused events. Closed: the client is gone.
                    let _ = offer.offer(Event::Snapshot { ticket, result });
                });
                let own = self.pulled.own_stream(&media_session_id, &name);
                (self.service.take_snapshot)(own.unwrap_or(&name), reply);
            }
            Action::CheckStream { id, name } => {
                let unavailable = match self.service.registry.find(&name).map(|stream| stream.facts().status)
                {
                    None | Some(StreamStatus::Ended) => Some("Stream not found"),
                    Some(StreamStatus::Pending) => Some("Publish stream is not ready"),
                    Some(StreamStatus::Publishing) => None,
                };
                let unavailable = unavailable.map(str::to_owned);
                self.session.handle_event(Event::Checked { id, unavailable });
            }
            Action::SetMuted { media_session_id, audio, video } => {
                if let Some(publishing) = self.publications.get(&media_session_id) {
                    publishing.stream().set_muted(audio, video);
                }
                self.tell_viewers(&media_session_id, &Notice::Muted { audio, video });
            }
            Action::ShareData { media_session_id, payload } => {
                self.tell_viewers(&media_session_id, &Notice::Data(Arc::new(payload)));
            }
            Action::CountBadInput(kind) => self.service.metrics.bad_input(kind),
            Action::CountUnknown(name) => {
                self.service.metrics.unknown_messages_total.inc();
                tracing::debug!("message {name:?} is not served");
            }
            Action::Close(reason) => return Err(reason.into()),
        }
        Ok(())
    }

    /// Begins to send a stream to this client.
    fn play(&mut self, request: &StartPlay) {
        let media_session_id = request.media_session_id.clone();
        let (app_key, session_id) = (self.session.app_key(), self.session.session_id());
        match self.service.rtc.play(request, app_key, session_id, self.offer.clone(), self.stop.clone()) {
            Ok((playing, told)) => {
                self.players.insert(media_session_id, playing);
                told.into_iter().for_each(|event| self.session.handle_event(event));
            }
            Err(refused) => {
                self.pulled.leave(&media_session_id);
                self.session.handle_event(failed(media_session_id, refused.to_string()));
            }
        }
    }

    /// A name that looks taken may be that of a client which is gone, though its thread has not seen it yet.
    fn wait_for_owner(&self, name: &str) {
        let Some(stream) = self.service.registry.find(name) else { return };
        let owner = &stream.publication().session_id;
        if owner != self.session.session_id() {
            self.service.connected.wait_for(owner, self.service.settings.close_limit, &self.stop);
        }
    }

    /// Tells everybody who plays a stream of this client.
    fn tell_viewers(&self, media_session_id: &MediaSessionId, notice: &Notice) {
        let Some(publishing) = self.publications.get(media_session_id) else { return };
        let untold = self.service.registry.viewers().tell(publishing.stream(), notice);
        if untold > 0 {
            tracing::debug!(
                "{untold} viewers of {media_session_id} could not be told: too much waits for them"
            );
        }
    }

    /// Takes in what came from peers and pictures.
    fn hear(&mut self) -> Result<(), Ending> {
        while let Some(told) = self.pulled.next() {
            match told {
                Ok(request) => self.play(&request),
                Err((media_session_id, info)) => {
                    self.session.handle_event(failed(media_session_id, info));
                }
            }
            self.drain()?;
        }
        for _ in 0..EVENTS_MAX {
            let Ok(event) = self.events.try_recv() else { break };
            let Some(event) = self.attend(event) else { continue };
            if let Event::Ended { media_session_id, .. } = &event {
                // This event is its last act.
                if let Some(playing) = self.players.remove(media_session_id) {
                    playing.join(self.service.settings.close_limit);
                }
                self.pulled.leave(media_session_id);
            }
            let is_dispensable = matches!(event, Event::Data { .. } | Event::VideoRate { .. });
            if is_dispensable && self.outbox.len() >= OUTBOX_PAUSE {
                // For a client that reads slowly, what others say must not pile up.
                continue;
            }
            self.session.handle_event(event);
            self.drain()?;
        }
        if self.offer.refused() > 0 {
            self.service.metrics.bad_input("ws_events_full");
            return Err(Ending::ByUs(CloseCode::Policy, "too many events wait for this client".into()));
        }
        Ok(())
    }

    /// Does what an event means for a publication, before the session hears of it; `None`: it will hear of it later.
    fn attend(&mut self, event: Event) -> Option<Event> {
        match event {
            Event::Up { ref media_session_id } => {
                let publishing = self.publications.get(media_session_id);
                let recordings = self.service.recordings.as_ref();
                let name = recordings.zip(publishing).and_then(|(all, one)| all.name_of(one.stream()));
                if let Some(name) = name {
                    self.session.set_record_name(media_session_id, name);
                }
                Some(event)
            }
            Event::Ended { media_session_id, status, info } => {
                let Some(publishing) = self.publications.remove(&media_session_id) else {
                    return Some(Event::Ended { media_session_id, status, info });
                };
                let stream = publishing.stream().clone();
                // This event is its last act.
                publishing.join(self.service.settings.close_limit);
                let (id, why, offer) = (media_session_id.clone(), info.clone(), self.offer.clone());
                let recorded = move |Recorded { name, failure }| Event::Recorded {
                    media_session_id: id,
                    status,
                    info: why,
                    name,
                    failure,
                };
                let later = recorded.clone();
                let reply = Box::new(move |recorded| {
                    // Full: the connection sees it by the count of refused events. Closed: the client is gone.
                    let _ = offer.offer(later(recorded));
                });
                match self.service.recordings.as_ref().map(|all| all.when_complete(&stream, reply)) {
                    // The client shows its file as soon as it hears of the end.
                    Some(Completion::Later) => None,
                    Some(Completion::Done(what)) => Some(recorded(what)),
                    Some(Completion::NotRecorded) | None => {
                        Some(Event::Ended { media_session_id, status, info })
                    }
                }
            }
            other => Some(other),
        }
    }

    fn read(&mut self) -> Result<(), Ending> {
        self.more = true;
        for _ in 0..READ_BATCH {
            match self.socket.read() {
                Ok(Message::Text(text)) => match FromClient::parse(&text) {
                    Ok(message) => self.session.handle_message(self.now(), message),
                    Err(error) => self.session.handle_bad_message(error),
                },
                Ok(Message::Binary(_)) => self.session.handle_bad_message(MessageError::Malformed),
                Ok(Message::Close(_)) => return Err(Ending::ByClient),
                // The library has made the answer, which goes out with the next flush.
                Ok(Message::Ping(_)) => self.unflushed = true,
                Ok(Message::Pong(_) | Message::Frame(_)) => {}
                Err(tungstenite::Error::Io(error)) if is_not_now(&error) => {
                    self.more = false;
                    break;
                }
                Err(error) => return Err(self.read_failed(error)),
            }
            self.drain()?;
            if self.outbox.len() >= OUTBOX_PAUSE {
                break;
            }
        }
        Ok(())
    }

    fn read_failed(&self, error: tungstenite::Error) -> Ending {
        use tungstenite::Error;
        match error {
            Error::ConnectionClosed | Error::AlreadyClosed => Ending::ByClient,
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                Ending::Gone("client went without a word".into())
            }
            Error::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
                self.service.metrics.bad_input("ws_too_large");
                Ending::ByUs(
                    CloseCode::Size,
                    format!("message of {size} bytes, at most {max_size} are taken"),
                )
            }
            Error::Utf8(_) => {
                self.service.metrics.bad_input("ws_protocol");
                Ending::ByUs(CloseCode::Invalid, "text is not UTF-8".into())
            }
            Error::Protocol(error) => {
                self.service.metrics.bad_input("ws_protocol");
                Ending::ByUs(CloseCode::Protocol, error.to_string())
            }
            other => Ending::Gone(other.to_string()),
        }
    }

    /// Sends as much as the socket takes.
    fn write(&mut self) -> Result<(), Ending> {
        let done = self.send_queued().map_err(|error| Ending::Gone(error.to_string()))?;
        if done {
            self.stalled = None;
            return Ok(());
        }
        let sent = self.socket.get_ref().bytes_sent();
        match self.stalled {
            Some((_, before)) if before == sent => {}
            _ => self.stalled = Some((self.now(), sent)),
        }
        Ok(())
    }

    /// Returns whether everything went out.
    fn send_queued(&mut self) -> Result<bool, tungstenite::Error> {
        loop {
            if self.unflushed || self.socket.get_ref().wants_write() {
                match self.socket.flush() {
                    Ok(()) => self.unflushed = false,
                    Err(tungstenite::Error::Io(error)) if is_not_now(&error) => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
            let (mut payload, begun) = match self.sending.take() {
                Some(sending) => sending,
                None => match self.outbox.pop_front() {
                    Some(message) => (Bytes::from(message.to_json()), false),
                    None => return Ok(true),
                },
            };
            let part = payload.split_to(payload.len().min(FRAME_BYTES));
            let opcode = if begun { Data::Continue } else { Data::Text };
            let last = payload.is_empty();
            let frame = Frame::message(part, OpCode::Data(opcode), last);
            if !last {
                self.sending = Some((payload, true));
            }
            // The frame is in the library's buffer whether the socket takes it now or not.
            self.unflushed = true;
            match self.socket.write(Message::Frame(frame)) {
                Err(tungstenite::Error::Io(error)) if is_not_now(&error) => {}
                other => other?,
            }
        }
    }

    /// Ends the client's streams, then says goodbye as far as there is somebody to hear it.
    fn finish(mut self, ending: &Ending) {
        let deadline = self.now() + self.service.settings.close_limit;
        let reason = match ending {
            Ending::Stop => EndReason::Shutdown,
            _ => EndReason::SessionDisconnect,
        };
        for publishing in self.publications.values() {
            publishing.stop(reason.clone());
        }
        for playing in self.players.values() {
            playing.stop(reason.clone().into());
        }
        // The names are free before the client hears that the connection is closed: it may publish again at once.
        for (_, publishing) in self.publications.drain() {
            publishing.join(deadline.saturating_duration_since(self.service.clock.now()));
        }
        for (_, playing) in self.players.drain() {
            playing.join(deadline.saturating_duration_since(self.service.clock.now()));
        }
        self.presence.leave();
        let close = match ending {
            Ending::Gone(_) => return,
            Ending::ByClient => None,
            Ending::ByUs(code, why) => Some(close_frame(*code, why)),
            Ending::Stop => {
                while let Ok(event) = self.events.try_recv() {
                    self.session.handle_event(event);
                }
                let _ = self.drain();
                Some(close_frame(CloseCode::Away, "server stops"))
            }
        };
        if let Some(frame) = close {
            self.until(deadline, Self::send_queued);
            let _ = self.socket.close(Some(frame));
        }
        // No frame is read from here on: after an error the library must not be asked again, and nothing that the
        // client may still say would be heard.
        self.until(deadline, |this| match this.socket.flush() {
            Ok(()) => Ok(true),
            Err(tungstenite::Error::Io(error)) if is_not_now(&error) => Ok(false),
            Err(error) => Err(error),
        });
        self.socket.get_mut().close();
        // A stop is in a hurry: what has come is read, what may still come is not waited for.
        self.linger(if matches!(ending, Ending::Stop) { self.now() } else { deadline });
    }

    /// Tries to send again whenever the socket has room, until it worked, failed, or the deadline.
    fn until(
        &mut self,
        deadline: Instant,
        mut attempt: impl FnMut(&mut Self) -> Result<bool, tungstenite::Error>,
    ) {
        loop {
            if !matches!(attempt(self), Ok(false)) || self.now() >= deadline {
                return;
            }
            let now = self.now();
            let socket = (self.socket.get_ref().as_fd(), Interest::Write);
            if self.waiter.wait_until(&[socket], now, Some(deadline)).is_err() {
                return;
            }
        }
    }

    /// Reads what the client still sends until it closes too: closing over unread bytes would reset the connection
    /// and take the goodbye with it.
    fn linger(&mut self, deadline: Instant) {
        let (mut rest, mut taken) = ([0; 4096], 0);
        while taken < LINGER_BYTES {
            match self.socket.get_mut().read(&mut rest) {
                Ok(0) => return,
                Ok(count) => taken += count,
                Err(error) if is_not_now(&error) => {
                    let now = self.now();
                    if now >= deadline {
                        return;
                    }
                    let socket = (self.socket.get_ref().as_fd(), Interest::Read);
                    if self.waiter.wait_until(&[socket], now, Some(deadline)).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }
}

fn failed(media_session_id: MediaSessionId, info: String) -> Event {
    Event::Ended { media_session_id, status: EndStatus::Failed, info }
}

fn is_not_now(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
