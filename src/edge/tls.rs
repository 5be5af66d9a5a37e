//! TLS for every port that wants it: the server's certificate, and a transport that is plain or TLS.
//!
//! The transport has two manners: non-blocking, for threads that sleep in a [`Waiter`]; and [`Timed`], for exchanges
//! that have one deadline as a whole (handshakes, request and response), so that a client that sends a byte a
//! second gains nothing by it.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};
use sha2::{Digest as _, Sha256};

use crate::base::clock::Clock;
use crate::base::stop::StopToken;
use crate::base::wait::{Interest, Waiter};

/// Where the server's certificate comes from.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// PEM file of the certificate, followed by its intermediates. Given together with `key`, or not at all.
    pub cert: Option<PathBuf>,
    /// PEM file of the private key (PKCS #8, PKCS #1 or SEC 1).
    pub key: Option<PathBuf>,
    /// Folder of what the server writes; a certificate that we make is kept in its `tls` folder.
    pub data_dir: PathBuf,
    /// Host names and addresses for a certificate that we make; `localhost` and the loopback addresses are always in it.
    pub names: Vec<String>,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One of `tls.cert` and `tls.key` without the other.
    #[error("tls.cert and tls.key must be given together")]
    HalfAPair,
    /// A file cannot be read or is not PEM.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::pki_types::pem::Error,
    },
    /// No certificate in the file.
    #[error("no certificate in {path}", path = path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key do not fit together, or their kind is not supported.
    #[error("certificate and key cannot be used")]
    Pair(#[source] rustls::Error),
    /// No certificate could be made.
    #[error("cannot make a certificate")]
    Make(#[source] rcgen::Error),
    /// The certificate that was made cannot be kept.
    #[error("cannot write {path}", path = path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A certificate that we make ourselves is valid for this long; whoever wants another one removes the files.
const SELF_SIGNED_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The configuration for all TLS ports of the server; the certificate's fingerprint is logged. `wall` is the time now.
///
/// # Errors
/// When the files that were given cannot be used, or no certificate could be made and kept.
pub fn server_config(settings: &TlsSettings, wall: SystemTime) -> Result<Arc<ServerConfig>, TlsError> {
    let (config, fingerprint, origin) = match (&settings.cert, &settings.key) {
        (Some(cert), Some(key)) => {
            let (config, fingerprint) = load(cert, key)?;
            (config, fingerprint, cert.clone())
        }
        (None, None) => self_signed(settings, wall)?,
        _ => return Err(TlsError::HalfAPair),
    };
    tracing::info!("TLS certificate {}, SHA-256 fingerprint {fingerprint}", origin.display());
    Ok(Arc::new(config))
}

fn load(cert: &Path, key: &Path) -> Result<(ServerConfig, String), TlsError> {
    let read = |path: &Path| {
        let path = path.to_owned();
        |source| TlsError::Read { path, source }
    };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(read(cert))?;
    let Some(first) = chain.first() else { return Err(TlsError::NoCertificate { path: cert.to_owned() }) };
    let fingerprint = fingerprint_sha256(first);
    let key = PrivateKeyDer::from_pem_file(key).map_err(read(key))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(TlsError::Pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((config, fingerprint))
}

/// SHA-256 of a certificate as browsers show it: pairs of hex digits with colons.
#[must_use]
pub fn fingerprint_sha256(certificate: &CertificateDer<'_>) -> String {
    let pairs: Vec<_> = Sha256::digest(certificate).iter().map(|byte| format!("{byte:02X}")).collect();
    pairs.join(":")
}

/// The certificate that we made earlier, or a new one.
fn self_signed(
    settings: &TlsSettings,
    wall: SystemTime,
) -> Result<(ServerConfig, String, PathBuf), TlsError> {
    let folder = settings.data_dir.join("tls");
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    if cert.exists() && key.exists() {
        match load(&cert, &key) {
            Ok((config, fingerprint)) => return Ok((config, fingerprint, cert)),
            // Ours to repair: a crash between the two files leaves a pair that does not fit.
            Err(error) => tracing::warn!("making a new certificate: {error} in {}", folder.display()),
        }
    }
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(String::from).to_vec();
    names.extend(settings.names.iter().filter(|name| !name.is_empty()).cloned());
    let mut params = rcgen::CertificateParams::new(names).map_err(TlsError::Make)?;
    params.distinguished_name.push(rcgen::DnType::CommonName, "Stillcast");
    params.not_before = (wall - Duration::from_secs(24 * 3600)).into();
    params.not_after = (wall + SELF_SIGNED_VALIDITY).into();
    let pair = rcgen::KeyPair::generate().map_err(TlsError::Make)?;
    let certificate = params.self_signed(&pair).map_err(TlsError::Make)?;

    fs::create_dir_all(&folder).map_err(|source| TlsError::Write { path: folder.clone(), source })?;
    replace(&key, 0o600, pair.serialize_pem().as_bytes())?;
    replace(&cert, 0o644, certificate.pem().as_bytes())?;
    let (config, fingerprint) = load(&cert, &key)?;
    Ok((config, fingerprint, cert))
}

/// Writes a file under a temporary name that nobody else may read meanwhile, then renames it.
fn replace(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), TlsError> {
    let temporary = path.with_extension("tmp");
    let written = (|| {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    written.map_err(|source| TlsError::Write { path: path.to_owned(), source })
}

/// A TCP connection, plain or TLS. It works over sockets in either mode; in non-blocking mode an operation that
/// cannot go on returns [`io::ErrorKind::WouldBlock`].
///
/// Reading and writing are independent: a client that does not read cannot keep us from reading what it sends, so
/// a thread that waits for a readable socket always makes progress by reading.
#[derive(Debug)]
pub struct Transport {
    socket: TcpStream,
    tls: Option<Box<ServerConnection>>,
}

impl Transport {
    /// A connection without TLS.
    #[must_use]
    pub fn plain(socket: TcpStream) -> Self {
        Self { socket, tls: None }
    }

    /// A connection with TLS, whose handshake runs inside the first reads and writes.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn tls(socket: TcpStream, config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        Ok(Self { socket, tls: Some(Box::new(ServerConnection::new(config)?)) })
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

    /// Says goodbye (TLS close_notify) as far as the socket takes it at once, and ends our direction.
    pub fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            while tls.wants_write() && matches!(tls.write_tls(&mut self.socket), Ok(1..)) {}
        }
        let _ = self.socket.shutdown(Shutdown::Write);
    }
}

fn send_pending(tls: &mut ServerConnection, socket: &mut TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        if tls.write_tls(socket)? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

/// [`send_pending`], where no room is no error: the bytes wait.
fn send_what_fits(tls: &mut ServerConnection, socket: &mut TcpStream) -> io::Result<()> {
    match send_pending(tls, socket) {
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
                let _ = send_what_fits(tls, &mut self.socket);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            send_what_fits(tls, &mut self.socket)?;
        }
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.write(bytes) };
        if bytes.is_empty() {
            return Ok(0);
        }
        // rustls keeps up to 64 KiB and then takes nothing until some of it went out.
        let mut taken = tls.writer().write(bytes)?;
        send_what_fits(tls, &mut self.socket)?;
        if taken == 0 {
            taken = tls.writer().write(bytes)?;
            send_what_fits(tls, &mut self.socket)?;
        }
        if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            None => self.socket.flush(),
            Some(tls) => send_pending(tls, &mut self.socket),
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

    /// Begins another exchange.
    pub fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// The transport.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The other end.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.transport.socket.peer_addr()
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
                let tls = self.transport.tls.as_mut();
                if let Some(tls) = tls {
                    send_what_fits(tls, &mut self.transport.socket)?;
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::UNIX_EPOCH;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

    use super::*;
    use crate::base::stop::StopSource;
    use crate::base::threads;

    const LIMIT: Duration = Duration::from_secs(10);

    fn settings(folder: &Path) -> TlsSettings {
        TlsSettings {
            cert: None,
            key: None,
            data_dir: folder.to_owned(),
            names: vec!["camera.example".into()],
        }
    }

    fn wall() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    /// Accepts exactly the certificate of this fingerprint.
    #[derive(Debug)]
    struct Pinned(String);

    impl ServerCertVerifier for Pinned {
        fn verify_server_cert(
            &self,
            end_entity: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            assert_eq!(fingerprint_sha256(end_entity), self.0);
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519]
        }
    }

    fn client(stream: TcpStream, fingerprint: &str) -> StreamOwned<ClientConnection, TcpStream> {
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned(fingerprint.into())))
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream)
    }

    fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn a_self_signed_certificate_is_made_once_and_its_key_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let (_, first, path) = self_signed(&settings(folder.path()), wall()).unwrap();
        let (_, second, _) = self_signed(&settings(folder.path()), wall()).unwrap();
        assert_eq!(first, second);
        let key = path.with_file_name("key.pem");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&key, "torn").unwrap();
        let (_, third, _) = self_signed(&settings(folder.path()), wall()).unwrap();
        assert_ne!(first, third, "a broken pair of ours is replaced");
    }

    #[test]
    fn a_pair_of_the_operator_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (_, _, cert) = self_signed(&settings(folder.path()), wall()).unwrap();
        let key = folder.path().join("other.pem");
        fs::write(&key, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let mut settings = settings(folder.path());
        settings.cert = Some(cert);
        assert!(matches!(server_config(&settings, wall()), Err(TlsError::HalfAPair)));
        settings.key = Some(key);
        assert!(matches!(server_config(&settings, wall()), Err(TlsError::Pair(_))));
        settings.key = Some(folder.path().join("none.pem"));
        assert!(matches!(server_config(&settings, wall()), Err(TlsError::Read { .. })));
    }

    #[test]
    fn megabytes_pass_both_ways_while_neither_end_waits_for_the_other() {
        const SIZE: usize = 3 << 20;
        let folder = tempfile::tempdir().unwrap();
        let (config, fingerprint, _) = self_signed(&settings(folder.path()), wall()).unwrap();
        let (client_socket, server_socket) = sockets();
        server_socket.set_nonblocking(true).unwrap();
        let peer = threads::spawn("test-client", threads::STACK_PROTOCOL_BYTES, move || {
            let mut client = client(client_socket, &fingerprint);
            client.write_all(&vec![7; SIZE]).unwrap();
            let mut got = vec![0; SIZE];
            client.read_exact(&mut got).unwrap();
            assert!(got.iter().all(|byte| *byte == 9));
            client.write_all(b"end").unwrap();
        })
        .unwrap();

        // The server sends all of its bytes before the client reads any: it has to go on reading meanwhile.
        let mut transport = Transport::tls(server_socket, Arc::new(config)).unwrap();
        let mut waiter = Waiter::new().unwrap();
        let (mut received, mut sent, mut waits) = (0, 0, 0);
        let (reply, mut buffer) = (vec![9; SIZE], vec![0; 64 << 10]);
        while received < SIZE + 3 {
            while received < SIZE + 3 {
                match transport.read(&mut buffer) {
                    Ok(0) => panic!("ended early: {received} in, {sent} out"),
                    Ok(count) => received += count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
            while sent < SIZE {
                match transport.write(&reply[sent..]) {
                    Ok(count) => sent += count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
            let interest =
                if sent < SIZE || transport.wants_write() { Interest::Both } else { Interest::Read };
            let ready = waiter.wait(&[(transport.as_fd(), interest)], Some(LIMIT)).unwrap();
            assert!(ready.readable + ready.writable > 0, "stuck at {received} in, {sent} out");
            if transport.wants_write() {
                let _ = transport.flush();
            }
            waits += 1;
            assert!(waits < 100_000, "spins");
        }
        assert!(peer.join(LIMIT));
    }

    #[test]
    fn a_client_that_never_finishes_its_handshake_is_given_up_at_the_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let config = server_config(&settings(folder.path()), wall()).unwrap();
        let (mut slow, server) = sockets();
        slow.write_all(&[22, 3, 1]).unwrap();
        let (clock, stop) = (Clock::real(), StopSource::new());
        let deadline = clock.now() + Duration::from_millis(50);
        let transport = Transport::tls(server, config).unwrap();
        let mut timed = Timed::new(transport, clock, stop.token(), deadline).unwrap();
        assert_eq!(timed.read(&mut [0; 16]).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_client_that_speaks_no_tls_is_an_error_and_a_stop_ends_the_wait() {
        let folder = tempfile::tempdir().unwrap();
        let config = server_config(&settings(folder.path()), wall()).unwrap();
        let (mut plain, server) = sockets();
        plain.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let (clock, mut stop) = (Clock::real(), StopSource::new());
        let deadline = clock.now() + LIMIT;
        let transport = Transport::tls(server, config).unwrap();
        let mut timed = Timed::new(transport, clock.clone(), stop.token(), deadline).unwrap();
        assert_eq!(timed.read(&mut [0; 16]).unwrap_err().kind(), io::ErrorKind::InvalidData);

        let (_client, server) = sockets();
        stop.set();
        let mut timed = Timed::new(Transport::plain(server), clock, stop.token(), deadline).unwrap();
        assert_eq!(timed.read(&mut [0; 16]).unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }
}
