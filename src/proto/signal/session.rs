//! One client's session: its streams and their statuses, its pictures, its deadlines.
//!
//! The order of frames that clients depend on is decided here and nowhere else: the terminal status is the last frame of its media
//! session; a snapshot's failure event comes before its `FAILED`; nobody's active stream is ever told `FAILED` for a snapshot.

mod client;
mod player;

mod snapshots;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::action::{Action, CloseReason, EndStatus, Event, StartPlay, StartPublish};
use super::message::{
    Availability, Connection, DataOutcome, DataStatus, DebugStatus, Failure, FromClient, Hidden,
    MessageError, MutedState, NamedRequest, SendStreamEvent, Status, StreamEventKind, StreamRequest,
    StreamStatusEvent, ToClient,
};
use crate::base::id::{MediaSessionId, StreamName, without_password};

/// Limits and deadlines of a session.
#[derive(Clone, Debug)]
pub struct SignalSettings {
    /// From one `ping` of ours to the next (`keep_alive.server_interval`). Clients give up without one in about five seconds.
    pub ping_interval: Duration,
    /// Pings without any sign of life after which the connection is closed (`keep_alive.probes`).
    pub ping_probes: u32,
    /// Time for the client's `connection` message.
    pub connection_limit: Duration,
    /// Most streams that one connection may publish at once.
    pub streams_max: usize,
    /// Most snapshots that one connection may wait for at once.
    pub snapshots_max: usize,
    /// Frames that are no messages, after which the connection is closed.
    pub bad_messages_max: u32,
}

/// What the session is told of itself at its beginning; both texts are random.
#[derive(Clone, Debug)]
pub struct SessionIds {
    /// The server's name for the connection.
    pub session_id: String,
    /// With it other sockets may show that they belong to this client. Not guessable.
    pub auth_token: Hidden,
}

/// What comes out of a session.
#[derive(Debug)]
pub enum Output {
    /// Send this.
    Send(ToClient),
    /// Do this.
    Do(Action),
    /// Nothing more until something happens or it is this time; `None` after [`Action::Close`].
    Timeout(Option<Instant>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Publisher,
    Player,
}

/// Where a stream of the client stands. The steps are `Negotiating → Connecting → Up → Stopping`, each of which may be
/// left out or be the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// The action is out, no answer came yet.
    Negotiating,
    /// The answer is sent.
    Connecting,
    /// The positive status is sent.
    Up,
    /// The client asked for the end and waits for the terminal status.
    Stopping,
}

#[derive(Debug)]
struct ClientStream {
    side: Side,
    step: Step,
    name: String,
    video_codec: Option<String>,
    audio_codec: Option<String>,
    /// What the publisher of a played stream says of its microphone and camera.
    muted: [MutedState; 2],
    /// The file that it is recorded to, and why no longer.
    record: Option<(String, Option<String>)>,
}

#[derive(Debug)]
struct PendingSnapshot {
    media_session_id: String,
    name: String,
    /// The id was a stream's when the picture was asked for: once that stream is over, nothing more may be said of it.
    of_stream: bool,
}

#[derive(Debug)]
enum Phase {
    /// Until when `connection` must come.
    Greeting(Instant),
    Open {
        next_ping: Instant,
        unanswered: u32,
    },
    Closed,
}

/// The session of one client connection.
#[derive(Debug)]
pub struct Session {
    settings: SignalSettings,
    ids: SessionIds,
    phase: Phase,
    app_key: String,
    /// What others may know of the client's `connection` message.
    client: Option<Arc<Map<String, Value>>>,
    streams: BTreeMap<MediaSessionId, ClientStream>,
    snapshots: BTreeMap<u64, PendingSnapshot>,
    next_ticket: u64,
    bad_messages: u32,
    outputs: VecDeque<Output>,
}

impl Session {
    /// A session whose WebSocket has just opened.
    #[must_use]
    pub fn new(settings: SignalSettings, ids: SessionIds, now: Instant) -> Self {
        let phase = Phase::Greeting(now + settings.connection_limit);
        Self {
            settings,
            ids,
            phase,
            app_key: String::new(),
            client: None,
            streams: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            next_ticket: 0,
            bad_messages: 0,
            outputs: VecDeque::new(),
        }
    }

    /// Backend application key of the connection; empty before `connection` came.
    #[must_use]
    pub fn app_key(&self) -> &str {
        &self.app_key
    }

    /// The server's name for the connection.
    #[must_use]
    pub fn session_id(&self) -> &str {
        &self.ids.session_id
    }

    /// What the client told of itself, with `sessionId` and `status`, as an operator sees it (section 9.4): without its
    /// token and without what it told of other accounts. `None` before its `connection` message.
    #[must_use]
    pub fn client(&self) -> Option<&Arc<Map<String, Value>>> {
        self.client.as_ref()
    }

    /// The next thing to do or send.
    pub fn poll_output(&mut self) -> Output {
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        Output::Timeout(match self.phase {
            Phase::Greeting(until) => Some(until),
            Phase::Open { next_ping, .. } => Some(next_ping),
            Phase::Closed => None,
        })
    }

    /// Moves deadlines on.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Greeting(until) if now >= *until => self.close(CloseReason::NoConnection),
            Phase::Open { next_ping, unanswered } if now >= *next_ping => {
                if *unanswered >= self.settings.ping_probes {
                    self.close(CloseReason::KeepAlive);
                    return;
                }
                *unanswered += 1;
                // From now rather than from the plan: a thread that was held up does not send a burst.
                *next_ping = now + self.settings.ping_interval;
                self.send(ToClient::Ping([]));
            }
            _ => {}
        }
    }

    /// Takes a message of the client.
    pub fn handle_message(&mut self, now: Instant, message: FromClient) {
        match &mut self.phase {
            Phase::Closed => return,
            Phase::Greeting(_) => return self.handle_early(now, message),
            Phase::Open { unanswered, .. } => *unanswered = 0,
        }
        match message {
            FromClient::Ping => self.send(ToClient::Pong([()])),
            FromClient::Pong | FromClient::Ignored => {}
            FromClient::Connection(_) => self.act(Action::CountBadInput("second_connection")),
            FromClient::PublishStream(request) => self.publish(*request),
            FromClient::PlayStream(request) => self.play(*request),
            FromClient::UnPublishStream { media_session_id } => {
                self.stop(&media_session_id, Side::Publisher);
            }
            FromClient::StopStream { media_session_id } => self.stop(&media_session_id, Side::Player),
            FromClient::Snapshot(request) => self.snapshot(request),
            FromClient::AvailableStream(NamedRequest { name, media_session_id }) => {
                self.act(Action::CheckStream { id: media_session_id, name });
            }
            FromClient::SendStreamEvent(event) => self.stream_event(event),
            FromClient::SendData { operation_id } => {
                let status = DataOutcome::Accepted;
                self.send(ToClient::DataStatusEvent([DataStatus { operation_id, status }]));
            }
            FromClient::SessionDebug => {
                self.send(ToClient::NotifySessionDebugEvent([DebugStatus { status: Status::Stopped }]));
            }
            FromClient::NotServed(name) => self.act(Action::CountUnknown(name.to_owned())),
            FromClient::Unknown(name) => self.act(Action::CountUnknown(name)),
        }
    }

    /// Takes a frame that is no message: tells its sender, who is closed after too many of them.
    pub fn handle_bad_message(&mut self, error: MessageError) {
        if matches!(self.phase, Phase::Closed) {
            return;
        }
        self.act(Action::CountBadInput("signal_message"));
        self.fail("MessageEvent", &error.to_string());
        self.bad_messages += 1;
        if self.bad_messages >= self.settings.bad_messages_max {
            self.close(CloseReason::BadMessages);
        }
    }

    /// Takes what came of an action.
    pub fn handle_event(&mut self, event: Event) {
        if matches!(self.phase, Phase::Closed) {
            return;
        }
        match event {
            Event::Answered { media_session_id, sdp, video_codec, audio_codec } => {
                let Some(stream) = self.streams.get_mut(&media_session_id) else { return };
                (stream.video_codec, stream.audio_codec) = (video_codec, audio_codec);
                // A client that has asked for the end has closed its peer connection.
                if stream.step == Step::Negotiating {
                    stream.step = Step::Connecting;
                    self.send(ToClient::SetRemoteSdp(media_session_id.as_str().to_owned(), sdp.0, false));
                }
            }
            Event::Up { media_session_id } => {
                let Some(stream) = self.streams.get_mut(&media_session_id) else { return };
                if stream.step < Step::Up {
                    debug_assert_eq!(stream.step, Step::Connecting, "up without an answer");
                    stream.step = Step::Up;
                    let is_player = stream.side == Side::Player;
                    let status = StreamStatusEvent {
                        published: Some(!is_player),
                        has_video: Some(stream.video_codec.is_some()),
                        has_audio: Some(stream.audio_codec.is_some()),
                        video_codec: stream.video_codec.clone(),
                        audio_codec: stream.audio_codec.clone(),
                        record: Some(stream.record.is_some()),
                        record_name: stream.record.as_ref().map(|(name, _)| name.clone()),
                        media_provider: Some("WebRTC"),
                        audio_state: is_player.then_some(stream.muted[0]),
                        video_state: is_player.then_some(stream.muted[1]),
                        ..StreamStatusEvent::new(
                            media_session_id.as_str(),
                            &stream.name,
                            if is_player { Status::Playing } else { Status::Publishing },
                        )
                    };
                    self.send(ToClient::NotifyStreamStatusEvent([status]));
                }
            }
            Event::Muted { media_session_id, audio, video } => self.muted(&media_session_id, audio, video),
            Event::Data { media_session_id, payload } => {
                self.tell_player(&media_session_id, StreamEventKind::Data(payload), |_| None);
            }
            Event::Resized { media_session_id, size } => self.resized(&media_session_id, size),
            Event::NotEnoughBandwidth { media_session_id, rates } => {
                self.not_enough_bandwidth(&media_session_id, rates);
            }
            Event::VideoRate { media_session_id, bps } => self.video_rate(&media_session_id, bps),
            Event::Ended { media_session_id, status, info } => self.ended(&media_session_id, status, &info),
            Event::Recorded { media_session_id, status, info, name, failure } => {
                if let Some(stream) = self.streams.get_mut(&media_session_id) {
                    stream.record = Some((name, failure));
                }
                self.ended(&media_session_id, status, &info);
            }
            Event::Snapshot { ticket, result } => {
                if let Some(pending) = self.snapshots.remove(&ticket) {
                    self.answer_snapshot(pending, result);
                }
            }
            Event::Checked { id, unavailable } => {
                let status = unavailable.is_none();
                self.send(ToClient::AvailableStream([Availability { id, status, info: unavailable }]));
            }
        }
    }

    /// A publication is recorded to a file of this name. To be told before [`Event::Up`], which clients hear of it with.
    pub fn set_record_name(&mut self, media_session_id: &MediaSessionId, name: String) {
        if let Some(stream) = self.streams.get_mut(media_session_id) {
            stream.record = Some((name, None));
        }
    }

    fn send(&mut self, message: ToClient) {
        self.outputs.push_back(Output::Send(message));
    }

    fn act(&mut self, action: Action) {
        self.outputs.push_back(Output::Do(action));
    }

    fn fail(&mut self, api_method: &'static str, info: &str) {
        self.send(ToClient::Fail([Failure { api_method, status: Status::Failed, info: info.to_owned() }]));
    }

    fn close(&mut self, reason: CloseReason) {
        self.phase = Phase::Closed;
        self.streams.clear();
        self.snapshots.clear();
        self.act(Action::Close(reason));
    }

    /// Before `connection`: nothing is served, and whoever expects an answer gets one.
    fn handle_early(&mut self, now: Instant, message: FromClient) {
        match message {
            FromClient::Connection(connection) => self.connect(now, connection),
            FromClient::Ping => self.send(ToClient::Pong([()])),
            FromClient::PublishStream(request) => self.refuse(Side::Publisher, &request, NOT_READY),
            FromClient::PlayStream(request) => self.refuse(Side::Player, &request, NOT_READY),
            FromClient::Snapshot(NamedRequest { name, media_session_id }) => {
                let pending = PendingSnapshot { media_session_id, name, of_stream: false };
                self.answer_snapshot(pending, Err(NOT_READY.to_owned()));
            }
            FromClient::AvailableStream(NamedRequest { media_session_id: id, .. }) => {
                let info = Some(NOT_READY.to_owned());
                self.send(ToClient::AvailableStream([Availability { id, status: false, info }]));
            }
            _ => self.act(Action::CountBadInput("before_connection")),
        }
    }

    fn connect(&mut self, now: Instant, connection: Connection) {
        let Connection { app_key, mut fields } = connection;
        if app_key.len() > APP_KEY_MAX_BYTES || app_key.chars().any(char::is_control) {
            self.fail("ConnectionStatusEvent", "Forbidden");
            self.close(CloseReason::Refused);
            return;
        }
        self.app_key = app_key;
        for name in NEVER_ECHOED {
            fields.remove(name);
        }
        self.client = Some(Arc::new(client::shown(&fields, &self.ids.session_id)));
        fields.insert("authToken".into(), self.ids.auth_token.0.clone().into());
        fields.insert("sessionId".into(), self.ids.session_id.clone().into());
        fields.insert("status".into(), "ESTABLISHED".into());
        self.phase = Phase::Open { next_ping: now + self.settings.ping_interval, unanswered: 0 };
        self.send(ToClient::GetUserData([fields]));
    }

    fn publish(&mut self, request: StreamRequest) {
        let Some(media_session_id) = self.new_stream_id(Side::Publisher, &request) else { return };
        let Ok(name) = StreamName::new(&request.name) else {
            self.act(Action::CountBadInput("stream_name"));
            self.refuse(Side::Publisher, &request, NOT_ADDED);
            return;
        };
        // It is kept as long as the stream, and there may be many.
        if request.custom.to_string().len() > CUSTOM_MAX_BYTES {
            self.act(Action::CountBadInput("custom_too_large"));
            self.refuse(Side::Publisher, &request, NOT_ADDED);
            return;
        }
        self.begin(Side::Publisher, &media_session_id, name.as_str());
        let StreamRequest { sdp, record, bitrate, min_bitrate, max_bitrate, custom, .. } = request;
        self.act(Action::StartPublish(Box::new(StartPublish {
            media_session_id,
            name,
            sdp,
            record,
            bitrates_kbps: [bitrate, min_bitrate, max_bitrate],
            custom,
        })));
    }

    fn play(&mut self, request: StreamRequest) {
        let Some(media_session_id) = self.new_stream_id(Side::Player, &request) else { return };
        if request.custom.to_string().len() > CUSTOM_MAX_BYTES {
            self.act(Action::CountBadInput("custom_too_large"));
            self.refuse(Side::Player, &request, NOT_ADDED);
            return;
        }
        self.begin(Side::Player, &media_session_id, &request.name);
        let StreamRequest { name, sdp, width, height, bitrate, min_bitrate, max_bitrate, custom, .. } =
            request;
        self.act(Action::StartPlay(Box::new(StartPlay {
            media_session_id,
            name,
            sdp,
            size: [width, height],
            bitrates_kbps: [bitrate, min_bitrate, max_bitrate],
            custom,
        })));
    }

    fn begin(&mut self, side: Side, media_session_id: &MediaSessionId, name: &str) {
        let stream = ClientStream {
            side,
            step: Step::Negotiating,
            name: without_password(name).into_owned(),
            video_codec: None,
            audio_codec: None,
            muted: [MutedState::default(); 2],
            record: None,
        };
        self.streams.insert(media_session_id.clone(), stream);
    }

    /// Checks what publishing and playing have in common; a refusal is told.
    fn new_stream_id(&mut self, side: Side, request: &StreamRequest) -> Option<MediaSessionId> {
        if request.media_session_id.is_empty() {
            self.refuse(side, request, "MediaSessionId is null");
            return None;
        }
        let Ok(media_session_id) = MediaSessionId::new(&request.media_session_id) else {
            self.act(Action::CountBadInput("media_session_id"));
            self.refuse(side, request, NOT_ADDED);
            return None;
        };
        let info = if self.streams.contains_key(&media_session_id) {
            "MediaSessionId is already in use"
        } else if !matches!(request.media_provider.as_str(), "WebRTC" | "") {
            // Other providers have other transports, none of which is served.
            "No common codecs"
        } else if self.streams.len() >= self.settings.streams_max {
            self.act(Action::CountBadInput("streams_per_connection"));
            NOT_ADDED
        } else {
            return Some(media_session_id);
        };
        self.refuse(side, request, info);
        None
    }

    /// Every request gets an answer under the id that it named, an id that is in use included: its first stream goes on.
    fn refuse(&mut self, side: Side, request: &StreamRequest, info: &str) {
        let name = without_password(&request.name);
        self.send_end(side, &request.media_session_id, &name, Status::Failed, info);
    }

    fn send_end(&mut self, side: Side, media_session_id: &str, name: &str, status: Status, info: &str) {
        let status = StreamStatusEvent {
            published: Some(side == Side::Publisher),
            info: Some(info.into()),
            media_provider: Some("WebRTC"),
            ..StreamStatusEvent::new(media_session_id, name, status)
        };
        self.send(ToClient::NotifyStreamStatusEvent([status]));
    }

    fn stop(&mut self, media_session_id: &str, side: Side) {
        // Unknown ids, and ids of the other side, are ignored (appendix A.3).
        let Ok(media_session_id) = MediaSessionId::new(media_session_id) else { return };
        let Some(stream) = self.streams.get_mut(&media_session_id).filter(|stream| stream.side == side)
        else {
            return;
        };
        if stream.step == Step::Stopping {
            return;
        }
        stream.step = Step::Stopping;
        self.act(match side {
            Side::Publisher => Action::StopPublish { media_session_id },
            Side::Player => Action::StopPlay { media_session_id },
        });
    }

    fn ended(&mut self, media_session_id: &MediaSessionId, status: EndStatus, info: &str) {
        let Some(stream) = self.streams.remove(media_session_id) else { return };
        // A client that asked for the end gets it, whatever else happened to the stream meanwhile.
        let (status, info) = match (stream.step, status) {
            (Step::Stopping, _) => (EndStatus::Orderly, STOPPED_BY_USER),
            (_, status) => (status, info),
        };
        let status = match (status, stream.side) {
            (EndStatus::Failed, _) => Status::Failed,
            (EndStatus::Orderly, Side::Publisher) => Status::Unpublished,
            (EndStatus::Orderly, Side::Player) => Status::Stopped,
        };
        let (record_name, record_info) = stream.record.unzip();
        let status = StreamStatusEvent {
            published: Some(stream.side == Side::Publisher),
            info: Some(info.into()),
            record_name,
            record_info: record_info.flatten(),
            media_provider: Some("WebRTC"),
            ..StreamStatusEvent::new(media_session_id.as_str(), &stream.name, status)
        };
        self.send(ToClient::NotifyStreamStatusEvent([status]));
    }

    fn is_stream(&self, media_session_id: &str) -> bool {
        MediaSessionId::new(media_session_id).is_ok_and(|id| self.streams.contains_key(&id))
    }

    fn stream_event(&mut self, event: SendStreamEvent) {
        let publisher = MediaSessionId::new(&event.media_session_id).ok().filter(|id| {
            let stream = self.streams.get(id);
            stream.is_some_and(|stream| stream.side == Side::Publisher && stream.step != Step::Stopping)
        });
        let Some(media_session_id) = publisher else {
            self.act(Action::CountBadInput("stream_event"));
            return;
        };
        let (audio, video) = match event.kind.as_str() {
            "audioMuted" => (Some(true), None),
            "audioUnmuted" => (Some(false), None),
            "videoMuted" => (None, Some(true)),
            "videoUnmuted" => (None, Some(false)),
            "data" => {
                // Every viewer gets it, and it waits for those that read slowly.
                if event.payload.to_string().len() > CUSTOM_MAX_BYTES {
                    self.act(Action::CountBadInput("data_too_large"));
                    return;
                }
                self.act(Action::ShareData { media_session_id, payload: event.payload });
                return;
            }
            _ => {
                self.act(Action::CountBadInput("stream_event"));
                return;
            }
        };
        self.act(Action::SetMuted { media_session_id, audio, video });
    }
}

/// Longest backend application key.
const APP_KEY_MAX_BYTES: usize = 256;

/// Most bytes of a page's data, as JSON. Rooms send their name, some pages a token.
const CUSTOM_MAX_BYTES: usize = 64 * 1024;

/// Fields of `connection` that are not sent back: a password, and a field that would make the client collect statistics (section 1.8).
const NEVER_ECHOED: [&str; 2] = ["sipPassword", "webRTCMetricsServerDescription"];

/// The stream cannot exist as it was asked for.
const NOT_ADDED: &str = "Failed to add stream to proxy";
/// No picture, and no fault of its stream.
const NO_SNAPSHOT: &str = "Snapshot taking error";
/// Asked for before `connection`.
const NOT_READY: &str = "Session not ready";
/// The client asked for the end.
const STOPPED_BY_USER: &str = "Stopped by user";

#[cfg(test)]
mod tests;
