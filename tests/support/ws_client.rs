//! A signalling client of few words: connects, says a message, waits for one with a deadline.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use serde_json::{Value, json};
use stillcast::base::clock::Clock;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::{Error, Message, WebSocket};

/// How long anything may take in a test before it counts as not happening.
pub const LIMIT: Duration = Duration::from_secs(10);

/// A byte stream of either kind.
pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A connected client.
pub struct WsClient {
    socket: WebSocket<Box<dyn Stream>>,
    tcp: TcpStream,
    clock: Clock,
}

/// How a connection ended, as the client sees it.
#[derive(Debug, PartialEq, Eq)]
pub enum Closed {
    /// With a close frame of this code.
    Code(u16),
    /// Without one.
    Broken,
}

impl WsClient {
    /// Connects as a browser does that was given a plain address.
    pub fn connect(address: SocketAddr) -> Self {
        Self::open(address, "/", None).unwrap()
    }

    /// Connects and says `connection`.
    pub fn hello(address: SocketAddr) -> Self {
        let mut client = Self::connect(address);
        client.greet();
        client
    }

    /// Connects by TLS; any certificate is accepted.
    pub fn connect_tls(address: SocketAddr) -> Self {
        let tcp = TcpStream::connect(address).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate))
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let stream = StreamOwned::new(tls, tcp.try_clone().unwrap());
        Self::over(Box::new(stream), tcp, "wss://localhost/", None).unwrap()
    }

    /// Connects to this path, as a page of this origin does.
    ///
    /// # Errors
    /// When the server does not want a WebSocket.
    pub fn open(address: SocketAddr, path: &str, origin: Option<&str>) -> Result<Self, String> {
        let tcp = TcpStream::connect(address).map_err(|error| error.to_string())?;
        let stream = Box::new(tcp.try_clone().unwrap());
        Self::over(stream, tcp, &format!("ws://{address}{path}"), origin)
    }

    fn over(
        stream: Box<dyn Stream>,
        tcp: TcpStream,
        url: &str,
        origin: Option<&str>,
    ) -> Result<Self, String> {
        tcp.set_read_timeout(Some(LIMIT)).unwrap();
        tcp.set_write_timeout(Some(LIMIT)).unwrap();
        let mut request = url.into_client_request().unwrap();
        if let Some(origin) = origin {
            request.headers_mut().insert("Origin", origin.parse().unwrap());
        }
        let (socket, _) = tungstenite::client(request, stream).map_err(|error| error.to_string())?;
        Ok(Self { socket, tcp, clock: Clock::real() })
    }

    /// Says `connection` and waits for the answer, which it returns.
    pub fn greet(&mut self) -> Value {
        self.say("connection", json!({"appKey": "defaultApp", "mediaProviders": ["WebRTC"]}));
        self.expect("getUserData")
    }

    /// The socket below, for raw bytes.
    pub fn tcp(&mut self) -> &mut TcpStream {
        &mut self.tcp
    }

    /// Sends a message with one argument.
    pub fn say(&mut self, message: &str, argument: Value) {
        self.send(Message::text(json!({"message": message, "data": [argument]}).to_string())).unwrap();
    }

    /// Sends a frame of any kind.
    ///
    /// # Errors
    /// When the connection is over.
    pub fn send(&mut self, message: Message) -> Result<(), Error> {
        self.socket.send(message)
    }

    /// The next message that is no `ping`; pings are answered.
    ///
    /// # Panics
    /// When none comes in time.
    pub fn next(&mut self) -> Value {
        let deadline = self.clock.now() + LIMIT;
        while self.clock.now() < deadline {
            let message = self.socket.read().unwrap_or_else(|error| panic!("no message: {error}"));
            let Message::Text(text) = message else { panic!("not a text frame: {message:?}") };
            let value: Value = serde_json::from_str(&text).unwrap();
            if value["message"] != "ping" {
                return value;
            }
            self.say("pong", Value::Null);
        }
        panic!("nothing but pings");
    }

    /// The next message, which must have this name; returns its `data`.
    pub fn expect(&mut self, name: &str) -> Value {
        let mut message = self.next();
        assert_eq!(message["message"], name, "{message}");
        message["data"].take()
    }

    /// The next message must be a stream's status; returns status and info.
    pub fn expect_status(&mut self, media_session_id: &str) -> (String, String) {
        let data = self.expect("notifyStreamStatusEvent");
        assert_eq!(data[0]["mediaSessionId"], media_session_id, "{data}");
        let text = |field: &str| data[0][field].as_str().unwrap_or_default().to_owned();
        (text("status"), text("info"))
    }

    /// Reads to the end of the connection, whatever else comes.
    pub fn expect_close(&mut self) -> Closed {
        loop {
            match self.socket.read() {
                Ok(Message::Close(frame)) => {
                    let code = frame.map_or(1005, |frame| frame.code.into());
                    // Our answer to it.
                    let _ = self.socket.flush();
                    return Closed::Code(code);
                }
                Ok(_) => {}
                Err(Error::Io(error))
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
                {
                    panic!("the connection stays open")
                }
                Err(_) => return Closed::Broken,
            }
        }
    }

    /// Closes as a page does, and waits for the server's goodbye.
    pub fn close(mut self) {
        self.socket.close(None).unwrap();
        while self.socket.read().is_ok() {}
    }
}

/// The test knows whom it called.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
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
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
