//! A way with faults between a client and the server: real datagrams, seeded loss, delay and, by delays that differ,
//! reordering.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use stillcast::base::clock::Clock;
use stillcast::base::stop::{StopSource, StopToken};
use stillcast::base::threads::{STACK_PROTOCOL_BYTES, Thread, spawn};
use stillcast::base::wait::{Interest, Waiter};

/// What a [`Relay`] does to datagrams, the same both ways.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Seeds which datagrams are lost and how late the others are.
    pub seed: u64,
    /// Share of datagrams that are lost.
    pub loss: f64,
    /// Shortest and longest time on the way.
    pub delay: (Duration, Duration),
}

/// A running relay for one client. Dropping it cuts the way.
pub struct Relay {
    address: SocketAddr,
    lost: Arc<AtomicU64>,
    carried: Arc<AtomicU64>,
    cut: Arc<AtomicBool>,
    stop: StopSource,
    thread: Option<Thread>,
}

/// A datagram on its way: when it arrives, in which order it came, to the server or not.
type OnTheWay = Reverse<(Instant, u64, bool, Vec<u8>)>;

impl Relay {
    /// Starts a relay on this machine in front of a server.
    pub fn start(server: SocketAddr, faults: Faults, clock: &Clock) -> io::Result<Self> {
        let bind = |ip| UdpSocket::bind((ip, 0));
        let own = if server.is_ipv4() { "127.0.0.1" } else { "::1" };
        let (front, back) = (bind(own)?, bind(if server.is_ipv4() { "0.0.0.0" } else { "::" })?);
        back.connect(server)?;
        front.set_nonblocking(true)?;
        back.set_nonblocking(true)?;
        let address = front.local_addr()?;
        let stop = StopSource::new();
        let (lost, carried) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let cut = Arc::<AtomicBool>::default();
        let mut way = Way {
            front,
            back,
            client: None,
            faults,
            random: StdRng::seed_from_u64(faults.seed),
            on_the_way: BinaryHeap::new(),
            number: 0,
            lost: lost.clone(),
            carried: carried.clone(),
            cut: cut.clone(),
        };
        let (clock, token, waiter) = (clock.clone(), stop.token(), Waiter::new()?);
        let thread = spawn("relay", STACK_PROTOCOL_BYTES, move || way.run(waiter, &clock, &token))?;
        Ok(Self { address, lost, carried, cut, stop, thread: Some(thread) })
    }

    /// Where the client sends instead of to the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing passes, or as before.
    pub fn cut(&self, is_cut: bool) {
        self.cut.store(is_cut, Ordering::Relaxed);
    }

    /// Datagrams (lost, carried) so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.lost.load(Ordering::Relaxed), self.carried.load(Ordering::Relaxed))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            thread.join(Duration::from_secs(5));
        }
    }
}

struct Way {
    front: UdpSocket,
    back: UdpSocket,
    /// The newest address that the client sent from.
    client: Option<SocketAddr>,
    faults: Faults,
    random: StdRng,
    on_the_way: BinaryHeap<OnTheWay>,
    number: u64,
    lost: Arc<AtomicU64>,
    carried: Arc<AtomicU64>,
    cut: Arc<AtomicBool>,
}

impl Way {
    fn run(&mut self, mut waiter: Waiter, clock: &Clock, stop: &StopToken) {
        stop.wakes(&waiter.waker());
        let mut buffer = [0; 2048];
        while !stop.is_set() {
            let now = clock.now();
            while let Ok((size, from)) = self.front.recv_from(&mut buffer) {
                self.client = Some(from);
                self.take(now, true, &buffer[..size]);
            }
            while let Ok(size) = self.back.recv(&mut buffer) {
                self.take(now, false, &buffer[..size]);
            }
            self.deliver(now);
            let deadline = self.on_the_way.peek().map(|Reverse((at, ..))| *at);
            let sockets = [(self.front.as_fd(), Interest::Read), (self.back.as_fd(), Interest::Read)];
            if waiter.wait_until(&sockets, clock.now(), deadline).is_err() {
                return;
            }
        }
    }

    fn take(&mut self, now: Instant, to_server: bool, datagram: &[u8]) {
        if self.cut.load(Ordering::Relaxed) || self.random.random_bool(self.faults.loss) {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let at = now + self.random.random_range(self.faults.delay.0..=self.faults.delay.1);
        self.number += 1;
        self.on_the_way.push(Reverse((at, self.number, to_server, datagram.to_vec())));
    }

    fn deliver(&mut self, now: Instant) {
        while self.on_the_way.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
            let Some(Reverse((_, _, to_server, datagram))) = self.on_the_way.pop() else { return };
            // A datagram that the other side no longer takes is lost, as on any way.
            let _ = match (to_server, self.client) {
                (true, _) => self.back.send(&datagram),
                (false, Some(client)) => self.front.send_to(&datagram, client),
                (false, None) => continue,
            };
            self.carried.fetch_add(1, Ordering::Relaxed);
        }
    }
}
