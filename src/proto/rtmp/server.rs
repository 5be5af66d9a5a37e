//! One client of ours, encoder or player: its commands, and what they are answered (RTMP section 7.2, and what Flash
//! Media Server answers beyond it).
//!
//! ```text
//! connect ─► createStream ─► publish ─► [Publish]  accept ─► media ─► [Media] … deleteStream ─► [Ended]
//!                        └─► play ────► [Play]     accept ─► write(unit) …    ─► end_play
//! ```
//!
//! A connection publishes or plays one stream at a time. Which names exist is not known here: the driver of the machine
//! accepts or refuses.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::RngCore;
use thiserror::Error;

use super::RtmpError;
use super::amf0::Value;
use super::chunk::{Message, kind};
use super::flv::TagError;
use super::handshake::RANDOM_BYTES;
use super::link::{self, Link, event};
use super::media_reader::{MediaOutput, MediaReader};
use super::media_writer::{Announced, MediaWriter, Unplayable, four_ccs};
use super::url::split_parameters;
use crate::media::unit::MediaUnit;

/// Limits of a connection.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Largest picture that is taken, in pixels.
    pub pixels_max: u64,
    /// Time from the beginning (or from the end of what it did) until a client publishes or plays.
    pub idle_limit: Duration,
    /// How long a publisher's media may stay away (`rtp_activity_detecting`); `None`: for ever.
    pub silence_limit: Option<Duration>,
}

/// A stream that a client wants to publish or play.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Application, without parameters.
    pub app: String,
    /// Name of the stream, without parameters.
    pub name: String,
    /// Parameters after the application and after the name (protocol document, section 7.3):
    /// `{"connect":{…},"stream":{…}}`, without what is not there; `null` when there are none.
    pub custom: serde_json::Value,
}

/// Why a connection is over.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ServerCause {
    /// What came is not RTMP, or too much of it.
    #[error(transparent)]
    Protocol(#[from] RtmpError),
    /// The client did not say in time what it wants.
    #[error("neither publishes nor plays")]
    Idle,
    /// A publisher's media stayed away.
    #[error("no media any more")]
    Silent,
    /// What it asked for was refused; it was told why.
    #[error("refused: {0}")]
    Refused(String),
    /// It publishes a codec that is not taken; it was told.
    #[error(transparent)]
    Unsupported(#[from] TagError),
    /// It cannot play the stream; it was told.
    #[error(transparent)]
    Unplayable(#[from] Unplayable),
    /// We ended it.
    #[error("closed")]
    Local,
}

/// What a connection wants.
#[derive(Clone, Debug)]
pub enum ServerOutput {
    /// It wants to publish: answer with [`ServerSession::accept_publish`] or [`ServerSession::refuse_publish`].
    Publish(Request),
    /// It wants to play: answer with [`ServerSession::accept_play`] or [`ServerSession::refuse_play`].
    Play(Request),
    /// Media of the publication.
    Media(MediaOutput),
    /// The client ended its publication or its play. It may begin another.
    Ended,
    /// It is over: send what is left of the output, then close. Nothing but `Timeout` follows.
    Closed(ServerCause),
    /// Nothing more for now: send [`ServerSession::output`], and come again with bytes, or at this moment.
    Timeout(Instant),
}

#[derive(Debug)]
enum Activity {
    /// Handshake, `connect`, and whatever comes before the client says what it wants.
    Idle,
    Publishing {
        stream_id: u32,
        name: String,
        reader: Box<MediaReader>,
    },
    Playing {
        name: String,
        writer: MediaWriter,
    },
    Closed,
}

/// Streams that one connection may create. Each costs a number.
const STREAMS_MAX: u32 = 64;
/// Moment of the next timeout where there is none.
const NEVER: Duration = Duration::from_secs(86_400);

/// The machine.
#[derive(Debug)]
pub struct ServerSession {
    settings: ServerSettings,
    link: Link,
    activity: Activity,
    /// Application and its parameters; `None` before `connect`.
    app: Option<(String, Option<serde_json::Value>)>,
    announced: Announced,
    streams: u32,
    media: VecDeque<MediaOutput>,
    outputs: VecDeque<ServerOutput>,
    deadline: Instant,
}

impl ServerSession {
    /// A connection that began now.
    #[must_use]
    pub fn new(settings: ServerSettings, random: &mut dyn RngCore, now: Instant) -> Self {
        let mut bytes = Box::new([0; RANDOM_BYTES]);
        random.fill_bytes(bytes.as_mut_slice());
        Self {
            link: Link::server(bytes),
            activity: Activity::Idle,
            app: None,
            announced: Announced::default(),
            streams: 0,
            media: VecDeque::new(),
            outputs: VecDeque::new(),
            deadline: now + settings.idle_limit,
            settings,
        }
    }

    /// Bytes to be sent; call [`ServerSession::sent`] for those that were. While they are many, do not read: answers are
    /// made only for what is read.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        self.link.output()
    }

    /// So many bytes of [`ServerSession::output`] were sent.
    pub fn sent(&mut self, count: usize) {
        self.link.sent(count);
    }

    /// Bytes received so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.link.received()
    }

    /// The next output; [`ServerOutput::Timeout`] when there is none.
    pub fn poll_output(&mut self) -> ServerOutput {
        self.outputs.pop_front().unwrap_or(ServerOutput::Timeout(self.deadline))
    }

    /// Takes bytes that came.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) {
        let mut input = bytes;
        while !matches!(self.activity, Activity::Closed) {
            match self.link.next(&mut input, now) {
                Ok(Some(message)) => {
                    if let Err(error) = self.handle_message(now, message) {
                        self.close_with(ServerCause::Protocol(error));
                    }
                }
                Ok(None) => return,
                Err(error) => self.close_with(ServerCause::Protocol(error)),
            }
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now < self.deadline {
            return;
        }
        match self.activity {
            Activity::Idle => self.close_with(ServerCause::Idle),
            Activity::Publishing { .. } => self.close_with(ServerCause::Silent),
            Activity::Playing { .. } | Activity::Closed => self.deadline = now + NEVER,
        }
    }

    fn close_with(&mut self, cause: ServerCause) {
        if !matches!(self.activity, Activity::Closed) {
            self.activity = Activity::Closed;
            self.deadline += NEVER;
            self.outputs.push_back(ServerOutput::Closed(cause));
        }
    }

    fn handle_message(&mut self, now: Instant, message: Message) -> Result<(), RtmpError> {
        if matches!(message.kind, kind::AUDIO | kind::VIDEO) {
            self.handle_media(now, message);
        } else if let Some(values) = link::command_values(&message)? {
            self.handle_command(now, message.stream_id, &values);
        } else if let Some(values) = link::data_values(&message)
            && let Activity::Publishing { reader, .. } = &mut self.activity
        {
            reader.metadata(&values, &mut self.media);
            self.pass_media();
        }
        Ok(())
    }

    fn handle_media(&mut self, now: Instant, message: Message) {
        let Activity::Publishing { reader, .. } = &mut self.activity else { return };
        self.deadline = now + self.settings.silence_limit.unwrap_or(NEVER);
        let Message { timestamp, arrived, payload, .. } = message;
        if message.kind == kind::VIDEO {
            reader.video(timestamp, arrived, payload, &mut self.media);
        } else {
            reader.audio(timestamp, arrived, payload, &mut self.media);
        }
        self.pass_media();
    }

    fn pass_media(&mut self) {
        while let Some(output) = self.media.pop_front() {
            let MediaOutput::Unsupported { is_video: true, error } = output else {
                self.outputs.push_back(ServerOutput::Media(output));
                continue;
            };
            if let Activity::Publishing { stream_id, ref name, .. } = self.activity {
                let name = name.clone();
                self.status(stream_id, Level::Error, "NetStream.Publish.Rejected", &error.to_string(), &name);
            }
            self.media.clear();
            self.close_with(ServerCause::Unsupported(error));
        }
    }

    fn handle_command(&mut self, now: Instant, stream_id: u32, values: &[Value]) {
        let Some(command) = values.first().and_then(Value::as_str) else { return };
        let call = values.get(1).and_then(Value::as_number).unwrap_or_default();
        let argument = values.get(3);
        let text = argument.and_then(Value::as_str).unwrap_or_default();
        match command {
            "connect" => self.connect(call, values.get(2).unwrap_or(&Value::Null)),
            _ if self.app.is_none() => {
                self.close_with(ServerCause::Refused("command before connect".to_owned()));
            }
            "createStream" if self.streams < STREAMS_MAX => {
                self.streams += 1;
                self.result(call, Value::Number(self.streams.into()));
            }
            "releaseStream" | "_checkbw" | "FCSubscribe" => {
                self.result(call, Value::Undefined);
                if command == "FCSubscribe" {
                    self.notice("onFCSubscribe", "NetStream.Play.Start", text);
                }
            }
            "FCPublish" => {
                self.result(call, Value::Undefined);
                self.notice("onFCPublish", "NetStream.Publish.Start", text);
            }
            "FCUnpublish" => {
                self.result(call, Value::Undefined);
                self.notice("onFCUnpublish", "NetStream.Unpublish.Success", text);
            }
            // Live streams have no length.
            "getStreamLength" => self.result(call, Value::Number(0.0)),
            "publish" if argument == Some(&Value::Boolean(false)) => self.end_stream(now, stream_id),
            "publish" => self.publish(stream_id, text),
            "play" if argument == Some(&Value::Boolean(false)) => self.end_stream(now, stream_id),
            "play" => self.play(stream_id, text),
            "closeStream" => self.end_stream(now, stream_id),
            "deleteStream" => {
                // A number that is none ends nothing.
                let id = argument.and_then(Value::as_number).unwrap_or_default();
                self.end_stream(now, id as u32);
            }
            // Live has no other time to go to, and goes on while nobody listens.
            "pause" | "seek" | "receiveAudio" | "receiveVideo" => {}
            _ if call > 0.0 && !command.starts_with('_') => {
                let failed = status_object(Level::Error, "NetConnection.Call.Failed", "not served", "");
                self.link.command(0, &[Value::text("_error"), Value::Number(call), Value::Null, failed]);
            }
            _ => {}
        }
    }

    fn result(&mut self, call: f64, value: Value) {
        if call > 0.0 {
            self.link.command(0, &[Value::text("_result"), Value::Number(call), Value::Null, value]);
        }
    }

    fn notice(&mut self, command: &str, code: &str, name: &str) {
        let object = Value::object([("code", Value::text(code)), ("description", Value::text(name))]);
        self.link.command(0, &[Value::text(command), Value::Number(0.0), Value::Null, object]);
    }

    fn status(&mut self, stream_id: u32, level: Level, code: &str, description: &str, name: &str) {
        let object = status_object(level, code, description, name);
        self.link.command(stream_id, &[Value::text("onStatus"), Value::Number(0.0), Value::Null, object]);
    }

    fn connect(&mut self, call: f64, object: &Value) {
        let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
        let (app, parameters) = split_parameters(text("app"));
        // Some clients leave the parameters out of the application's name.
        let parameters = parameters.or_else(|| split_parameters(text("tcUrl")).1);
        self.app = Some((app.trim_matches('/').to_owned(), parameters));
        self.announced = Announced::read(object);
        self.link.announce();
        self.link.ask_bandwidth();
        // What Flash Media Server says of itself; old clients look for it.
        let server = Value::object([
            ("fmsVer", Value::text("FMS/3,5,7,7009")),
            ("capabilities", Value::Number(31.0)),
            ("mode", Value::Number(1.0)),
        ]);
        let mut information = vec![
            ("level".to_owned(), Value::text("status")),
            ("code".to_owned(), Value::text("NetConnection.Connect.Success")),
            ("description".to_owned(), Value::text("Connection succeeded.")),
            // Commands are AMF 0, whatever was asked for.
            ("objectEncoding".to_owned(), Value::Number(0.0)),
        ];
        if self.announced.is_enhanced() {
            information.push(("fourCcList".to_owned(), Value::StrictArray(four_ccs())));
        }
        let answer = [Value::text("_result"), Value::Number(call), server, Value::Object(information)];
        self.link.command(0, &answer);
    }

    /// The request for a stream whose name, with parameters, is this.
    fn request(&self, text: &str) -> Request {
        let (app, connect) = self.app.clone().unwrap_or_default();
        let (name, stream) = split_parameters(text);
        let groups = [("connect", connect), ("stream", stream)];
        let custom: serde_json::Map<String, serde_json::Value> =
            groups.into_iter().filter_map(|(group, values)| Some((group.to_owned(), values?))).collect();
        let custom = if custom.is_empty() { serde_json::Value::Null } else { custom.into() };
        Request { app, name: name.to_owned(), custom }
    }

    fn publish(&mut self, stream_id: u32, text: &str) {
        let request = self.request(text);
        if !matches!(self.activity, Activity::Idle) {
            let why = "this connection has a stream already";
            return self.status(stream_id, Level::Error, "NetStream.Publish.BadName", why, &request.name);
        }
        let reader = Box::new(MediaReader::new(self.settings.pixels_max));
        self.activity = Activity::Publishing { stream_id, name: request.name.clone(), reader };
        self.outputs.push_back(ServerOutput::Publish(request));
    }

    /// Lets it publish.
    pub fn accept_publish(&mut self, now: Instant) {
        let Activity::Publishing { stream_id, ref name, .. } = self.activity else { return };
        let name = name.clone();
        self.deadline = now + self.settings.silence_limit.unwrap_or(NEVER);
        self.link.user_control(event::STREAM_BEGIN, &stream_id.to_be_bytes());
        self.status(stream_id, Level::Status, "NetStream.Publish.Start", "Publishing.", &name);
    }

    /// Does not let it publish, for this reason, and closes the connection: encoders then try again or tell their user.
    pub fn refuse_publish(&mut self, why: &str) {
        let Activity::Publishing { stream_id, ref name, .. } = self.activity else { return };
        let name = name.clone();
        self.status(stream_id, Level::Error, "NetStream.Publish.BadName", why, &name);
        self.close_with(ServerCause::Refused(why.to_owned()));
    }

    /// Ends the publication from our side, for this reason, and closes the connection.
    pub fn end_publish(&mut self, why: &str) {
        if let Activity::Publishing { stream_id, ref name, .. } = self.activity {
            let name = name.clone();
            self.status(stream_id, Level::Status, "NetStream.Unpublish.Success", why, &name);
        }
        let closed = status_object(Level::Error, "NetConnection.Connect.Closed", why, "");
        self.link.command(0, &[Value::text("onStatus"), Value::Number(0.0), Value::Null, closed]);
        self.close_with(ServerCause::Local);
    }

    fn play(&mut self, stream_id: u32, text: &str) {
        let request = self.request(text);
        if !matches!(self.activity, Activity::Idle) {
            let why = "this connection has a stream already";
            return self.status(stream_id, Level::Error, "NetStream.Play.Failed", why, &request.name);
        }
        let writer = MediaWriter::new(stream_id, self.announced.clone());
        self.activity = Activity::Playing { name: request.name.clone(), writer };
        self.outputs.push_back(ServerOutput::Play(request));
    }

    /// Lets it play: [`ServerSession::write`] follows.
    pub fn accept_play(&mut self, now: Instant) {
        let Activity::Playing { ref name, ref writer } = self.activity else { return };
        let (stream_id, name) = (writer.stream_id(), name.clone());
        self.deadline = now + NEVER;
        self.link.user_control(event::STREAM_BEGIN, &stream_id.to_be_bytes());
        self.status(stream_id, Level::Status, "NetStream.Play.Reset", "Playing and resetting.", &name);
        self.status(stream_id, Level::Status, "NetStream.Play.Start", "Started playing.", &name);
    }

    /// Does not let it play, and closes the connection. `not_found`: there is no such stream.
    pub fn refuse_play(&mut self, not_found: bool, why: &str) {
        let code = if not_found { "NetStream.Play.StreamNotFound" } else { "NetStream.Play.Failed" };
        let Activity::Playing { ref name, ref writer } = self.activity else { return };
        let (stream_id, name) = (writer.stream_id(), name.clone());
        self.status(stream_id, Level::Error, code, why, &name);
        self.close_with(ServerCause::Refused(why.to_owned()));
    }

    /// Appends a unit to the output; ignored unless it plays. A stream that this player cannot be told ends the
    /// connection.
    pub fn write(&mut self, unit: &MediaUnit) {
        let Activity::Playing { name, writer } = &mut self.activity else { return };
        if let Err(unplayable) = writer.write(&mut self.link, unit) {
            let (stream_id, name) = (writer.stream_id(), name.clone());
            let why = unplayable.to_string();
            self.status(stream_id, Level::Error, "NetStream.Play.Failed", &why, &name);
            self.close_with(ServerCause::Unplayable(unplayable));
        }
    }

    /// The stream that it plays is over; so is the connection.
    pub fn end_play(&mut self) {
        if let Activity::Playing { name, writer } = &self.activity {
            let (stream_id, name) = (writer.stream_id(), name.clone());
            let why = format!("{name} is now unpublished.");
            self.link.user_control(event::STREAM_EOF, &stream_id.to_be_bytes());
            self.status(stream_id, Level::Status, "NetStream.Play.UnpublishNotify", &why, &name);
            self.status(stream_id, Level::Status, "NetStream.Play.Stop", "Stopped playing.", &name);
        }
        self.close_with(ServerCause::Local);
    }

    /// The client ends what it does on this stream.
    fn end_stream(&mut self, now: Instant, id: u32) {
        let (name, code) = match &self.activity {
            Activity::Publishing { stream_id, name, .. } if *stream_id == id => {
                (name.clone(), "NetStream.Unpublish.Success")
            }
            Activity::Playing { name, writer } if writer.stream_id() == id => {
                (name.clone(), "NetStream.Play.Stop")
            }
            _ => return,
        };
        self.status(id, Level::Status, code, "Stopped.", &name);
        self.activity = Activity::Idle;
        self.deadline = now + self.settings.idle_limit;
        self.outputs.push_back(ServerOutput::Ended);
    }
}

#[derive(Clone, Copy, Debug)]
enum Level {
    Status,
    Error,
}

fn status_object(level: Level, code: &str, description: &str, details: &str) -> Value {
    let level = match level {
        Level::Status => "status",
        Level::Error => "error",
    };
    Value::object([
        ("level", Value::text(level)),
        ("code", Value::text(code)),
        ("description", Value::text(description)),
        ("details", Value::text(details)),
    ])
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
