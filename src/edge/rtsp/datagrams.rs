//! Sockets of the tracks that travel by datagram: a pair each, for RTP and RTCP.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd};

use crate::base::wait::Interest;
use crate::edge::ports::{MediaPorts, MediaSocket, PortError, RECEIVE_BYTES};

/// Readings of one socket before the others and the connection are looked at.
const READ_BATCH: usize = 64;

/// One track's sockets, and the client's ports for it.
#[derive(Debug)]
struct Pair {
    track: usize,
    rtp: MediaSocket,
    rtcp: MediaSocket,
    client: (u16, u16),
}

/// All of one session.
#[derive(Debug)]
pub(super) struct Datagrams {
    /// The only address from which datagrams are taken, and to which they are sent: that of the connection.
    peer: IpAddr,
    /// Our address of the connection: datagrams leave from it.
    local: IpAddr,
    pairs: Vec<Pair>,
    buffer: Vec<u8>,
}

impl Datagrams {
    pub(super) fn new(peer: SocketAddr, local: SocketAddr) -> Self {
        let (peer, local) = (peer.ip().to_canonical(), local.ip().to_canonical());
        Self { peer, local, pairs: Vec::new(), buffer: Vec::new() }
    }

    /// Takes a pair of ports for a track; returns their numbers.
    pub(super) fn open(
        &mut self,
        ports: &MediaPorts,
        track: usize,
        client: (u16, u16),
    ) -> Result<(u16, u16), PortError> {
        let (rtp, rtcp) = ports.take_pair()?;
        let numbers = (rtp.local().port(), rtcp.local().port());
        self.buffer.resize(RECEIVE_BYTES, 0);
        self.pairs.push(Pair { track, rtp, rtcp, client });
        Ok(numbers)
    }

    /// Gives all ports back.
    pub(super) fn close(&mut self) {
        self.pairs.clear();
        self.buffer = Vec::new();
    }

    /// The sockets to wait for, in a fixed order.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (BorrowedFd<'_>, Interest)> {
        let each = self.pairs.iter().flat_map(|pair| [&pair.rtp, &pair.rtcp]);
        each.map(|socket| (socket.socket().as_fd(), Interest::Read))
    }

    /// Takes what has come from the client: its track, whether it is a report, the datagram.
    pub(super) fn read(&mut self, mut take: impl FnMut(usize, bool, &[u8])) {
        let Self { peer, pairs, buffer, .. } = self;
        for pair in pairs {
            for (socket, is_rtcp) in [(&pair.rtp, false), (&pair.rtcp, true)] {
                for _ in 0..READ_BATCH {
                    match socket.receive(buffer) {
                        // Whoever sends from elsewhere is no part of this session.
                        Ok(received) if received.from.ip() == *peer => {
                            received.datagrams.for_each(|datagram| take(pair.track, is_rtcp, datagram));
                        }
                        Ok(_) => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        // What the network says about something that we sent; reading it takes it away.
                        Err(error) => tracing::debug!("media socket: {error}"),
                    }
                }
            }
        }
    }

    /// Sends a datagram of a track. One that is not taken is a lost datagram.
    pub(super) fn send(&self, track: usize, is_rtcp: bool, bytes: &[u8]) {
        let Some(pair) = self.pairs.iter().find(|pair| pair.track == track) else { return };
        let (socket, port) = if is_rtcp { (&pair.rtcp, pair.client.1) } else { (&pair.rtp, pair.client.0) };
        let _ = socket.send(bytes, SocketAddr::new(self.peer, port), Some(self.local));
    }
}
