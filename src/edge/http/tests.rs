//! Whole connections over loopback sockets, with a handler that answers from a script.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rouille::{Request, Response, ResponseBody};

use super::*;
use crate::base::clock::Clock;
use crate::base::metrics::Metrics;
use crate::base::stop::StopSource;
use crate::base::threads::{self, STACK_PROTOCOL_BYTES, Thread};
use crate::edge::tls::Transport;

const LIMIT: Duration = Duration::from_secs(10);

/// Patience short enough for a test to wait for, and long enough for a busy machine.
fn settings() -> HttpSettings {
    HttpSettings {
        head: HeadLimits { bytes: 1024, headers: 16 },
        body_bytes_max: 100,
        head_deadline: Duration::from_secs(5),
        body_deadline: Duration::from_secs(5),
        idle_deadline: Duration::from_secs(5),
        write_stall: Duration::from_secs(5),
        write_rate_min: 1024,
    }
}

struct Script;

impl Handler for Script {
    fn handle(&self, request: &Request) -> Response {
        match request.raw_url() {
            "/panic" => panic!("on purpose"),
            "/large" => Response::from_data("application/octet-stream", vec![b'x'; 40 << 20]),
            "/endless" => Response {
                data: ResponseBody::from_reader(std::io::Cursor::new(vec![b'y'; 100_000])),
                ..Response::text("")
            },
            url => {
                let mut body = String::new();
                request.data().unwrap().read_to_string(&mut body).unwrap();
                Response::text(format!("{} {url} {body}", request.method()))
            }
        }
    }

    fn refuse(&self, error: RequestError, path: &str) -> Response {
        Response::text(format!("refused {path}: {error}")).with_status_code(error.status())
    }
}

struct Server {
    listener: TcpListener,
    http: HttpServer,
    stop: StopSource,
    metrics: Metrics,
}

impl Server {
    fn new(settings: HttpSettings) -> Self {
        let metrics = Metrics::new();
        let http = HttpServer::new(settings, Arc::new(Script), metrics.clone(), Clock::real());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { listener, http, stop: StopSource::new(), metrics }
    }

    /// A client and the thread that serves it.
    fn connect(&self) -> (TcpStream, Thread) {
        let client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client.set_write_timeout(Some(LIMIT)).unwrap();
        let (socket, peer) = self.listener.accept().unwrap();
        let (http, stop) = (self.http.clone(), self.stop.token());
        let thread = threads::spawn("test-http", STACK_PROTOCOL_BYTES, move || {
            http.serve(Transport::plain(socket), peer, stop);
        });
        (client, thread.unwrap())
    }

    /// Sends bytes on a connection of their own; returns everything that comes back before the server closes.
    fn exchange(&self, bytes: &[u8]) -> String {
        let (mut client, thread) = self.connect();
        client.write_all(bytes).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(thread.join(LIMIT));
        answer
    }
}

/// Reads one response with a length; returns its head and body.
fn read_response(client: &mut TcpStream) -> (String, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length =
        head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    client.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let server = Server::new(settings());
    let answer = server.exchange(
        b"\r\nPOST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\r\nHost: h\r\n\r\n\
          POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxy\r\n0\r\n\r\n\
          HEAD /d HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\nGET /never HTTP/1.1\r\nHost: h\r\n\r\n",
    );
    let bodies: Vec<_> = answer
        .split("\r\n")
        .filter(|line| !line.is_empty() && !line.starts_with("Date") && !line.starts_with("X-"))
        .collect();
    let expected = [
        "HTTP/1.1 200 OK",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Length: 11",
        "Connection: keep-alive",
        "POST /a abcHTTP/1.1 200 OK",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Length: 7",
        "Connection: keep-alive",
        "GET /b HTTP/1.1 200 OK",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Length: 10",
        "Connection: keep-alive",
        "POST /c xyHTTP/1.1 200 OK",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Length: 8",
        "Connection: close",
    ];
    assert_eq!(bodies, expected);
}

#[test]
fn a_byte_at_a_time_is_a_request_too() {
    let server = Server::new(settings());
    let (mut client, _thread) = server.connect();
    for byte in b"POST /slow HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok" {
        client.write_all(&[*byte]).unwrap();
    }
    let (head, body) = read_response(&mut client);
    assert!(head.contains("Connection: keep-alive\r\n"), "{head}");
    assert_eq!(body, "POST /slow ok");
}

#[test]
fn a_client_that_expects_to_be_told_is_told_to_continue() {
    let server = Server::new(settings());
    let (mut client, _thread) = server.connect();
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        .unwrap();
    assert_eq!(read_response(&mut client).0, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"ok").unwrap();
    assert_eq!(read_response(&mut client).1, "POST / ok");
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 101\r\n\r\n")
        .unwrap();
    assert!(read_response(&mut client).0.starts_with("HTTP/1.1 413 "), "refused without asking for the body");
}

#[test]
fn what_passes_a_limit_is_refused_with_its_status_and_counted() {
    let server = Server::new(settings());
    let long = "x".repeat(2000);
    for (request, want) in [
        (format!("GET /{long}"), "HTTP/1.1 414 "),
        (format!("GET / HTTP/1.1\r\nHost: h\r\nX: {long}"), "HTTP/1.1 431 "),
        (format!("GET / HTTP/1.1\r\nHost: h\r\nX: {long}\r\n\r\n"), "HTTP/1.1 431 "),
        (format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: 1\r\n".repeat(20)), "HTTP/1.1 431 "),
        (format!("POST /p?q HTTP/1.1\r\nHost: h\r\nContent-Length: 2000\r\n\r\n{long}"), "HTTP/1.1 413 "),
        ("nonsense\r\n\r\n".to_owned(), "HTTP/1.1 400 "),
        ("GET / HTTP/3.0\r\nHost: h\r\n\r\n".to_owned(), "HTTP/1.1 505 "),
    ] {
        let answer = server.exchange(request.as_bytes());
        assert!(answer.starts_with(want), "{want}: {answer}");
        assert!(answer.contains("Connection: close\r\n"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    }
    let counted = |kind: &str| server.metrics.bad_input_total.with_label_values(&[kind]).get();
    assert_eq!((counted("http_head_too_large"), counted("http_body_too_large")), (4, 1));
    assert_eq!((counted("http_malformed"), counted("http_unsupported")), (1, 1));
}

#[test]
fn a_client_that_dribbles_its_request_is_told_and_dropped_at_the_deadline() {
    let mut settings = settings();
    settings.head_deadline = Duration::from_millis(300);
    settings.body_deadline = Duration::from_millis(300);
    let server = Server::new(settings);
    for start in ["GET / HTTP/1.1\r\nX: ", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99\r\n\r\n"] {
        let (mut client, thread) = server.connect();
        client.write_all(start.as_bytes()).unwrap();
        // Each byte alone is in time; the whole is not. Writing fails once the server has gone.
        let mut writer = client.try_clone().unwrap();
        let dribble = threads::spawn("test-dribble", STACK_PROTOCOL_BYTES, move || {
            let pause = StopSource::new();
            while writer.write_all(b"x").is_ok() && !pause.token().wait(Duration::from_millis(20)) {}
        });
        assert!(read_response(&mut client).0.starts_with("HTTP/1.1 408 "));
        drop(client);
        assert!(thread.join(LIMIT), "the thread is free again");
        assert!(dribble.unwrap().join(LIMIT));
    }
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let mut settings = settings();
    settings.idle_deadline = Duration::from_millis(50);
    let server = Server::new(settings);
    let (mut client, thread) = server.connect();
    client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    read_response(&mut client);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert!(thread.join(LIMIT));
}

#[test]
fn a_client_that_does_not_read_is_dropped() {
    let mut settings = settings();
    settings.write_stall = Duration::from_millis(100);
    let server = Server::new(settings);
    let (mut client, thread) = server.connect();
    client.write_all(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert!(thread.join(LIMIT), "the answer does not fit into the socket, and nobody takes it");
}

#[test]
fn a_client_that_reads_too_slowly_is_dropped_although_it_never_stalls() {
    let mut settings = settings();
    settings.write_stall = Duration::from_millis(500);
    settings.write_rate_min = 1 << 40;
    let server = Server::new(settings);
    let (mut client, thread) = server.connect();
    client.write_all(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let pause = StopSource::new();
    let mut piece = vec![0; 64 * 1024];
    let mut taken = 0;
    while let Ok(length @ 1..) = client.read(&mut piece) {
        taken += length;
        let _ = pause.token().wait(Duration::from_millis(5));
    }
    assert!(taken < 40 << 20, "the whole answer was sent");
    assert!(thread.join(LIMIT));
}

#[test]
fn a_panic_is_a_500_and_the_connection_goes_on() {
    let server = Server::new(settings());
    let before = threads::panics();
    let (mut client, _thread) = server.connect();
    client.write_all(b"GET /panic HTTP/1.1\r\nHost: h\r\n\r\nGET /next HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let (head, body) = read_response(&mut client);
    assert!(head.starts_with("HTTP/1.1 500 "), "{head}");
    assert_eq!(body, "refused /panic: Internal error");
    assert_eq!(read_response(&mut client).1, "GET /next ");
    assert!(threads::panics() > before);
}

#[test]
fn a_body_of_unknown_length_ends_with_the_connection() {
    let server = Server::new(settings());
    let answer = server.exchange(b"GET /endless HTTP/1.1\r\nHost: h\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(!head.contains("Content-Length") && head.ends_with("Connection: close"), "{head}");
    assert_eq!(body.len(), 100_000);
}

#[test]
fn a_stop_ends_idle_connections_at_once() {
    let mut server = Server::new(settings());
    let (mut fresh, one) = server.connect();
    let (mut used, two) = server.connect();
    used.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    read_response(&mut used);
    server.stop.set();
    assert!(one.join(Duration::from_secs(2)) && two.join(Duration::from_secs(2)), "sooner than any deadline");
    assert_eq!((fresh.read(&mut [0]).unwrap(), used.read(&mut [0]).unwrap()), (0, 0));
}

#[test]
fn over_tls_all_is_the_same() {
    use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};

    let folder = tempfile::tempdir().unwrap();
    let tls = crate::edge::tls::TlsSettings {
        cert: None,
        key: None,
        data_dir: folder.path().to_owned(),
        names: Vec::new(),
    };
    let config = crate::edge::tls::server_config(&tls, Clock::real().wall()).unwrap();
    let server = Server::new(settings());
    let tcp = TcpStream::connect(server.listener.local_addr().unwrap()).unwrap();
    tcp.set_read_timeout(Some(LIMIT)).unwrap();
    let (socket, peer) = server.listener.accept().unwrap();
    let (http, stop) = (server.http.clone(), server.stop.token());
    let thread = threads::spawn("test-https", STACK_PROTOCOL_BYTES, move || {
        http.serve(Transport::tls(socket, config).unwrap(), peer, stop);
    });

    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.path().join("tls/cert.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let session = rustls::ClientConnection::new(Arc::new(client), name).unwrap();
    let mut client = rustls::StreamOwned::new(session, tcp);
    client.write_all(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nok").unwrap();
    client.write_all(b"GET /large HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("ends with close_notify");
    let large = answer.iter().rev().take_while(|byte| **byte == b'x').count();
    assert_eq!(large, 40 << 20);
    let heads = String::from_utf8_lossy(&answer[..answer.len() - large]).into_owned();
    assert!(heads.contains("POST /a okHTTP/1.1 200 OK\r\n"), "{heads}");
    drop(client);
    assert!(thread.unwrap().join(LIMIT));
}
