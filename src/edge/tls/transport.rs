//! A TCP connection, plain or TLS, in two manners: non-blocking, and with a deadline for a whole exchange.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use crate::base::clock::Clock;
use crate::base::stop::StopToken;
use crate::base::wait::{Interest, Waiter};

/// A TCP connection, plain or TLS. It works over sockets in either mode; in non-blocking mode an operation that
/// cannot go on returns [`io::ErrorKind::WouldBlock`].
///
/// Reading and writing are independent: a client that does not read cannot keep us from reading what it sends, so
/// a thread that waits for a readable socket always makes progress by reading.
#[derive(Debug)]
pub struct Transport {
    socket: TcpStream,
    tls: Option<Box<Connection>>,
    sent: u64,
}

impl Transport {
    /// A connection without TLS.
    #[must_use]
    pub fn plain(socket: TcpStream) -> Self {
        Self { socket, tls: None, sent: 0 }
    }

    /// A connection with TLS, whose handshake runs inside the first reads and writes.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn tls(socket: TcpStream, config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        Ok(Self { socket, tls: Some(Box::new(ServerConnection::new(config)?.into())), sent: 0 })
    }

    /// A connection of ours to somebody else's TLS port. The handshake begins with the first [`Write::flush`].
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn tls_client(
        socket: TcpStream,
        config: Arc<ClientConfig>,
        server: ServerName<'static>,
    ) -> Result<Self, rustls::Error> {
        Ok(Self { socket, tls: Some(Box::new(ClientConnection::new(config, server)?.into())), sent: 0 })
    }

    /// TLS if there is a configuration for it, otherwise plain.
    ///
    /// # Errors
    /// As [`Transport::tls`].
    pub fn new(socket: TcpStream, config: Option<&Arc<ServerConfig>>) -> Result<Self, rustls::Error> {
        match config {
            Some(config) => Self::tls(socket, config.clone()),
            None => Ok(Self::plain(socket)),
        }
    }

    /// Whether what is read and written here is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The socket below.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Encrypted bytes wait for room in the socket: wait for [`Interest::Write`] too, then call [`Write::flush`].
    /// Always false without TLS, where nothing is kept here.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Bytes that the socket took so far: while it does not rise, the other end does not read.
    #[must_use]
    pub fn bytes_sent(&self) -> u64 {
        self.sent
    }

    /// Says goodbye (TLS close_notify) as far as the socket takes it at once, and ends our direction.
    pub fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let _ = send_pending(tls, &mut self.socket, &mut self.sent);
        }
        let _ = self.socket.shutdown(Shutdown::Write);
    }
}

fn send_pending(tls: &mut Connection, socket: &mut TcpStream, sent: &mut u64) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(socket)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => *sent += count as u64,
        }
    }
    Ok(())
}

/// [`send_pending`], where no room is no error: the bytes wait.
fn send_what_fits(tls: &mut Connection, socket: &mut TcpStream, sent: &mut u64) -> io::Result<()> {
    match send_pending(tls, socket, sent) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        other => other,
    }
}

impl Read for Transport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.read(buffer) };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The other end left without close_notify, as browsers do; what it sent is whole or is not, which
                // the protocol above finds out.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            if tls.read_tls(&mut self.socket)? == 0 {
                return Ok(0);
            }
            if let Err(error) = tls.process_new_packets() {
                // The alert that tells the other end why.
                let _ = send_what_fits(tls, &mut self.socket, &mut self.sent);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            send_what_fits(tls, &mut self.socket, &mut self.sent)?;
        }
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            let count = self.socket.write(bytes)?;
            self.sent += count as u64;
            return Ok(count);
        };
        if bytes.is_empty() {
            return Ok(0);
        }
        // rustls keeps up to 64 KiB and then takes nothing until some of it went out.
        let mut taken = tls.writer().write(bytes)?;
        send_what_fits(tls, &mut self.socket, &mut self.sent)?;
        if taken == 0 {
            taken = tls.writer().write(bytes)?;
            send_what_fits(tls, &mut self.socket, &mut self.sent)?;
        }
        if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            None => self.socket.flush(),
            Some(tls) => send_pending(tls, &mut self.socket, &mut self.sent),
        }
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A transport that waits inside each read and write, but not past one deadline, and not past a stop.
#[derive(Debug)]
pub struct Timed {
    transport: Transport,
    waiter: Waiter,
    clock: Clock,
    stop: StopToken,
    deadline: Instant,
}

impl Timed {
    /// Puts the socket into non-blocking mode. Every read and write fails with [`io::ErrorKind::TimedOut`] after
    /// `deadline`, and with [`io::ErrorKind::ConnectionAborted`] after a stop.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new(transport: Transport, clock: Clock, stop: StopToken, deadline: Instant) -> io::Result<Self> {
        transport.socket.set_nonblocking(true)?;
        let waiter = Waiter::new()?;
        stop.wakes(&waiter.waker());
        Ok(Self { transport, waiter, clock, stop, deadline })
    }

    /// Says goodbye as far as the socket takes it at once.
    pub fn close(&mut self) {
        self.transport.close();
    }

    /// The transport, in non-blocking mode, and its waiter, which the stop wakes.
    #[must_use]
    pub fn into_parts(self) -> (Transport, Waiter) {
        (self.transport, self.waiter)
    }

    fn patiently<T>(
        &mut self,
        interest: Interest,
        mut operation: impl FnMut(&mut Transport) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            if self.stop.is_set() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            // Before the operation: a client that feeds us without pause does not get past it either.
            let now = self.clock.now();
            if now >= self.deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match operation(&mut self.transport) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => return other,
            }
            let interest = if self.transport.wants_write() && interest == Interest::Read {
                Interest::Both
            } else {
                interest
            };
            let ready =
                self.waiter.wait_until(&[(self.transport.as_fd(), interest)], now, Some(self.deadline))?;
            if ready.writable != 0 && self.transport.wants_write() {
                match self.transport.flush() {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    other => other?,
                }
            }
        }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.patiently(Interest::Read, |transport| transport.read(buffer))
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.patiently(Interest::Write, |transport| transport.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.patiently(Interest::Write, Transport::flush)
    }
}
