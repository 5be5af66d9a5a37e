//! A player of another server's stream: connects, creates a stream, plays it, and gives out its media.
//!
//! What belongs here: the order of commands and what answers mean. The socket, TLS and the choice of addresses belong to
//! whoever drives it. User names and passwords (`authmod` of other servers) are not sent.

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
use super::url::RtmpUrl;

/// What a client is to do.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Which stream, and where.
    pub url: RtmpUrl,
    /// Largest picture that is taken, in pixels.
    pub pixels_max: u64,
    /// How long the server may take for each answer, and for the first media.
    pub answer_limit: Duration,
    /// How long media may stay away later on; `None`: for ever.
    pub silence_limit: Option<Duration>,
}

/// Why a client is closed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ClientCause {
    /// The server does not know the stream.
    #[error("stream not found")]
    NotFound,
    /// The server refuses; its code (`NetConnection.Connect.Rejected` …), cut to a sane length.
    #[error("refused: {0}")]
    Refused(String),
    /// The stream is over.
    #[error("stream has ended")]
    Ended,
    /// An answer, or the first media, did not come in time.
    #[error("no answer in time")]
    Late,
    /// Media stayed away.
    #[error("no media any more")]
    Silent,
    /// The pictures are of a kind that is not taken.
    #[error(transparent)]
    Unsupported(#[from] TagError),
    /// What came is not RTMP.
    #[error(transparent)]
    Protocol(#[from] RtmpError),
    /// We closed it.
    #[error("closed")]
    Local,
}

/// What a client wants.
#[derive(Clone, Debug)]
pub enum ClientOutput {
    /// The server plays the stream; media follows.
    Playing,
    /// Media, and what is to be known of it.
    Media(MediaOutput),
    /// It is over. Nothing but `Timeout` follows.
    Closed(ClientCause),
    /// Nothing more for now: send [`Client::output`], and come again with bytes, or at this moment.
    Timeout(Instant),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Handshake,
    /// `connect` was sent.
    Connecting,
    /// `createStream` was sent.
    Creating,
    /// `play` was sent; media has not come.
    Starting,
    /// Media has come.
    Playing,
    Closed,
}

/// Numbers of the calls that are answered (section 7.2.1).
const CONNECT: f64 = 1.0;
const CREATE_STREAM: f64 = 2.0;
/// How far ahead a player buffers, in milliseconds; servers want to be told.
const BUFFER_MS: u32 = 1000;
/// Text of a server that is kept.
const TEXT_BYTES_MAX: usize = 100;
/// Moment of the next timeout where there is none.
const NEVER: Duration = Duration::from_secs(86_400);

/// The machine.
#[derive(Debug)]
pub struct Client {
    settings: ClientSettings,
    link: Link,
    state: State,
    stream_id: u32,
    reader: MediaReader,
    media: VecDeque<MediaOutput>,
    outputs: VecDeque<ClientOutput>,
    deadline: Instant,
}

impl Client {
    /// A client that begins its handshake now, over a connection (with TLS, if the address says so) that is up.
    #[must_use]
    pub fn new(settings: ClientSettings, random: &mut dyn RngCore, now: Instant) -> Self {
        let mut bytes = Box::new([0; RANDOM_BYTES]);
        random.fill_bytes(bytes.as_mut_slice());
        Self {
            link: Link::client(bytes),
            state: State::Handshake,
            stream_id: 0,
            reader: MediaReader::new(settings.pixels_max),
            media: VecDeque::new(),
            outputs: VecDeque::new(),
            deadline: now + settings.answer_limit,
            settings,
        }
    }

    /// Bytes to be sent; call [`Client::sent`] for those that were.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        self.link.output()
    }

    /// So many bytes of [`Client::output`] were sent.
    pub fn sent(&mut self, count: usize) {
        self.link.sent(count);
    }

    /// Bytes received so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.link.received()
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// The next output; [`ClientOutput::Timeout`] when there is none.
    pub fn poll_output(&mut self) -> ClientOutput {
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        ClientOutput::Timeout(self.deadline)
    }

    /// Takes bytes that came.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) {
        let mut input = bytes;
        while self.state != State::Closed {
            match self.link.next(&mut input, now) {
                Ok(Some(message)) => {
                    if let Err(error) = self.handle_message(now, &message) {
                        self.end(ClientCause::Protocol(error));
                    }
                }
                Ok(None) => {
                    if self.state == State::Handshake && self.link.is_up() {
                        self.connect(now);
                    }
                    return;
                }
                Err(error) => self.end(ClientCause::Protocol(error)),
            }
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now < self.deadline {
            return;
        }
        match self.state {
            State::Closed => self.deadline = now + NEVER,
            State::Playing => self.end(ClientCause::Silent),
            _ => self.end(ClientCause::Late),
        }
    }

    /// The other end closed the connection.
    pub fn handle_end(&mut self) {
        self.end(ClientCause::Ended);
    }

    /// Ends playing; the goodbye waits in [`Client::output`].
    pub fn close(&mut self) {
        if matches!(self.state, State::Starting | State::Playing) {
            let stream = Value::Number(self.stream_id.into());
            self.link.command(0, &[Value::text("deleteStream"), Value::Number(0.0), Value::Null, stream]);
        }
        self.end(ClientCause::Local);
    }

    fn end(&mut self, cause: ClientCause) {
        if self.state != State::Closed {
            self.state = State::Closed;
            self.deadline += NEVER;
            self.outputs.push_back(ClientOutput::Closed(cause));
        }
    }

    fn step(&mut self, state: State, now: Instant) {
        self.state = state;
        self.deadline = now + self.settings.answer_limit;
    }

    fn connect(&mut self, now: Instant) {
        let url = &self.settings.url;
        let four_ccs = ["avc1", "mp4a", "Opus"].map(Value::text).to_vec();
        let object = Value::object([
            ("app", Value::text(url.app.clone())),
            // Servers look at it for the oldest players that they refuse.
            ("flashVer", Value::text("LNX 9,0,124,2")),
            ("tcUrl", Value::text(url.tc_url())),
            ("fpad", Value::Boolean(false)),
            ("capabilities", Value::Number(15.0)),
            // All codecs that Flash had (section 7.2.1.1).
            ("audioCodecs", Value::Number(4071.0)),
            ("videoCodecs", Value::Number(252.0)),
            ("videoFunction", Value::Number(1.0)),
            ("fourCcList", Value::StrictArray(four_ccs)),
        ]);
        self.link.command(0, &[Value::text("connect"), Value::Number(CONNECT), object]);
        self.step(State::Connecting, now);
    }

    fn handle_message(&mut self, now: Instant, message: &Message) -> Result<(), RtmpError> {
        match message.kind {
            kind::AUDIO | kind::VIDEO if self.stream_id != 0 && message.stream_id == self.stream_id => {
                self.handle_media(now, message);
            }
            kind::USER_CONTROL => {
                if message.payload.starts_with(&event::STREAM_EOF.to_be_bytes())
                    && self.state == State::Playing
                {
                    self.end(ClientCause::Ended);
                }
            }
            _ => {
                if let Some(values) = link::command_values(message)? {
                    self.handle_command(now, &values);
                } else if let Some(values) = link::data_values(message) {
                    self.reader.metadata(&values, &mut self.media);
                    self.pass_media();
                }
            }
        }
        Ok(())
    }

    fn handle_media(&mut self, now: Instant, message: &Message) {
        if self.state == State::Starting {
            self.outputs.push_back(ClientOutput::Playing);
            self.state = State::Playing;
        }
        if self.state != State::Playing {
            return;
        }
        self.deadline = now + self.settings.silence_limit.unwrap_or(NEVER);
        let (timestamp, arrived, body) = (message.timestamp, message.arrived, message.payload.clone());
        if message.kind == kind::VIDEO {
            self.reader.video(timestamp, arrived, body, &mut self.media);
        } else {
            self.reader.audio(timestamp, arrived, body, &mut self.media);
        }
        self.pass_media();
    }

    fn pass_media(&mut self) {
        while let Some(output) = self.media.pop_front() {
            if let MediaOutput::Unsupported { is_video: true, error } = output {
                return self.end(ClientCause::Unsupported(error));
            }
            self.outputs.push_back(ClientOutput::Media(output));
        }
    }

    fn handle_command(&mut self, now: Instant, values: &[Value]) {
        let number = values.get(1).and_then(Value::as_number);
        let information = values.iter().skip(2).find_map(|value| value.get("code")).and_then(Value::as_str);
        match values.first().and_then(Value::as_str).unwrap_or_default() {
            "_result" if self.state == State::Connecting && number == Some(CONNECT) => {
                self.link.announce();
                let call = [Value::text("createStream"), Value::Number(CREATE_STREAM), Value::Null];
                self.link.command(0, &call);
                self.step(State::Creating, now);
            }
            "_result" if self.state == State::Creating && number == Some(CREATE_STREAM) => {
                self.play(now, values.get(3).and_then(Value::as_number).unwrap_or_default());
            }
            "_error" if matches!(self.state, State::Connecting | State::Creating) => {
                self.end(ClientCause::Refused(shortened(information)));
            }
            "onStatus" => {
                let level = values.iter().find_map(|value| value.get("level")).and_then(Value::as_str);
                self.handle_status(information.unwrap_or_default(), level == Some("error"));
            }
            "close" => self.end(ClientCause::Ended),
            _ => {}
        }
    }

    fn play(&mut self, now: Instant, stream_id: f64) {
        if !(1.0..65_536.0).contains(&stream_id) {
            return self.end(ClientCause::Refused("createStream".into()));
        }
        self.stream_id = stream_id as u32;
        let name = Value::text(self.settings.url.name.clone());
        // -2: live, or recorded if there is nothing live (section 7.2.2.1).
        let call = [Value::text("play"), Value::Number(0.0), Value::Null, name, Value::Number(-2.0)];
        self.link.command(self.stream_id, &call);
        let mut buffer = self.stream_id.to_be_bytes().to_vec();
        buffer.extend_from_slice(&BUFFER_MS.to_be_bytes());
        self.link.user_control(event::SET_BUFFER_LENGTH, &buffer);
        self.step(State::Starting, now);
    }

    fn handle_status(&mut self, code: &str, is_error: bool) {
        match code {
            "NetStream.Play.StreamNotFound" => self.end(ClientCause::NotFound),
            "NetStream.Play.UnpublishNotify" | "NetStream.Play.Stop" | "NetStream.Play.Complete" => {
                self.end(ClientCause::Ended);
            }
            _ if is_error => self.end(ClientCause::Refused(shortened(Some(code)))),
            _ => {}
        }
    }
}

/// Text of a server, fit for a line in the log.
fn shortened(text: Option<&str>) -> String {
    let text = text.unwrap_or("no reason given");
    text.chars().filter(|c| !c.is_control()).take(TEXT_BYTES_MAX).collect()
}
