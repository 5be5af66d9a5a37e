//! The WebSocket ports: a thread a connection, which drives a [`signal::Session`](crate::proto::signal::Session).
//!
//! What belongs here: sockets, frames, queues, and carrying out what the session says. What clients and server say to
//! each other, and when, is the session's business.

mod conversation;
mod ending;
mod handshake;
mod presence;
mod pulled;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use self::conversation::Conversation;
pub use self::presence::{Connected, DoesNotKeepUp};
use super::accept::{AcceptSettings, Acceptor, Connection, Connections};
use super::pull::Pulls;
use super::rtc::RtcService;
use super::tls::{ServerConfig, Timed, Transport};
use crate::base::clock::Clock;
use crate::base::metrics::Metrics;
use crate::base::threads::STACK_PROTOCOL_BYTES;
use crate::hub::Registry;
use crate::proto::signal::SignalSettings;
use crate::proto::signal::message::SharedText;
use crate::services::record::Recordings;
use crate::services::snapshot::{Snapshot, SnapshotRequest, Snapshots};
use crate::services::vod::Vods;

/// Limits and deadlines of WebSocket connections.
#[derive(Clone, Debug)]
pub struct WsSettings {
    /// Time for TLS and the WebSocket handshake together.
    pub handshake_limit: Duration,
    /// Largest message from a client. Offers take about 12 KiB, and what a page logs tens of KiB.
    pub message_max_bytes: usize,
    /// Time in which a client that has something to read must read some of it.
    pub write_limit: Duration,
    /// Time for saying goodbye.
    pub close_limit: Duration,
    /// The session's own.
    pub signal: SignalSettings,
}

/// Where the answer to a snapshot request goes: the picture in base64, or why there is none. It is called once, from any thread.
pub type SnapshotReply = Box<dyn FnOnce(Result<SharedText, String>) + Send>;

/// Takes a snapshot of the stream of this name. It must not wait.
pub type TakeSnapshot = Arc<dyn Fn(&str, SnapshotReply) + Send + Sync>;

/// Snapshots from the service that takes them.
#[must_use]
pub fn take_from(snapshots: Snapshots) -> TakeSnapshot {
    Arc::new(move |name, reply| {
        let request =
            SnapshotRequest { stream_name: name.to_owned(), scale: None, max_age: None, limit: None };
        snapshots.request(request, move |outcome| {
            let result = outcome.map(|snapshot| SharedText::new(InBase64(snapshot)));
            reply(result.map_err(|error| error.to_string()));
        });
    })
}

/// A picture as the text that clients get; it becomes text in the thread of the first who sends it.
struct InBase64(Arc<Snapshot>);

impl AsRef<str> for InBase64 {
    fn as_ref(&self) -> &str {
        self.0.base64()
    }
}

/// What connections are served with; clones share it.
#[derive(Clone)]
pub struct WsService {
    settings: Arc<WsSettings>,
    registry: Registry,
    take_snapshot: TakeSnapshot,
    rtc: RtcService,
    recordings: Option<Recordings>,
    pulls: Option<Pulls>,
    vods: Option<Vods>,
    connected: Connected,
    metrics: Metrics,
    clock: Clock,
}

impl WsService {
    /// A service over the streams of `registry`; `rtc` publishes into it.
    #[must_use]
    pub fn new(
        settings: WsSettings,
        registry: Registry,
        take_snapshot: TakeSnapshot,
        rtc: RtcService,
        metrics: Metrics,
        clock: Clock,
    ) -> Self {
        let connected = Connected::default();
        Self {
            settings: Arc::new(settings),
            registry,
            take_snapshot,
            rtc,
            recordings: None,
            pulls: None,
            vods: None,
            connected,
            metrics,
            clock,
        }
    }

    /// Also records what publishers ask for, and tells them of their files.
    #[must_use]
    pub fn with_recordings(self, recordings: Recordings) -> Self {
        Self { recordings: Some(recordings), ..self }
    }

    /// Also plays sources, which are pulled for those who watch them.
    #[must_use]
    pub fn with_pulls(self, pulls: Pulls) -> Self {
        Self { pulls: Some(pulls), ..self }
    }

    /// Also plays files.
    #[must_use]
    pub fn with_vods(self, vods: Vods) -> Self {
        Self { vods: Some(vods), ..self }
    }

    /// The connections, for operators.
    #[must_use]
    pub fn connected(&self) -> Connected {
        self.connected.clone()
    }

    /// Opens a port, with TLS when there is a configuration for it. `name` is `ws` or `wss`.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn listen(
        &self,
        name: &'static str,
        address: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
        connections: Connections,
    ) -> io::Result<Acceptor> {
        let settings = AcceptSettings { name, address, stack_bytes: STACK_PROTOCOL_BYTES };
        let service = self.clone();
        Acceptor::start(settings, connections, self.metrics.clone(), self.clock.clone(), move |connection| {
            service.serve(connection, tls.as_ref())
        })
    }

    /// Serves one connection to its end, on the calling thread.
    pub fn serve(&self, connection: Connection, tls: Option<&Arc<ServerConfig>>) {
        let Connection { stream, peer, stop, .. } = connection;
        let deadline = self.clock.now() + self.settings.handshake_limit;
        let timed = Transport::new(stream, tls)
            .map_err(io::Error::other)
            .and_then(|transport| Timed::new(transport, self.clock.clone(), stop.clone(), deadline));
        let mut timed = match timed {
            Ok(timed) => timed,
            Err(error) => {
                tracing::warn!("{peer}: cannot serve: {error}");
                return;
            }
        };
        if let Err(error) = handshake::accept(&mut timed) {
            self.metrics.bad_input("ws_handshake");
            tracing::debug!("{peer}: {error}");
            return;
        }
        tracing::info!("{peer} connected");
        let (transport, waiter) = timed.into_parts();
        let why = Conversation::new(self, transport, waiter, stop).run();
        tracing::info!("{peer} closed: {why}");
    }
}
