//! Signalling of Janus for viewers of its streaming plug-in: JSON over one WebSocket, a handle for each viewer.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::http::HeaderValue;
use tungstenite::{Message, WebSocket};

/// How long Janus may take for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Sessions end after 60 s of silence.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// Why a viewer cannot play.
#[derive(Debug, thiserror::Error)]
pub(super) enum JanusError {
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The WebSocket failed.
    #[error("websocket: {0}")]
    WebSocket(String),
    /// A message is not JSON.
    #[error("message: {0}")]
    Json(#[from] serde_json::Error),
    /// It says no.
    #[error("janus: {0}")]
    Refused(String),
}

/// One session with Janus.
pub(super) struct Janus {
    socket: WebSocket<TcpStream>,
    session: u64,
    number: u64,
    kept_alive: Instant,
}

impl Janus {
    /// Connects and opens a session.
    pub(super) fn connect(server: SocketAddr, now: Instant) -> Result<Self, JanusError> {
        let stream = TcpStream::connect_timeout(&server, ANSWER_LIMIT)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_nodelay(true)?;
        let failed = |error: tungstenite::Error| JanusError::WebSocket(error.to_string());
        let mut request = format!("ws://{server}/").into_client_request().map_err(failed)?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("janus-protocol"));
        let (socket, _) =
            tungstenite::client(request, stream).map_err(|error| JanusError::WebSocket(error.to_string()))?;
        let mut client = Self { socket, session: 0, number: 0, kept_alive: now };
        client.session = client.ask(json!({"janus": "create"}))?["data"]["id"].as_u64().unwrap_or_default();
        Ok(client)
    }

    fn say(&mut self, mut message: Value) -> Result<String, JanusError> {
        self.number += 1;
        let transaction = format!("t{}", self.number);
        message["transaction"] = transaction.clone().into();
        if self.session != 0 {
            message["session_id"] = self.session.into();
        }
        self.socket
            .send(Message::text(message.to_string()))
            .map_err(|error| JanusError::WebSocket(error.to_string()))?;
        Ok(transaction)
    }

    /// Asks, and waits for the answer that is more than an acknowledgement.
    fn ask(&mut self, message: Value) -> Result<Value, JanusError> {
        let transaction = self.say(message)?;
        loop {
            let message = self.socket.read().map_err(|error| JanusError::WebSocket(error.to_string()))?;
            let Message::Text(text) = message else { continue };
            let message: Value = serde_json::from_str(&text)?;
            if message["transaction"] != transaction.as_str() || message["janus"] == "ack" {
                continue;
            }
            let error = [&message["error"]["reason"], &message["plugindata"]["data"]["error"]];
            if let Some(error) = error.iter().find_map(|error| error.as_str()) {
                return Err(JanusError::Refused(error.to_owned()));
            }
            return Ok(message);
        }
    }

    /// Watches a mountpoint; returns the handle and Janus's offer.
    pub(super) fn watch(&mut self, mountpoint: u64) -> Result<(u64, String), JanusError> {
        let attached = self.ask(json!({"janus": "attach", "plugin": "janus.plugin.streaming"}))?;
        let handle = attached["data"]["id"].as_u64().unwrap_or_default();
        let body = json!({"request": "watch", "id": mountpoint});
        let offered = self.ask(json!({"janus": "message", "handle_id": handle, "body": body}))?;
        Ok((handle, offered["jsep"]["sdp"].as_str().unwrap_or_default().to_owned()))
    }

    /// Answers the offer, whereupon Janus sends.
    pub(super) fn start(&mut self, handle: u64, answer: &str) -> Result<(), JanusError> {
        let (body, jsep) = (json!({"request": "start"}), json!({"type": "answer", "sdp": answer}));
        self.ask(json!({"janus": "message", "handle_id": handle, "body": body, "jsep": jsep})).map(drop)
    }

    /// Tells Janus now and then that somebody is there.
    pub(super) fn keep_alive(&mut self, now: Instant) -> Result<(), JanusError> {
        if now.saturating_duration_since(self.kept_alive) >= KEEP_ALIVE_INTERVAL {
            self.kept_alive = now;
            // The acknowledgement has the same form as those that are passed over.
            self.say(json!({"janus": "keepalive"}))?;
        }
        Ok(())
    }
}
