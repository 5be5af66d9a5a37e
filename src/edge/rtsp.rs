//! The RTSP port: a thread a connection, which drives a [`Server`](crate::proto::rtsp::server::Server). Publishers push into
//! the hub, players take from it.
//!
//! What belongs here: sockets, names, queues and the order of things at beginning and end. What clients may ask for, and
//! when, is the machine's business.

mod conversation;
mod datagrams;
mod playing;
mod publishing;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use self::conversation::Conversation;
use super::accept::{AcceptSettings, Acceptor, Connection, Connections};
use super::ports::MediaPorts;
use crate::base::clock::Clock;
use crate::base::metrics::Metrics;
use crate::base::threads::STACK_PROTOCOL_BYTES;
use crate::hub::Registry;
use crate::proto::rtsp::server::ServerSettings;

/// A connection on which nothing comes is probed after so long, so often and in such intervals: one whose other end vanished
/// without a word is found out within a minute.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// Limits and deadlines of RTSP connections.
#[derive(Clone, Debug)]
pub struct RtspSettings {
    /// The machine's own.
    pub server: ServerSettings,
    /// Time in which a client that has something to read must read some of it.
    pub write_limit: Duration,
    /// How long a player waits for the first pictures of a stream that has just begun.
    pub describe_limit: Duration,
}

/// What connections are served with; clones share it.
#[derive(Clone, Debug)]
pub struct RtspService(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: RtspSettings,
    ports: MediaPorts,
    registry: Registry,
    metrics: Metrics,
    clock: Clock,
}

impl RtspService {
    /// A service over the streams of `registry`; ports for media by datagram are taken from `ports`.
    #[must_use]
    pub fn new(
        settings: RtspSettings,
        ports: MediaPorts,
        registry: Registry,
        metrics: Metrics,
        clock: Clock,
    ) -> Self {
        Self(Arc::new(Inner { settings, ports, registry, metrics, clock }))
    }

    /// Opens a port.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn listen(
        &self,
        name: &'static str,
        address: SocketAddr,
        connections: Connections,
    ) -> io::Result<Acceptor> {
        let settings = AcceptSettings { name, address, stack_bytes: STACK_PROTOCOL_BYTES };
        let service = self.clone();
        let (metrics, clock) = (self.0.metrics.clone(), self.0.clock.clone());
        Acceptor::start(settings, connections, metrics, clock, move |connection| service.serve(connection))
    }

    fn serve(&self, connection: Connection) {
        let Connection { stream, peer, local, number, stop } = connection;
        let (time, interval, retries) = KEEPALIVE;
        let keepalive = TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(retries);
        // Without it a vanished client is found out later, by its silence.
        let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
        match Conversation::new(&self.0, stream, (peer, local), stop) {
            Ok(conversation) => {
                tracing::debug!("rtsp-{number}: {peer} connected");
                let why = conversation.run();
                tracing::debug!("rtsp-{number}: {peer} closed: {why}");
            }
            Err(error) => tracing::warn!("{peer}: cannot serve: {error}"),
        }
    }
}

#[cfg(test)]
mod tests;
