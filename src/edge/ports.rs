//! UDP ports for media: one a peer, out of a range that the operator opens in the firewall.
//!
//! RTP and RTCP share the port (RFC 5761) and all tracks share the transport (RFC 9143), so every port of the range
//! is of use; keeping to even ones, as separate RTCP ports once needed, would halve the number of streams.

use std::collections::BTreeSet;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::slice::Chunks;
use std::sync::Arc;

use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

/// Where media sockets are bound.
#[derive(Clone, Copy, Debug)]
pub struct PortSettings {
    /// Local address (`ip_local`); the unspecified one takes datagrams from every interface.
    pub address: IpAddr,
    /// First port (`media_port_from`); 0 takes any port that the system has.
    pub from: u16,
    /// Last port (`media_port_to`), included.
    pub to: u16,
    /// Kernel buffer for what comes in (`rtp_receive_buffer_size`); the kernel may grant less.
    pub receive_buffer_bytes: usize,
    /// Likewise for what goes out (`rtp_send_buffer_size`).
    pub send_buffer_bytes: usize,
}

/// No port.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Every port of the range is taken, by us or by other processes.
    #[error("every port from media_port_from to media_port_to is taken")]
    Exhausted,
    /// The system refuses a socket.
    #[error("no media socket")]
    Socket(#[source] io::Error),
}

/// The range and which of its ports are ours now; clones share it.
#[derive(Clone, Debug)]
pub struct MediaPorts(Arc<Range>);

#[derive(Debug)]
struct Range {
    settings: PortSettings,
    taken: parking_lot::Mutex<Taken>,
}

#[derive(Debug)]
struct Taken {
    ports: BTreeSet<u16>,
    /// Where to look first: a port that was given back rests while the others have their turn, so that what is still
    /// on its way to the old peer does not meet the next one.
    next: u16,
}

/// Ports that the system is asked for until one of them is even and its neighbour free.
const SYSTEM_TRIES: usize = 64;

/// Bytes that one [`MediaSocket::receive`] may bring: the kernel hands datagrams of one size from one sender over in one
/// piece, as large as a datagram can be at all.
pub const RECEIVE_BYTES: usize = 65_536;

/// A bound, non-blocking UDP socket; dropping it closes it and gives its port back.
///
/// It tells to which of the machine's addresses a datagram came, and sends from the one it is told to: a browser takes
/// answers only from the address that it has asked (RFC 8445 section 7.2.5.2.1), and a machine may have several.
#[derive(Debug)]
pub struct MediaSocket {
    /// Closed before the port is free: fields drop in this order.
    socket: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    _place: Place,
}

#[derive(Debug)]
struct Place {
    ports: MediaPorts,
    port: u16,
}

impl MediaPorts {
    /// A range of which nothing is taken. A range whose end is below its beginning has no ports.
    #[must_use]
    pub fn new(settings: PortSettings) -> Self {
        let taken = Taken { ports: BTreeSet::new(), next: settings.from };
        Self(Arc::new(Range { settings, taken: parking_lot::Mutex::new(taken) }))
    }

    /// Takes a port and binds it. Ports that other processes hold are passed over.
    ///
    /// # Errors
    /// When there is none, or the system refuses a socket.
    pub fn take(&self) -> Result<MediaSocket, PortError> {
        let PortSettings { from, to, .. } = self.0.settings;
        if from == 0 {
            return self.bind(0).map_err(PortError::Socket);
        }
        for _ in from..=to {
            let Some(port) = self.reserve() else { break };
            match self.bind(port) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                other => return other.map_err(PortError::Socket),
            }
        }
        Err(PortError::Exhausted)
    }

    /// Takes an even port and the odd one after it, as RTP and RTCP without multiplexing want them (RFC 3550 section 11).
    ///
    /// # Errors
    /// As [`MediaPorts::take`].
    pub fn take_pair(&self) -> Result<(MediaSocket, MediaSocket), PortError> {
        let PortSettings { from, to, .. } = self.0.settings;
        let tries = if from == 0 { SYSTEM_TRIES } else { (from..=to).len() };
        for _ in 0..tries {
            let first = self.take()?;
            let port = first.local().port();
            let fits = port.is_multiple_of(2) && (from == 0 || port < to);
            if !fits || !self.0.taken.lock().ports.insert(port + 1) {
                continue;
            }
            match self.bind(port + 1) {
                Ok(second) => return Ok((first, second)),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(PortError::Socket(error)),
            }
        }
        Err(PortError::Exhausted)
    }

    /// Ports in the range; `None` when the system chooses them.
    #[must_use]
    pub fn size(&self) -> Option<usize> {
        let PortSettings { from, to, .. } = self.0.settings;
        (from != 0).then(|| (from..=to).len())
    }

    /// Ports taken now.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.0.taken.lock().ports.len()
    }

    /// Marks the next port that is not ours yet.
    fn reserve(&self) -> Option<u16> {
        let PortSettings { from, to, .. } = self.0.settings;
        let mut taken = self.0.taken.lock();
        let port = (taken.next..=to).chain(from..taken.next).find(|port| !taken.ports.contains(port))?;
        taken.ports.insert(port);
        taken.next = if port >= to { from } else { port + 1 };
        Some(port)
    }

    /// Binds a reserved port; when that fails, the reservation falls.
    fn bind(&self, port: u16) -> io::Result<MediaSocket> {
        let mut place = Place { ports: self.clone(), port };
        let settings = &self.0.settings;
        let address = SocketAddr::new(settings.address, port);
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        // A smaller buffer than wished loses packets in bursts, which retransmission repairs: no reason to fail.
        let _ = socket.set_recv_buffer_size(settings.receive_buffer_bytes);
        let _ = socket.set_send_buffer_size(settings.send_buffer_bytes);
        socket.set_nonblocking(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        socket.bind(&address.into())?;
        let socket = UdpSocket::from(socket);
        let local = socket.local_addr()?;
        if port == 0 {
            place.port = local.port();
            self.0.taken.lock().ports.insert(place.port);
        }
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        Ok(MediaSocket { socket, state, local, _place: place })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.ports.0.taken.lock().ports.remove(&self.port);
    }
}

/// What one [`MediaSocket::receive`] brought: at least one datagram, all from the same sender to the same address.
#[derive(Debug)]
pub struct Received<'a> {
    /// The sender.
    pub from: SocketAddr,
    /// The address of ours that it was sent to; `None` where the system does not say.
    pub to: Option<IpAddr>,
    /// The datagrams.
    pub datagrams: Chunks<'a, u8>,
}

impl MediaSocket {
    /// The socket, for waiting.
    #[must_use]
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Takes what has come from one sender. `buffer` has [`RECEIVE_BYTES`]; what does not fit is lost.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; else what the network says about something that was sent.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Received<'a>> {
        let mut meta = [RecvMeta::default()];
        self.state.recv(UdpSockRef::from(&self.socket), &mut [IoSliceMut::new(buffer)], &mut meta)?;
        let [RecvMeta { addr, len, stride, dst_ip, .. }] = meta;
        let bytes = buffer.get(..len).unwrap_or_default();
        // A socket for both families shows IPv4 in its mapped form (RFC 4291 section 2.5.5.2), which is no address that
        // a browser knows itself by.
        let from = match addr.ip().to_canonical() {
            IpAddr::V4(v4) => SocketAddr::new(v4.into(), addr.port()),
            IpAddr::V6(_) => addr,
        };
        let to = dst_ip.map(|ip| ip.to_canonical());
        Ok(Received { from, to, datagrams: bytes.chunks(stride.max(1)) })
    }

    /// Sends a datagram, from this address of ours where one is given.
    ///
    /// # Errors
    /// When the system does not take it.
    pub fn send(&self, bytes: &[u8], to: SocketAddr, from: Option<IpAddr>) -> io::Result<()> {
        self.send_run(bytes, None, to, from)
    }

    /// Most datagrams that one [`MediaSocket::send_run`] may hold; 1 where the system takes them one by one.
    #[must_use]
    pub fn run_max(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Sends a run of datagrams in one system call: `bytes` cut every `datagram_bytes`, of which the last may be shorter.
    ///
    /// # Errors
    /// When the system does not take it; none of it is sent then.
    pub fn send_run(
        &self,
        bytes: &[u8],
        datagram_bytes: Option<usize>,
        to: SocketAddr,
        from: Option<IpAddr>,
    ) -> io::Result<()> {
        let destination = match to {
            SocketAddr::V4(v4) => SocketAddr::new(self.written(v4.ip().to_owned().into()), v4.port()),
            SocketAddr::V6(_) => to,
        };
        let src_ip = from.map(|ip| self.written(ip));
        let transmit =
            Transmit { destination, ecn: None, contents: bytes, segment_size: datagram_bytes, src_ip };
        self.state.try_send(UdpSockRef::from(&self.socket), &transmit)
    }

    /// An address in the form of the socket's family.
    fn written(&self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V4(v4) if self.local.is_ipv6() => v4.to_ipv6_mapped().into(),
            other => other,
        }
    }

    /// Where it is bound: the unspecified address when it listens on every interface, and the port.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::base::wait::{Interest, Waiter};

    /// A range of `size` ports that nobody had a moment ago.
    pub(in crate::edge) fn range(size: u16) -> PortSettings {
        // An address of its own: other tests take ports of 127.0.0.1.
        let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 83));
        loop {
            let first = UdpSocket::bind((address, 0)).unwrap();
            let from = first.local_addr().unwrap().port();
            let Some(to) = from.checked_add(size - 1) else { continue };
            if (from + 1..=to).all(|port| UdpSocket::bind((address, port)).is_ok()) {
                return PortSettings {
                    address,
                    from,
                    to,
                    receive_buffer_bytes: 131_072,
                    send_buffer_bytes: 131_072,
                };
            }
        }
    }

    #[test]
    fn a_range_is_used_up_and_what_is_given_back_is_used_again_later() {
        let settings = range(3);
        let ports = MediaPorts::new(settings);
        let first = ports.take().unwrap();
        let second = ports.take().unwrap();
        assert_eq!(first.local().port() + 1, second.local().port());
        drop(first);
        let third = ports.take().unwrap();
        assert_eq!(third.local().port(), settings.to, "the port given back rests");
        let again = ports.take().unwrap();
        assert_eq!(again.local().port(), settings.from);
        assert!(matches!(ports.take(), Err(PortError::Exhausted)));
        drop((second, third, again));
        assert_eq!(ports.taken(), 0);
    }

    #[test]
    fn a_port_of_another_process_is_passed_over() {
        let settings = range(2);
        let _other = UdpSocket::bind((settings.address, settings.from)).unwrap();
        let ports = MediaPorts::new(settings);
        assert_eq!(ports.take().unwrap().local().port(), settings.to);
        assert_eq!(ports.taken(), 0, "nothing is kept of either");
    }

    #[test]
    fn port_zero_takes_any_and_an_empty_range_none() {
        let any = MediaPorts::new(PortSettings { from: 0, to: 0, ..range(1) });
        let taken = any.take().unwrap();
        assert_ne!(taken.local().port(), 0);
        assert_eq!(any.taken(), 1);
        drop(taken);
        assert_eq!(any.taken(), 0);
        let none = MediaPorts::new(PortSettings { from: 40_001, to: 40_000, ..range(1) });
        assert!(matches!(none.take(), Err(PortError::Exhausted)));
    }

    #[test]
    fn an_answer_leaves_from_the_address_that_was_asked() {
        answers_from_the_address_that_was_asked(Ipv4Addr::UNSPECIFIED.into());
    }

    #[test]
    fn a_socket_for_both_families_knows_ipv4_by_its_own_addresses() {
        // A machine without IPv6 has no such sockets.
        if UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
            return;
        }
        answers_from_the_address_that_was_asked(Ipv6Addr::UNSPECIFIED.into());
    }

    fn answers_from_the_address_that_was_asked(address: IpAddr) {
        let everywhere = PortSettings { address, from: 0, to: 0, ..range(1) };
        let media = MediaPorts::new(everywhere).take().unwrap();
        let asked = IpAddr::from([127, 0, 0, 84]);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        // A connected socket takes nothing from any other address.
        client.connect((asked, media.local().port())).unwrap();
        client.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        client.send(b"where").unwrap();
        Waiter::new().unwrap().wait(&[(media.socket().as_fd(), Interest::Read)], None).unwrap();
        let mut buffer = vec![0; RECEIVE_BYTES];
        let received = media.receive(&mut buffer).unwrap();
        assert_eq!((received.from, received.to), (client.local_addr().unwrap(), Some(asked)));
        assert_eq!(received.datagrams.collect::<Vec<_>>(), [b"where"]);
        media.send(b"here", client.local_addr().unwrap(), Some(asked)).unwrap();
        let mut answer = [0; 10];
        assert_eq!(client.recv(&mut answer).unwrap(), 4);
    }
}
