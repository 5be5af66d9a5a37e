//! A real TLS client over real sockets.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::UNIX_EPOCH;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use super::*;
use crate::base::clock::Clock;
use crate::base::stop::StopSource;
use crate::base::threads;
use crate::base::wait::{Interest, Waiter};

const LIMIT: Duration = Duration::from_secs(10);

fn settings(folder: &Path) -> TlsSettings {
    TlsSettings { cert: None, key: None, data_dir: folder.to_owned(), names: vec!["camera.example".into()] }
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
        let interest = if sent < SIZE || transport.wants_write() { Interest::Both } else { Interest::Read };
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
