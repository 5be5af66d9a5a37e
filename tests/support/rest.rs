//! A small HTTP client that sends exactly what a test gives it, and says exactly what came back.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Longest wait for anything.
pub const LIMIT: Duration = Duration::from_secs(20);

/// One connection, kept alive over requests.
pub struct HttpClient {
    stream: BufReader<TcpStream>,
}

/// What came back.
#[derive(Debug)]
pub struct HttpResponse {
    /// Status code.
    pub status: u16,
    /// Header fields as they came.
    pub headers: Vec<(String, String)>,
    /// Body, whole.
    pub body: Vec<u8>,
}

impl HttpClient {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    /// Sends a request with a body, which may be empty, and reads the answer.
    pub fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> HttpResponse {
        self.send(&request_bytes(method, target, headers, body));
        self.read_response(method)
    }

    /// A GET without further header fields.
    pub fn get(&mut self, target: &str) -> HttpResponse {
        self.request("GET", target, &[], b"")
    }

    /// A REST call.
    pub fn post(&mut self, target: &str, json: &str) -> HttpResponse {
        self.request("POST", target, &[("Content-Type", "application/json;charset=UTF-8")], json.as_bytes())
    }

    /// Reads the answer to a request of this method.
    pub fn read_response(&mut self, method: &str) -> HttpResponse {
        let status_line = self.read_line();
        let status = status_line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.unwrap_or_else(|| panic!("status line {status_line:?}"));
        let mut headers = Vec::new();
        loop {
            let line = self.read_line();
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("header line {line:?}"));
            headers.push((name.to_owned(), value.to_owned()));
        }
        let mut response = HttpResponse { status, headers, body: Vec::new() };
        let without_body = method == "HEAD" || status < 200 || status == 204 || status == 304;
        match response.header("Content-Length") {
            _ if without_body => {}
            Some(length) => {
                response.body = vec![0; length.parse().unwrap()];
                self.stream.read_exact(&mut response.body).unwrap();
            }
            None => {
                self.stream.read_to_end(&mut response.body).unwrap();
            }
        }
        response
    }

    /// Reads whatever comes until the server closes.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn read_line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.strip_suffix("\r\n").unwrap_or_else(|| panic!("line without CRLF: {line:?}")).to_owned()
    }
}

impl HttpResponse {
    /// A header field by name, without regard to case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }

    /// Checks that this is an error of this status with the documented body, every byte of it but for the time; returns its
    /// `message`.
    pub fn error(&self, status: u16, path: &str) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        let json = self.json();
        let keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["exception", "reason", "path", "error", "message", "timestamp", "status"]);
        let text = |key: &str| json[key].as_str().unwrap().to_owned();
        let timestamp = json["timestamp"].as_u64().unwrap();
        let reason = format!(
            "{}, {}, {}, ts: {timestamp}, path: {path}",
            text("exception"),
            text("error"),
            text("message")
        );
        assert_eq!(
            (text("reason"), text("path"), json["status"].as_u64()),
            (reason, path.into(), Some(status.into()))
        );
        assert!(text("exception").starts_with("com.flashphoner.rest.server.exception."), "{json}");
        text("message")
    }
}

/// A request as bytes.
pub fn request_bytes(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {target} HTTP/1.1\r\nHost: test\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend(format!("{name}: {value}\r\n").into_bytes());
    }
    if !body.is_empty() || method == "POST" {
        bytes.extend(format!("Content-Length: {}\r\n", body.len()).into_bytes());
    }
    bytes.extend(b"\r\n");
    bytes.extend(body);
    bytes
}
