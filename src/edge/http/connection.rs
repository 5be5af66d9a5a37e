//! The life of one connection: request, answer, next request, until somebody has had enough.

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rouille::{Request, Response};

use super::body::BodyCollector;
use super::head::{self, Head};
use super::line::{Line, ReadEnd};
use super::{Handler, HttpSettings, RequestError, response};
use crate::base::clock::Clock;
use crate::base::metrics::Metrics;
use crate::base::stop::StopToken;
use crate::base::threads;
use crate::edge::tls::Transport;

/// Bytes of a body that are written at once: large enough that TLS and the kernel are busy with bytes, not with calls.
const PIECE_BYTES: usize = 64 * 1024;
/// How long, and for how many bytes, a client is listened to after it was refused, so that it can read the answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 256 * 1024;

/// Serves HTTP on connections that somebody else accepted; clones share it.
#[derive(Clone)]
pub struct HttpServer {
    settings: HttpSettings,
    handler: Arc<dyn Handler>,
    metrics: Metrics,
    clock: Clock,
}

impl std::fmt::Debug for HttpServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpServer").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A request as far as it came.
struct Incoming {
    head: Head,
    body: Vec<u8>,
}

/// Why there is no further request.
enum Ending {
    /// Nothing is to be said.
    Silent,
    /// The client is told; `path` is empty where it is not known.
    Refused { error: RequestError, path: String, is_head: bool },
}

/// What follows an answer.
#[derive(PartialEq, Eq)]
enum Next {
    Request,
    /// The client has its answer and is owed a clean end.
    Close,
    /// The connection is of no further use.
    Drop,
}

impl HttpServer {
    /// A server that asks `handler`.
    #[must_use]
    pub fn new(settings: HttpSettings, handler: Arc<dyn Handler>, metrics: Metrics, clock: Clock) -> Self {
        Self { settings, handler, metrics, clock }
    }

    /// Serves one connection until it ends, on the calling thread. A plain or TLS `transport` is put into non-blocking mode.
    ///
    /// When `stop` is set, a connection without a request ends at once, and one with a request after its answer.
    pub fn serve(&self, transport: Transport, peer: SocketAddr, stop: StopToken) {
        let is_secure = transport.is_tls();
        let Ok(mut line) = Line::new(transport, self.clock.clone(), stop) else {
            // Out of descriptors; the accepting side counts that.
            return;
        };
        let mut first_deadline = Some(line.now() + self.settings.head_deadline);
        loop {
            match self.read_request(&mut line, first_deadline.take()) {
                Ok(incoming) => match self.answer(&mut line, incoming, peer, is_secure) {
                    Next::Request => {}
                    Next::Close => return line.close_gently(LINGER, LINGER_BYTES_MAX),
                    Next::Drop => return,
                },
                Err(Ending::Silent) => return,
                Err(Ending::Refused { error, path, is_head }) => {
                    self.metrics.bad_input(error.kind());
                    tracing::debug!("{peer}: {error}");
                    let response = self.handler.refuse(error, &path);
                    let method = if is_head { "HEAD" } else { "GET" };
                    if self.write(&mut line, response, method, false).is_ok() {
                        line.close_gently(LINGER, LINGER_BYTES_MAX);
                    }
                    return;
                }
            }
        }
    }

    /// Reads the next request. `deadline` is that of a new connection; otherwise the idle deadline holds until the first
    /// byte, and the head's from there.
    fn read_request(&self, line: &mut Line, deadline: Option<Instant>) -> Result<Incoming, Ending> {
        let idle_deadline = deadline.unwrap_or_else(|| line.now() + self.settings.idle_deadline);
        loop {
            // Empty lines before a request are read over (RFC 9112 section 2.2).
            let blank = line.buffer.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            line.buffer.drain(..blank);
            if !line.buffer.is_empty() {
                break;
            }
            line.read_more(idle_deadline).map_err(|_| Ending::Silent)?;
        }
        let head_deadline = deadline.unwrap_or_else(|| line.now() + self.settings.head_deadline);
        let head = self.read_head(line, head_deadline)?;
        let is_head = head.method == "HEAD";
        let path = head.target.split('?').next().unwrap_or_default().to_owned();
        match self.read_body(line, &head) {
            Ok(body) => Ok(Incoming { head, body }),
            Err(Some(error)) => Err(Ending::Refused { error, path, is_head }),
            Err(None) => Err(Ending::Silent),
        }
    }

    fn read_head(&self, line: &mut Line, deadline: Instant) -> Result<Head, Ending> {
        let refused = |error| Ending::Refused { error, path: String::new(), is_head: false };
        let limits = self.settings.head;
        let mut searched = 0;
        loop {
            let end = head::find_end(&line.buffer, searched).filter(|end| *end <= limits.bytes);
            if let Some(end) = end {
                let rest = line.buffer.split_off(end);
                let bytes = std::mem::replace(&mut line.buffer, rest);
                return head::parse(&bytes, limits).map_err(refused);
            }
            searched = line.buffer.len();
            if searched >= limits.bytes {
                let first = line.buffer.get(..limits.bytes).unwrap_or_default();
                let error = match first.contains(&b'\n') {
                    true => RequestError::HeadTooLarge,
                    false => RequestError::TargetTooLong,
                };
                return Err(refused(error));
            }
            match line.read_more(deadline) {
                Ok(()) => {}
                Err(ReadEnd::Late) => return Err(refused(RequestError::Late)),
                Err(ReadEnd::Closed | ReadEnd::Stopping) => return Err(Ending::Silent),
            }
        }
    }

    /// Reads the body; an error of `None` is an end that nobody is told of.
    fn read_body(&self, line: &mut Line, head: &Head) -> Result<Vec<u8>, Option<RequestError>> {
        let mut collector = BodyCollector::new(head.body, self.settings.body_bytes_max)?;
        let deadline = line.now() + self.settings.body_deadline;
        let mut told_to_continue = !head.expects_continue;
        loop {
            let used = collector.push(&line.buffer)?;
            line.buffer.drain(..used);
            if collector.is_done() {
                return Ok(collector.into_body());
            }
            if !told_to_continue {
                told_to_continue = true;
                line.write_all(b"HTTP/1.1 100 Continue\r\n\r\n", self.settings.write_stall, deadline)
                    .map_err(|_| None)?;
            }
            line.read_more(deadline).map_err(|end| (end == ReadEnd::Late).then_some(RequestError::Late))?;
        }
    }

    fn answer(&self, line: &mut Line, incoming: Incoming, peer: SocketAddr, is_secure: bool) -> Next {
        let Incoming { head, body } = incoming;
        let Head { method, target, headers, keep_alive, .. } = head;
        let request = if is_secure {
            Request::fake_https_from(peer, method.as_str(), target, headers, body)
        } else {
            Request::fake_http_from(peer, method.as_str(), target, headers, body)
        };
        let began = line.now();
        let response =
            threads::caught("HTTP handler", || self.handler.handle(&request)).unwrap_or_else(|| {
                self.handler
                    .refuse(RequestError::Panic, request.raw_url().split('?').next().unwrap_or_default())
            });
        tracing::debug!(
            "{peer}: {method} {} → {} in {:?}",
            request.raw_url(),
            response.status_code,
            line.now().saturating_duration_since(began)
        );
        let keep_alive = keep_alive && !line.is_stopping();
        match self.write(line, response, &method, keep_alive) {
            Ok(true) => Next::Request,
            Ok(false) => Next::Close,
            Err(error) => {
                tracing::debug!("{peer}: answer not taken: {error}");
                Next::Drop
            }
        }
    }

    /// Writes a response; returns whether the connection may be used again.
    fn write(
        &self,
        line: &mut Line,
        response: Response,
        method: &str,
        keep_alive: bool,
    ) -> std::io::Result<bool> {
        let Response { status_code: status, headers, data, .. } = response;
        self.metrics.http_responses_total.with_label_values(&[response::class(status)]).inc();
        let (reader, length) = data.into_reader_and_size();
        // Without a length, only the end of the connection can end the body.
        let keep_alive = keep_alive && length.is_some();
        let mut piece = response::head(status, &headers, length, keep_alive, self.clock.wall());
        let mut left = match response::has_body(method, status) {
            true => length.map_or(u64::MAX, |length| length as u64),
            false => 0,
        };
        // A reader that gives more than it said must not spill into the next answer.
        let mut reader = reader.take(left);
        let began = line.now();
        let mut written = 0;
        loop {
            // The head goes out with the beginning of the body: one packet less.
            let room = PIECE_BYTES.saturating_sub(piece.len());
            let got = if left > 0 { reader.by_ref().take(room as u64).read_to_end(&mut piece)? } else { 0 };
            left -= got as u64;
            written += piece.len() as u64;
            let allowed = Duration::from_secs(written / self.settings.write_rate_min.max(1));
            let deadline = began + self.settings.write_stall + allowed;
            line.write_all(&piece, self.settings.write_stall, deadline)?;
            if got < room || left == 0 {
                break;
            }
            piece.clear();
        }
        if left > 0 && length.is_some() {
            return Err(std::io::Error::other("a body was shorter than its length"));
        }
        Ok(keep_alive)
    }
}
