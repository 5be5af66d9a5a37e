//! Datagrams of one moment, handed to the system together: a picture is one call rather than ten.

use std::net::{IpAddr, SocketAddr};

use crate::edge::ports::MediaSocket;

/// Most bytes of a run: what one system call can take is 64 KiB with its headers.
const BYTES_MAX: usize = 60_000;

/// Datagrams of one size to one address, of which the last may be shorter.
#[derive(Debug, Default)]
pub(super) struct Run {
    way: Option<(SocketAddr, Option<IpAddr>)>,
    bytes: Vec<u8>,
    datagram_bytes: usize,
    count: usize,
    /// Its last datagram is shorter: nothing can follow.
    is_closed: bool,
}

impl Run {
    /// Adds a datagram; what does not fit behind the others sends them first.
    pub(super) fn add(&mut self, media: &MediaSocket, datagram: &[u8], to: SocketAddr, from: Option<IpAddr>) {
        let fits = self.way == Some((to, from))
            && !self.is_closed
            && datagram.len() <= self.datagram_bytes
            && self.bytes.len() + datagram.len() <= BYTES_MAX
            && self.count < media.run_max();
        if !fits {
            self.send(media);
            self.way = Some((to, from));
            self.datagram_bytes = datagram.len();
        }
        self.is_closed = datagram.len() < self.datagram_bytes;
        self.bytes.extend_from_slice(datagram);
        self.count += 1;
    }

    /// Sends what was added.
    pub(super) fn send(&mut self, media: &MediaSocket) {
        if let Some((to, from)) = self.way.take().filter(|_| self.count > 0) {
            let datagram_bytes = (self.count > 1).then_some(self.datagram_bytes);
            // Datagrams that are not taken are lost datagrams.
            let _ = media.send_run(&self.bytes, datagram_bytes, to, from);
        }
        self.bytes.clear();
        (self.count, self.is_closed) = (0, false);
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;
    use crate::edge::ports::MediaPorts;
    use crate::edge::ports::tests::range;

    #[test]
    fn datagrams_arrive_each_by_itself_and_in_order_whatever_their_sizes() {
        let ports = MediaPorts::new(range(1));
        let media = ports.take().unwrap();
        let receivers = [0, 1].map(|_| {
            let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            socket
        });
        let mut run = Run::default();
        let sizes = [1100, 1100, 1100, 900, 1000, 1000, 1200, 30, 30, 30];
        for (number, size) in sizes.iter().enumerate() {
            for receiver in &receivers {
                let to = receiver.local_addr().unwrap();
                run.add(&media, &vec![number as u8; *size], to, None);
            }
        }
        for (number, size) in sizes.iter().enumerate() {
            run.add(&media, &vec![number as u8 + 100; *size], receivers[0].local_addr().unwrap(), None);
        }
        run.send(&media);
        let mut buffer = [0; 2000];
        for (position, receiver) in receivers.iter().enumerate() {
            for from in [0, 100].into_iter().take(2 - position) {
                for (number, size) in sizes.iter().enumerate() {
                    let got = receiver.recv(&mut buffer).unwrap();
                    assert_eq!((got, usize::from(buffer[0])), (*size, number + from));
                }
            }
        }
    }
}
