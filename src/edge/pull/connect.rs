//! Connecting to a source: one lookup, the fence, and a connection to an address that passed it.
//!
//! Everything here has a deadline and hears the stop. A lookup by the system cannot be called off, so that it runs on a thread
//! of its own, of which there are few; the pull waits for its answer no longer than it wants to.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::fence::{Fence, Refused};
use super::source::Source;
use crate::base::clock::Clock;
use crate::base::queue::{Offer, queue};
use crate::base::stop::StopToken;
use crate::base::threads::{self, STACK_PROTOCOL_BYTES};
use crate::base::wait::{Interest, Waiter, is_under_way};
use crate::edge::tls::{self, ClientConfig, Transport};

/// Lookups that may be under way at once. A name server that does not answer holds one for about half a minute.
const LOOKUPS_MAX: usize = 32;
/// Addresses of one host that are looked at.
const ADDRESSES_MAX: usize = 16;
/// Receive buffer: a keyframe of Full HD comes in one piece.
const RECEIVE_BUFFER_BYTES: usize = 512 * 1024;

/// Silence after which the kernel asks whether the source is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// The fence does not let us.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The host has no address, or its name server did not answer in time.
    #[error("the host's address is not known: {0}")]
    Lookup(String),
    /// Nobody took the connection.
    #[error("no connection: {0}")]
    Unreachable(#[source] io::Error),
    /// The server stops, or nobody wants the source any more.
    #[error("called off")]
    CalledOff,
}

/// What connections are made with; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    fence: Arc<Fence>,
    /// Local addresses to connect from: the first of the fitting family. Empty: the system chooses.
    local: Arc<[IpAddr]>,
    tls: Arc<ClientConfig>,
    lookups: Arc<AtomicUsize>,
    clock: Clock,
}

/// A lookup that is counted until it is over.
struct Lookup(Arc<AtomicUsize>);

impl Drop for Lookup {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// When a connection has to be there, and who may call it off.
pub(super) struct Patience<'a> {
    pub(super) waiter: &'a mut Waiter,
    pub(super) deadline: Instant,
    pub(super) stop: &'a StopToken,
    /// Looked at whenever the waiter is woken.
    pub(super) called_off: &'a dyn Fn() -> bool,
}

impl Patience<'_> {
    fn is_over(&self) -> bool {
        self.stop.is_set() || (self.called_off)()
    }
}

impl Connector {
    pub(super) fn new(fence: Fence, local: &[IpAddr], tls: Arc<ClientConfig>, clock: Clock) -> Self {
        let lookups = Arc::default();
        Self { fence: Arc::new(fence), local: local.into(), tls, lookups, clock }
    }

    /// Connects to the source; TLS begins with the first writing. The socket is in non-blocking mode.
    ///
    /// # Errors
    /// When the fence refuses every address, or none answers in time.
    pub(super) fn connect(
        &self,
        source: &Source,
        patience: &mut Patience<'_>,
    ) -> Result<Transport, ConnectError> {
        let addresses = match source.address() {
            Some(address) => vec![address],
            None if self.fence.refuses_name(source.host()) => return Err(Refused.into()),
            None => self.look_up(source.host(), patience)?,
        };
        // The only place where an address becomes one to connect to.
        let admitted = self.fence.admit(source.host(), &addresses)?;
        let mut last = io::ErrorKind::AddrNotAvailable.into();
        for (tried, address) in admitted.iter().enumerate() {
            // Each gets its share of what is left, so that a dead address does not use up the time of the next one.
            let now = self.clock.now();
            let left = patience.deadline.saturating_duration_since(now);
            let shares = u32::try_from(admitted.len() - tried).unwrap_or(u32::MAX);
            match self.open(SocketAddr::new(*address, source.port()), now + left / shares, patience) {
                Ok(socket) => {
                    let transport = if source.scheme().is_tls() {
                        let name = tls::server_name(source.host(), *address);
                        Transport::tls_client(socket, self.tls.clone(), name).map_err(io::Error::other)
                    } else {
                        Ok(Transport::plain(socket))
                    };
                    return transport.map_err(ConnectError::Unreachable);
                }
                Err(ConnectError::Unreachable(error)) => last = error,
                Err(other) => return Err(other),
            }
        }
        Err(ConnectError::Unreachable(last))
    }

    /// The addresses of a host, by the system's resolver.
    fn look_up(&self, host: &str, patience: &mut Patience<'_>) -> Result<Vec<IpAddr>, ConnectError> {
        if self.lookups.fetch_add(1, Ordering::Relaxed) >= LOOKUPS_MAX {
            self.lookups.fetch_sub(1, Ordering::Relaxed);
            return Err(ConnectError::Lookup("too many lookups are under way".into()));
        }
        let under_way = Lookup(self.lookups.clone());
        let (answer, answered): (Offer<io::Result<Vec<IpAddr>>>, _) = queue(1, Some(patience.waiter.waker()));
        let name = host.to_owned();
        // Nobody joins it: it ends with the resolver's own limits, and holds nothing but its place among the lookups.
        threads::spawn("pull-lookup", STACK_PROTOCOL_BYTES, move || {
            let _under_way = under_way;
            let found = (name.as_str(), 0_u16).to_socket_addrs();
            let found = found.map(|all| {
                let mut addresses: Vec<IpAddr> = Vec::new();
                for address in all.map(|address| address.ip()) {
                    if !addresses.contains(&address) && addresses.len() < ADDRESSES_MAX {
                        addresses.push(address);
                    }
                }
                addresses
            });
            let _ = answer.offer(found);
        })
        .map_err(ConnectError::Unreachable)?;
        loop {
            if let Ok(found) = answered.try_recv() {
                return match found {
                    Ok(addresses) if !addresses.is_empty() => Ok(addresses),
                    Ok(_) => Err(ConnectError::Lookup("no address".into())),
                    Err(error) => Err(ConnectError::Lookup(error.to_string())),
                };
            }
            if patience.is_over() {
                return Err(ConnectError::CalledOff);
            }
            let now = self.clock.now();
            if now >= patience.deadline {
                return Err(ConnectError::Lookup("no answer in time".into()));
            }
            patience
                .waiter
                .wait_until(&[], now, Some(patience.deadline))
                .map_err(ConnectError::Unreachable)?;
        }
    }

    /// A connection to this very address.
    fn open(
        &self,
        address: SocketAddr,
        deadline: Instant,
        patience: &mut Patience<'_>,
    ) -> Result<TcpStream, ConnectError> {
        let socket = self.begin(address).map_err(ConnectError::Unreachable)?;
        loop {
            if patience.is_over() {
                return Err(ConnectError::CalledOff);
            }
            let now = self.clock.now();
            if now >= deadline {
                return Err(ConnectError::Unreachable(io::ErrorKind::TimedOut.into()));
            }
            let ready = patience.waiter.wait_until(&[(socket.as_fd(), Interest::Write)], now, Some(deadline));
            if ready.map_err(ConnectError::Unreachable)?.writable != 0 {
                let error = socket.take_error().map_err(ConnectError::Unreachable)?;
                // The same sleep may have heard that it is called off; nobody rings twice.
                if patience.is_over() {
                    return Err(ConnectError::CalledOff);
                }
                return match error {
                    None => Ok(socket.into()),
                    Some(error) => Err(ConnectError::Unreachable(error)),
                };
            }
        }
    }

    fn begin(&self, address: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        if let Some(local) = self.local.iter().find(|local| local.is_ipv4() == address.is_ipv4()) {
            socket.bind(&SocketAddr::new(*local, 0).into())?;
        }
        let options = SockRef::from(&socket);
        let _ = options.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
        // A source that vanishes without a word while it is paused or only listens.
        let _ = options.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE));
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&address.into()) {
            Ok(()) => Ok(socket),
            Err(error) if is_under_way(&error) => Ok(socket),
            Err(error) => Err(error),
        }
    }
}
