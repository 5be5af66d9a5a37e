//! The signalling of one publishing page: connects, publishes one stream, answers pings.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

/// How long the server may take for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Why a page cannot publish.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The WebSocket failed.
    #[error("websocket: {0}")]
    WebSocket(String),
    /// A message is not JSON.
    #[error("message: {0}")]
    Json(#[from] serde_json::Error),
    /// The stream failed or ended; the server's words.
    #[error("stream {0} failed: {1}")]
    Failed(String, String),
}

/// The status in a stream's status message.
pub fn status_of(message: &Value) -> Option<&str> {
    (message["message"] == "notifyStreamStatusEvent").then(|| message["data"][0]["status"].as_str())?
}

/// One signalling connection with at most one stream.
pub struct Page {
    socket: WebSocket<TcpStream>,
    name: String,
    media_session_id: String,
    is_over: bool,
    /// Ask for recording.
    pub record: bool,
}

impl Page {
    /// Connects and waits to be known.
    pub fn connect(server: SocketAddr) -> Result<Self, PageError> {
        let stream = TcpStream::connect_timeout(&server, ANSWER_LIMIT)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let (socket, _) = tungstenite::client(format!("ws://{server}/"), stream)
            .map_err(|error| PageError::WebSocket(error.to_string()))?;
        let mut client = Self {
            socket,
            name: String::new(),
            media_session_id: String::new(),
            is_over: false,
            record: false,
        };
        client.say(
            "connection",
            &json!({
                "appKey": "defaultApp", "mediaProviders": ["WebRTC"], "clientVersion": "2.0",
                "clientOSVersion": "none", "clientBrowserVersion": "none",
                "msePacketizationVersion": 2, "clientInfo": {}
            }),
        )?;
        client.wait_for(|message| message["message"] == "getUserData")?;
        Ok(client)
    }

    /// Publishes; returns the answer.
    pub fn publish(&mut self, name: &str, offer: &str, has_audio: bool) -> Result<String, PageError> {
        name.clone_into(&mut self.name);
        self.media_session_id = uuid::Uuid::new_v4().to_string();
        self.say(
            "publishStream",
            &json!({
                "mediaSessionId": self.media_session_id, "name": name, "published": true,
                "hasVideo": true, "hasAudio": has_audio, "status": "PENDING", "record": self.record,
                "mediaProvider": "WebRTC", "sdp": offer, "bitrate": 0, "minBitrate": 0, "maxBitrate": 0
            }),
        )?;
        let message = self.wait_for(|message| message["message"] == "setRemoteSDP")?;
        Ok(message["data"][1].as_str().unwrap_or_default().to_owned())
    }

    /// Plays; returns the answer. The media session is named by the caller: one page may play many.
    pub fn play(&mut self, media_session_id: &str, name: &str, offer: &str) -> Result<String, PageError> {
        name.clone_into(&mut self.name);
        self.say(
            "playStream",
            &json!({
                "mediaSessionId": media_session_id, "name": name, "published": false,
                "hasVideo": true, "hasAudio": true, "status": "PENDING", "record": false,
                "mediaProvider": "WebRTC", "sdp": offer, "bitrate": 0, "minBitrate": 0, "maxBitrate": 0
            }),
        )?;
        let message = self.wait_for(|message| {
            message["message"] == "setRemoteSDP" && message["data"][0] == media_session_id
        })?;
        Ok(message["data"][1].as_str().unwrap_or_default().to_owned())
    }

    /// Ends a player; returns when the server says that it has.
    pub fn stop(&mut self, media_session_id: &str) -> Result<(), PageError> {
        self.say("stopStream", &json!({ "mediaSessionId": media_session_id }))?;
        self.wait_for(|message| {
            status_of(message) == Some("STOPPED") && message["data"][0]["mediaSessionId"] == media_session_id
        })
        .map(drop)
    }

    /// Sends a message with one argument.
    pub fn say(&mut self, method: &str, argument: &Value) -> Result<(), PageError> {
        let text = json!({ "message": method, "data": [argument] }).to_string();
        self.socket.send(Message::text(text)).map_err(|error| PageError::WebSocket(error.to_string()))
    }

    /// The next message for which `wanted` holds; a failed stream is an error.
    pub fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value, PageError> {
        loop {
            let message = self.socket.read().map_err(|error| PageError::WebSocket(error.to_string()))?;
            let Some(message) = self.take(&message)? else { continue };
            if wanted(&message) {
                return Ok(message);
            }
        }
    }

    /// Answers pings; hands other messages back.
    fn take(&mut self, message: &Message) -> Result<Option<Value>, PageError> {
        let Message::Text(text) = message else { return Ok(None) };
        let message: Value = serde_json::from_str(text)?;
        if message["message"] == "ping" {
            self.say("pong", &Value::Null)?;
            return Ok(None);
        }
        self.is_over |= status_of(&message) == Some("UNPUBLISHED");
        if status_of(&message) == Some("FAILED") {
            let info = message["data"][0]["info"].as_str().unwrap_or("no reason").to_owned();
            return Err(PageError::Failed(self.name.clone(), info));
        }
        Ok(Some(message))
    }

    /// Waits until the stream counts as published.
    pub fn wait_published(&mut self) -> Result<(), PageError> {
        self.wait_for(|message| status_of(message) == Some("PUBLISHING")).map(drop)
    }

    /// Ends the stream; returns its last status.
    pub fn unpublish(&mut self) -> Result<Value, PageError> {
        self.say("unPublishStream", &json!({ "mediaSessionId": self.media_session_id }))?;
        let status = self.wait_for(|message| status_of(message) == Some("UNPUBLISHED"))?;
        Ok(status["data"][0].clone())
    }

    /// The media session of the stream.
    pub fn media_session_id(&self) -> &str {
        &self.media_session_id
    }

    /// Leaves the page: the stream is unpublished, then the socket closed.
    pub fn close(mut self) -> Result<(), PageError> {
        if !self.is_over {
            self.say("unPublishStream", &json!({ "mediaSessionId": self.media_session_id }))?;
            self.wait_for(|message| status_of(message) == Some("UNPUBLISHED"))?;
        }
        self.socket.close(None).map_err(|error| PageError::WebSocket(error.to_string()))
    }

    /// Leaves a page that plays: the socket is closed, the server ends the players.
    pub fn leave(mut self) -> Result<(), PageError> {
        self.socket.close(None).map_err(|error| PageError::WebSocket(error.to_string()))?;
        loop {
            match self.socket.read() {
                Ok(_) => {}
                Err(tungstenite::Error::ConnectionClosed) => return Ok(()),
                Err(error) => return Err(PageError::WebSocket(error.to_string())),
            }
        }
    }

    /// Reads what has come, without waiting.
    pub fn answer_pings(&mut self) -> Result<(), PageError> {
        self.socket.get_ref().set_nonblocking(true)?;
        let result = loop {
            match self.socket.read() {
                Ok(message) => {
                    if let Err(error) = self.take(&message) {
                        break Err(error);
                    }
                }
                Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    break Ok(());
                }
                Err(error) => break Err(PageError::WebSocket(error.to_string())),
            }
        };
        self.socket.get_ref().set_nonblocking(false)?;
        result
    }
}
