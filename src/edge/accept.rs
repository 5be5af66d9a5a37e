//! Accepting TCP connections: one thread a port, limits shared by all ports, one thread a connection.
//!
//! A connection over a limit is closed before a thread is made for it. What is spoken on a connection is not known here.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Condvar;

use crate::base::clock::Clock;
use crate::base::metrics::Metrics;
use crate::base::stop::{StopSource, StopToken};
use crate::base::tally::Tally;
use crate::base::threads::{self, Thread};
use crate::base::wait::{Interest, Waiter};

/// Connections taken from the kernel before the stop is looked at again.
const ACCEPT_BATCH: usize = 64;

/// Rest after the system refused a connection or a thread: time for others to give descriptors back.
const BACK_OFF: Duration = Duration::from_millis(100);

/// How many connections may be open at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// On all ports together.
    pub total: usize,
    /// From one IPv4 address, or from one IPv6 network of 64 bits: a subscriber has a whole one.
    pub per_address: usize,
}

/// Why a connection is refused; also the value of the label `reason` in the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// [`ConnectionLimits::total`] are open.
    #[error("too many connections")]
    Total,
    /// [`ConnectionLimits::per_address`] are open from there.
    #[error("too many connections from one address")]
    PerAddress,
}

impl Refusal {
    fn label(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::PerAddress => "address",
        }
    }
}

/// The book of open connections, shared by all ports; clones share it.
#[derive(Clone, Debug)]
pub struct Connections(Arc<Book>);

#[derive(Debug)]
struct Book {
    limits: ConnectionLimits,
    metrics: Metrics,
    open: parking_lot::Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// The place of one open connection; dropping it gives the place back.
#[derive(Debug)]
pub struct Place {
    connections: Connections,
    address: IpAddr,
}

impl Connections {
    /// An empty book.
    #[must_use]
    pub fn new(limits: ConnectionLimits, metrics: Metrics) -> Self {
        Self(Arc::new(Book { limits, metrics, open: parking_lot::Mutex::default() }))
    }

    /// Takes a place for a connection from this address; a refusal is counted.
    ///
    /// # Errors
    /// When a limit is reached.
    pub fn admit(&self, address: IpAddr) -> Result<Place, Refusal> {
        let address = counted_address(address);
        let mut open = self.0.open.lock();
        let here = open.by_address.get(&address).copied().unwrap_or(0);
        let refusal = if open.total >= self.0.limits.total {
            Some(Refusal::Total)
        } else if here >= self.0.limits.per_address {
            Some(Refusal::PerAddress)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.0.metrics.connections_refused_total.with_label_values(&[refusal.label()]).inc();
            return Err(refusal);
        }
        open.total += 1;
        open.by_address.insert(address, here + 1);
        self.0.metrics.connections.inc();
        Ok(Place { connections: self.clone(), address })
    }

    /// Connections open now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.open.lock().total
    }

    /// Whether none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let book = &self.connections.0;
        let mut open = book.open.lock();
        open.total -= 1;
        if let Some(here) = open.by_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                open.by_address.remove(&self.address);
            }
        }
        book.metrics.connections.dec();
    }
}

/// The address by which connections are counted.
fn counted_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let network = u128::from(v6) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
        v4 => v4,
    }
}

/// One port.
#[derive(Clone, Debug)]
pub struct AcceptSettings {
    /// What the port serves (`ws`, `https` …): label in the metrics, and prefix of thread names (`ws-17`).
    pub name: &'static str,
    /// Where to listen; port 0 takes any free one.
    pub address: SocketAddr,
    /// Stack of a connection's thread.
    pub stack_bytes: usize,
}

/// An accepted connection, in blocking mode, `TCP_NODELAY` set.
#[derive(Debug)]
pub struct Connection {
    /// The socket.
    pub stream: TcpStream,
    /// The other end.
    pub peer: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
    /// Number of the connection, unique in the process; its thread is named by it.
    pub number: u64,
    /// Heard when the port is stopped: the connection has to end soon.
    pub stop: StopToken,
}

/// Numbers of connections, over all ports.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// The names of the threads that serve connections of one port now.
#[derive(Debug, Default)]
struct Serving {
    threads: parking_lot::Mutex<HashMap<u64, String>>,
    ended: Condvar,
}

/// Takes the thread's name out of [`Serving`], also when the thread panics or never starts.
struct Served {
    serving: Arc<Serving>,
    number: u64,
}

impl Drop for Served {
    fn drop(&mut self) {
        let mut threads = self.serving.threads.lock();
        threads.remove(&self.number);
        if threads.is_empty() {
            self.serving.ended.notify_all();
        }
    }
}

/// The owner of a port: its accept thread and the threads of its connections.
#[derive(Debug)]
pub struct Acceptor {
    address: SocketAddr,
    stop: StopSource,
    thread: Thread,
    serving: Arc<Serving>,
}

impl Acceptor {
    /// Listens, and runs `serve` on a thread of its own for each connection that the limits admit.
    ///
    /// # Errors
    /// When the address cannot be bound, or the system refuses the accept thread.
    pub fn start(
        settings: AcceptSettings,
        connections: Connections,
        metrics: Metrics,
        clock: Clock,
        serve: impl Fn(Connection) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(settings.address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = StopSource::new();
        let waiter = Waiter::new()?;
        stop.token().wakes(&waiter.waker());
        let serving = Arc::new(Serving::default());
        let accepting = Accepting {
            listener,
            waiter,
            connections,
            metrics,
            clock,
            stop: stop.token(),
            serving: serving.clone(),
            serve: Arc::new(serve),
            name: settings.name,
            stack_bytes: settings.stack_bytes,
            refused: Tally::new("connections refused"),
        };
        let thread =
            threads::spawn(format!("{}-accept", settings.name), threads::STACK_PROTOCOL_BYTES, move || {
                accepting.run()
            })?;
        Ok(Self { address, stop, thread, serving })
    }

    /// Where it listens, with the port that was taken.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting and tells every connection to end; does not wait.
    pub fn begin_stop(&mut self) {
        self.stop.set();
    }

    /// Stops, and waits up to `limit` for all threads; returns whether they ended. Those that did not are logged by name.
    pub fn stop(mut self, clock: &Clock, limit: Duration) -> bool {
        self.begin_stop();
        let deadline = clock.now() + limit;
        let ended = self.thread.join(limit);
        let mut threads = self.serving.threads.lock();
        while !threads.is_empty() {
            let left = deadline.saturating_duration_since(clock.now());
            if left.is_zero() {
                let names: Vec<_> = threads.values().map(String::as_str).collect();
                tracing::error!("connections did not end in {limit:?}: {}", names.join(", "));
                return false;
            }
            let _ = self.serving.ended.wait_for(&mut threads, left);
        }
        ended
    }
}

/// What the accept thread owns.
struct Accepting<F> {
    listener: TcpListener,
    waiter: Waiter,
    connections: Connections,
    metrics: Metrics,
    clock: Clock,
    stop: StopToken,
    serving: Arc<Serving>,
    serve: Arc<F>,
    name: &'static str,
    stack_bytes: usize,
    refused: Tally,
}

impl<F: Fn(Connection) + Send + Sync + 'static> Accepting<F> {
    fn run(mut self) {
        let mut rest_until: Option<Instant> = None;
        while !self.stop.is_set() {
            let now = self.clock.now();
            let resting = rest_until.is_some_and(|until| now < until);
            let waited = if resting {
                // Without the listener: it stays readable while its connections cannot be taken.
                self.waiter.wait_until(&[], now, rest_until)
            } else {
                self.waiter.wait(&[(self.listener.as_fd(), Interest::Read)], None)
            };
            let ready = match waited {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::error!("{} port: cannot wait for connections: {error}", self.name);
                    let _ = self.stop.wait(BACK_OFF);
                    continue;
                }
            };
            if ready.readable != 0 {
                rest_until = self.accept_batch().then(|| self.clock.now() + BACK_OFF);
            }
        }
    }

    /// Takes what has come; returns whether the system is short of something, so that a rest is due.
    fn accept_batch(&mut self) -> bool {
        for _ in 0..ACCEPT_BATCH {
            if self.stop.is_set() {
                return false;
            }
            match self.listener.accept() {
                Ok((stream, peer)) => {
                    if !self.take(stream, peer) {
                        return true;
                    }
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return false,
                    // It went away before we took it.
                    io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::Interrupted => {}
                    _ => {
                        self.refuse("system", 1, || error.to_string());
                        return true;
                    }
                },
            }
        }
        false
    }

    /// Admits or refuses one connection; returns `false` when the system refused a thread.
    fn take(&mut self, stream: TcpStream, peer: SocketAddr) -> bool {
        let place = match self.connections.admit(peer.ip()) {
            Ok(place) => place,
            Err(refusal) => {
                // The book has counted it; the socket closes here.
                self.refused.add(self.clock.now(), 1, || format!("{peer}: {refusal}"));
                return true;
            }
        };
        let Ok(local) = stream.local_addr() else { return true };
        // It only costs latency when it fails.
        let _ = stream.set_nodelay(true);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let thread_name = format!("{}-{number}", self.name);
        self.serving.threads.lock().insert(number, thread_name.clone());
        let served = Served { serving: self.serving.clone(), number };
        let connection = Connection { stream, peer, local, number, stop: self.stop.clone() };
        let on_port = self.metrics.connection_on(self.name);
        let serve = self.serve.clone();
        let spawned = threads::spawn(thread_name, self.stack_bytes, move || {
            // Dropped in reverse: the place is free before the owner hears that the thread is over.
            let _served = served;
            let _place = place;
            let _on_port = on_port;
            serve(connection);
        });
        match spawned {
            Ok(_) => {
                self.metrics.connections_total.with_label_values(&[self.name]).inc();
                true
            }
            Err(error) => {
                self.refuse("thread", 1, || format!("{peer}: {error}"));
                false
            }
        }
    }

    fn refuse(&mut self, reason: &'static str, number: u64, last: impl FnOnce() -> String) {
        self.metrics.connections_refused_total.with_label_values(&[reason]).inc_by(number);
        self.refused.add(self.clock.now(), number, last);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn settings() -> AcceptSettings {
        AcceptSettings {
            name: "test",
            address: "127.0.0.1:0".parse().unwrap(),
            stack_bytes: threads::STACK_PROTOCOL_BYTES,
        }
    }

    /// Serves one letter to each connection, then holds it until the stop.
    fn start(limits: ConnectionLimits) -> (Acceptor, Connections, Metrics) {
        let metrics = Metrics::new();
        let connections = Connections::new(limits, metrics.clone());
        let acceptor = Acceptor::start(
            settings(),
            connections.clone(),
            metrics.clone(),
            Clock::real(),
            |mut connection: Connection| {
                let _ = connection.stream.write_all(b"x");
                let _ = connection.stop.wait(LIMIT);
            },
        )
        .unwrap();
        (acceptor, connections, metrics)
    }

    /// Connects; returns the stream when it was served, and `None` when it was closed at once.
    fn connect(acceptor: &Acceptor) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(acceptor.address()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut letter = [0];
        matches!(stream.read(&mut letter), Ok(1)).then_some(stream)
    }

    #[test]
    fn a_connection_over_a_limit_is_closed_and_counted_by_reason() {
        let (acceptor, connections, metrics) = start(ConnectionLimits { total: 2, per_address: 8 });
        let held = [connect(&acceptor).unwrap(), connect(&acceptor).unwrap()];
        assert!(connect(&acceptor).is_none());
        let refused = |reason: &str| metrics.connections_refused_total.with_label_values(&[reason]).get();
        assert_eq!((connections.len(), refused("total"), refused("address")), (2, 1, 0));
        drop(held);
        assert!(acceptor.stop(&Clock::real(), LIMIT));
        assert!(connections.is_empty());
        assert_eq!(metrics.connections.get(), 0);

        let (acceptor, _, metrics) = start(ConnectionLimits { total: 8, per_address: 1 });
        let _held = connect(&acceptor).unwrap();
        assert!(connect(&acceptor).is_none());
        assert_eq!(metrics.connections_refused_total.with_label_values(&["address"]).get(), 1);
        assert!(acceptor.stop(&Clock::real(), LIMIT));
    }

    #[test]
    fn a_place_is_free_again_when_its_thread_panics() {
        let metrics = Metrics::new();
        let connections = Connections::new(ConnectionLimits { total: 1, per_address: 1 }, metrics.clone());
        let acceptor = Acceptor::start(
            settings(),
            connections.clone(),
            metrics,
            Clock::real(),
            |_connection: Connection| panic!("on purpose"),
        )
        .unwrap();
        let mut stream = TcpStream::connect(acceptor.address()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        assert!(!matches!(stream.read(&mut [0]), Ok(1)), "the panic closed it");
        assert!(acceptor.stop(&Clock::real(), LIMIT));
        assert!(connections.is_empty());
    }

    #[test]
    fn a_stop_names_a_thread_that_does_not_end_and_gives_up() {
        let metrics = Metrics::new();
        let connections = Connections::new(ConnectionLimits { total: 1, per_address: 1 }, metrics.clone());
        let release = StopSource::new();
        let wait = release.token();
        let acceptor = Acceptor::start(
            settings(),
            connections,
            metrics,
            Clock::real(),
            move |mut connection: Connection| {
                let _ = connection.stream.write_all(b"x");
                let _ = wait.wait(LIMIT);
            },
        )
        .unwrap();
        let _stream = connect(&acceptor).unwrap();
        assert!(!acceptor.stop(&Clock::real(), Duration::from_millis(20)));
        drop(release);
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_as_one() {
        let one = counted_address("2001:db8::1".parse().unwrap());
        assert_eq!(one, counted_address("2001:db8::ffff:2".parse().unwrap()));
        assert_ne!(one, counted_address("2001:db8:0:1::1".parse().unwrap()));
        let v4: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(counted_address("::ffff:192.0.2.1".parse().unwrap()), v4);
    }
}
