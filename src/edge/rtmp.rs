//! The RTMP ports: a thread a connection, which drives a [`ServerSession`].
//!
//! What belongs here: the socket, the order of things at beginning and end, and the way between session and hub. What
//! clients and server say to each other is the session's business.

mod drive;
mod roles;

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use self::drive::Drive;
use super::accept::{AcceptSettings, Acceptor, Connection, Connections};
use super::tls::{ServerConfig, Transport};
use crate::base::clock::Clock;
use crate::base::metrics::Metrics;
use crate::base::threads::STACK_PROTOCOL_BYTES;
use crate::base::wait::Waiter;
use crate::hub::Registry;
use crate::proto::rtmp::server::{ServerSession, ServerSettings};

/// Limits and deadlines of RTMP connections.
#[derive(Clone, Debug)]
pub struct RtmpSettings {
    /// The session's own.
    pub session: ServerSettings,
    /// Time in which a client that has something to read must read some of it.
    pub write_limit: Duration,
    /// Time for saying goodbye.
    pub close_limit: Duration,
}

/// A connection that is silent for so long is asked by TCP whether it is there …
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
/// … and again after so long …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
/// … so often, before it counts as gone.
const KEEPALIVE_PROBES: u32 = 3;

/// What connections are served with; clones share it.
#[derive(Clone, Debug)]
pub struct RtmpService(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: RtmpSettings,
    registry: Registry,
    metrics: Metrics,
    clock: Clock,
}

impl RtmpService {
    /// A service that publishes into `registry`, and plays from it.
    #[must_use]
    pub fn new(settings: RtmpSettings, registry: Registry, metrics: Metrics, clock: Clock) -> Self {
        Self(Arc::new(Inner { settings, registry, metrics, clock }))
    }

    /// Opens a port, with TLS when there is a configuration for it. `name` is `rtmp` or `rtmps`.
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
        let (service, inner) = (self.clone(), &self.0);
        let (metrics, clock) = (inner.metrics.clone(), inner.clock.clone());
        Acceptor::start(settings, connections, metrics, clock, move |connection| {
            service.serve(connection, tls.as_ref());
        })
    }

    /// Serves one connection to its end, on the calling thread.
    pub fn serve(&self, connection: Connection, tls: Option<&Arc<ServerConfig>>) {
        let peer = connection.peer;
        match self.drive(connection, tls) {
            Ok(drive) => {
                tracing::debug!("{peer} connected by RTMP");
                let why = drive.run();
                tracing::debug!("{peer} closed: {why}");
            }
            Err(error) => tracing::warn!("{peer}: cannot serve: {error}"),
        }
    }

    fn drive(&self, connection: Connection, tls: Option<&Arc<ServerConfig>>) -> io::Result<Drive> {
        let Inner { settings, registry, metrics, clock } = &*self.0;
        let Connection { stream, peer, local, stop, .. } = connection;
        watch_over(&stream)?;
        stream.set_nonblocking(true)?;
        let waiter = Waiter::new()?;
        stop.wakes(&waiter.waker());
        let transport = Transport::new(stream, tls).map_err(io::Error::other)?;
        let session = ServerSession::new(settings.session.clone(), &mut rand::rng(), clock.now());
        let settings = settings.clone();
        let (registry, metrics, clock) = (registry.clone(), metrics.clone(), clock.clone());
        Ok(Drive::new(settings, transport, waiter, session, [peer, local], stop, registry, metrics, clock))
    }
}

/// Lets TCP find out that the other end's machine is gone.
fn watch_over(stream: &TcpStream) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}
