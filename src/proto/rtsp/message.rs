//! RTSP messages and interleaved frames in a byte stream (RFC 2326 sections 4, 6, 7 and 10.12).
//!
//! The grammar of heads is the `rtsp-types` crate's. In front of it stand our bounds, and a filter for what cameras and
//! encoders write that the grammar does not allow: lines that end with LF alone, spaces before a colon, headers without
//! a colon, bytes that are no text, status lines without a reason, request URIs that are no URL.

use rtsp_types::headers::{HeaderName, Headers};
use rtsp_types::{Message, Version};
pub use rtsp_types::{Method, StatusCode};
use thiserror::Error;

/// Largest head: start line and headers. Digest headers and long tokens in URLs stay below 4 KiB.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most header lines of one message; encoders and cameras write up to twelve.
pub const HEADERS_MAX: usize = 64;
/// Largest body. Session descriptions have some hundred bytes to some KiB.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// `$`, channel and length in front of an interleaved packet (RFC 2326 section 10.12).
pub const FRAME_HEAD_BYTES: usize = 4;
/// Room that a reader begins with and goes back to: one large reading of a socket.
const BUFFER_BYTES: usize = 32 * 1024;
/// Free room below which a reader makes more before it reads.
const ROOM_BYTES_MIN: usize = 8 * 1024;

/// Why a byte stream is not RTSP; it cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Invalid {
    /// A message begins with something else than `$`, a method or `RTSP/`.
    #[error("byte {0:#04x} where a message should begin")]
    Start(u8),
    /// The start line is not one of RTSP.
    #[error("start line cannot be read")]
    StartLine,
    /// More than [`HEAD_BYTES_MAX`] without an end.
    #[error("head of more than {HEAD_BYTES_MAX} bytes")]
    Head,
    /// More than [`HEADERS_MAX`].
    #[error("more than {HEADERS_MAX} headers")]
    Headers,
    /// `Content-Length` is no number, or says two things.
    #[error("content length cannot be read")]
    ContentLength,
    /// More than [`BODY_BYTES_MAX`] are announced.
    #[error("body of more than {BODY_BYTES_MAX} bytes")]
    Body,
}

/// A request (RFC 2326 section 6).
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    inner: rtsp_types::Request<Vec<u8>>,
    uri: String,
    is_version_1: bool,
}

/// A response (RFC 2326 section 7).
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    inner: rtsp_types::Response<Vec<u8>>,
}

/// The next thing in a byte stream.
#[derive(Debug, PartialEq)]
pub enum Incoming<'a> {
    /// A packet on a channel (RFC 2326 section 10.12).
    Interleaved {
        /// The channel.
        channel: u8,
        /// RTP or RTCP.
        packet: &'a [u8],
    },
    /// A request.
    Request(Request),
    /// A response.
    Response(Response),
}

/// Cuts a byte stream into messages and frames. It holds at most one message that is not complete.
#[derive(Debug)]
pub struct Reader {
    buffer: Vec<u8>,
    /// What lies before is used up.
    start: usize,
    /// What lies behind is free.
    end: usize,
    /// Bytes of the unfinished head that were searched for its end.
    searched: usize,
    /// A head whose body is not there yet, and its size.
    waiting: Option<(usize, Head)>,
    failed: Option<Invalid>,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    /// A reader at the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self { buffer: vec![0; BUFFER_BYTES], start: 0, end: 0, searched: 0, waiting: None, failed: None }
    }

    /// Free room to read a socket into; never empty. What was read is told by [`Reader::filled`].
    pub fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() > BUFFER_BYTES {
                self.buffer = vec![0; BUFFER_BYTES];
            }
        }
        if self.buffer.len() - self.end < ROOM_BYTES_MIN {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.buffer.len() - self.end < ROOM_BYTES_MIN {
                // Bounded: `incoming` takes a whole frame or message out, or fails, before there is more than the largest.
                self.buffer.resize(self.end + BUFFER_BYTES, 0);
            }
        }
        self.buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// So many bytes were written into [`Reader::room`].
    pub fn filled(&mut self, bytes: usize) {
        self.end = (self.end + bytes).min(self.buffer.len());
    }

    /// Takes bytes by copying them.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.room();
            let count = bytes.len().min(room.len());
            let (now, later) = bytes.split_at(count);
            if let Some(place) = room.get_mut(..count) {
                place.copy_from_slice(now);
            }
            self.filled(count);
            bytes = later;
        }
    }

    /// The next message or frame; `None` when more bytes are needed.
    ///
    /// # Errors
    /// When the stream is not RTSP or breaks a bound; each later call says so again.
    pub fn incoming(&mut self) -> Result<Option<Incoming<'_>>, Invalid> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        // Empty lines between messages keep a connection alive (RFC 2326 section 6 refers to HTTP's rule).
        while let Some(b'\r' | b'\n') = self.pending().first() {
            self.start += 1;
        }
        let Some(&first) = self.pending().first() else { return Ok(None) };
        match first {
            b'$' => Ok(self.next_frame()),
            b'A'..=b'Z' | b'a'..=b'z' => match self.next_message() {
                Ok(message) => Ok(message),
                Err(invalid) => {
                    self.failed = Some(invalid);
                    Err(invalid)
                }
            },
            other => {
                self.failed = Some(Invalid::Start(other));
                Err(Invalid::Start(other))
            }
        }
    }

    fn pending(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    fn next_frame(&mut self) -> Option<Incoming<'_>> {
        let (&[_, channel, l0, l1], after) = self.pending().split_first_chunk::<FRAME_HEAD_BYTES>()?;
        let size = usize::from(u16::from_be_bytes([l0, l1]));
        if after.len() < size {
            return None;
        }
        let from = self.start + FRAME_HEAD_BYTES;
        self.start = from + size;
        Some(Incoming::Interleaved { channel, packet: self.buffer.get(from..from + size)? })
    }

    fn next_message(&mut self) -> Result<Option<Incoming<'static>>, Invalid> {
        let pending = self.buffer.get(self.start..self.end).unwrap_or_default();
        let (head_bytes, head) = match self.waiting.take() {
            Some(waiting) => waiting,
            None => {
                let Some(head_bytes) = head_end(pending, self.searched) else {
                    if pending.len() > HEAD_BYTES_MAX {
                        return Err(Invalid::Head);
                    }
                    self.searched = pending.len();
                    return Ok(None);
                };
                if head_bytes > HEAD_BYTES_MAX {
                    return Err(Invalid::Head);
                }
                self.searched = 0;
                (head_bytes, Head::read(pending.get(..head_bytes).unwrap_or_default())?)
            }
        };
        let Some(body) = pending.get(head_bytes..head_bytes + head.body_bytes) else {
            self.waiting = Some((head_bytes, head));
            return Ok(None);
        };
        let message = head.with_body(body)?;
        self.start += head_bytes + head.body_bytes;
        Ok(Some(message))
    }
}

/// Where the head ends, behind its empty line; `None` when it does not end yet. `searched` bytes hold no end.
fn head_end(bytes: &[u8], searched: usize) -> Option<usize> {
    let from = searched.saturating_sub(3);
    let rest = bytes.get(from..)?;
    let ends = |at: &usize| {
        let before = bytes.get(..*at).unwrap_or_default();
        before.ends_with(b"\n\n") || before.ends_with(b"\n\r\n")
    };
    rest.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| from + at + 1).find(ends)
}

/// A head in the form that the grammar allows.
#[derive(Debug)]
struct Head {
    text: String,
    uri: Option<String>,
    is_version_1: bool,
    body_bytes: usize,
}

impl Head {
    fn read(bytes: &[u8]) -> Result<Self, Invalid> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
        let start = lines.next().ok_or(Invalid::StartLine)?;
        let mut words = start.split_whitespace();
        let first = words.next().ok_or(Invalid::StartLine)?;
        let mut head =
            Self { text: String::with_capacity(bytes.len()), uri: None, is_version_1: true, body_bytes: 0 };
        if let Some(version) = first.strip_prefix("RTSP/") {
            head.is_version_1 = version == "1.0";
            let code =
                words.next().filter(|code| code.len() == 3 && code.bytes().all(|b| b.is_ascii_digit()));
            let reason: Vec<&str> = words.collect();
            let code = code.ok_or(Invalid::StartLine)?;
            head.text.push_str(&format!("RTSP/1.0 {code} {}\r\n", printable(&reason.join(" "))));
        } else {
            let (rest, version) = start.trim_end().rsplit_once(' ').ok_or(Invalid::StartLine)?;
            let version = version.strip_prefix("RTSP/").ok_or(Invalid::StartLine)?;
            // A URI with spaces in it is still one URI.
            let uri = rest.trim_start().strip_prefix(first).ok_or(Invalid::StartLine)?.trim();
            if uri.is_empty() || !first.bytes().all(is_token) {
                return Err(Invalid::StartLine);
            }
            head.is_version_1 = version == "1.0";
            head.uri = Some(uri.to_owned());
            // The grammar takes URLs only; ours is put back.
            head.text.push_str(&format!("{first} * RTSP/1.0\r\n"));
        }
        head.read_headers(lines)?;
        head.text.push_str("\r\n");
        Ok(head)
    }

    fn read_headers<'a>(&mut self, lines: impl Iterator<Item = &'a str>) -> Result<(), Invalid> {
        let mut body_bytes = None;
        let mut count = 0;
        let mut continues = false;
        for line in lines.take_while(|line| !line.is_empty()) {
            count += 1;
            if count > HEADERS_MAX {
                return Err(Invalid::Headers);
            }
            if line.starts_with([' ', '\t']) {
                if continues {
                    let at = self.text.len() - 2;
                    self.text.insert_str(at, &format!(" {}", printable(line.trim())));
                }
                continue;
            }
            continues = false;
            let Some((name, value)) = line.split_once(':') else { continue };
            let (name, value) = (name.trim_end(), value.trim());
            if name.is_empty() || !name.bytes().all(is_token) {
                continue;
            }
            if name.eq_ignore_ascii_case("content-length") {
                let size: usize = value.parse().map_err(|_| Invalid::ContentLength)?;
                if body_bytes.replace(size).is_some_and(|other| other != size) {
                    return Err(Invalid::ContentLength);
                }
                continue;
            }
            continues = true;
            self.text.push_str(&format!("{name}: {}\r\n", printable(value)));
        }
        self.body_bytes = body_bytes.unwrap_or_default();
        if self.body_bytes > BODY_BYTES_MAX {
            return Err(Invalid::Body);
        }
        Ok(())
    }

    fn with_body(&self, body: &[u8]) -> Result<Incoming<'static>, Invalid> {
        let (message, _) = Message::<Vec<u8>>::parse(self.text.as_bytes()).map_err(|_| Invalid::StartLine)?;
        match message {
            Message::Request(request) => Ok(Incoming::Request(Request {
                inner: request.replace_body(body.to_vec()),
                uri: self.uri.clone().unwrap_or_default(),
                is_version_1: self.is_version_1,
            })),
            Message::Response(response) => {
                Ok(Incoming::Response(Response { inner: response.replace_body(body.to_vec()) }))
            }
            Message::Data(_) => Err(Invalid::StartLine),
        }
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Text without what would end a header line.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl Request {
    /// A request without headers and body.
    #[must_use]
    pub fn new(method: Method, uri: &str) -> Self {
        let inner = rtsp_types::Request::builder(method, Version::V1_0).build(Vec::new());
        Self { inner, uri: uri.to_owned(), is_version_1: true }
    }

    /// What is asked.
    #[must_use]
    pub fn method(&self) -> &Method {
        self.inner.method()
    }

    /// Of what, as it was written.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Whether it is in RTSP/1.0, the only version that we speak.
    #[must_use]
    pub fn is_version_1(&self) -> bool {
        self.is_version_1
    }

    /// The body; empty without one.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.inner.body()
    }

    /// A header, its name compared without case; several of one name are joined by commas.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        header(self.inner.as_ref(), name)
    }

    /// `CSeq`, by which a response finds its request (RFC 2326 section 12.17).
    #[must_use]
    pub fn cseq(&self) -> Option<u32> {
        self.header("CSeq")?.parse().ok()
    }

    /// The session that it belongs to, without parameters (RFC 2326 section 12.37).
    #[must_use]
    pub fn session(&self) -> Option<&str> {
        self.header("Session").map(session_id)
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: &str) -> Self {
        add_header(self.inner.as_mut(), name, value);
        self
    }

    /// Adds the body and its type.
    #[must_use]
    pub fn with_body(self, content_type: &str, body: Vec<u8>) -> Self {
        let with_type = self.with_header("Content-Type", content_type);
        Self { inner: with_type.inner.replace_body(body), ..with_type }
    }

    /// Appends the request as it is sent.
    pub fn write(&self, out: &mut Vec<u8>) {
        let method: &str = self.inner.method().into();
        let start = format!("{method} {} RTSP/1.0", printable(&self.uri));
        write(&start, self.inner.as_ref(), self.inner.body(), out);
    }
}

impl Response {
    /// A response without headers and body, with the usual reason.
    #[must_use]
    pub fn new(status: StatusCode) -> Self {
        Self { inner: rtsp_types::Response::builder(Version::V1_0, status).build(Vec::new()) }
    }

    /// Says something else than the usual reason; clients show it to people.
    #[must_use]
    pub fn with_reason(mut self, reason: &str) -> Self {
        self.inner.set_reason_phrase(printable(reason));
        self
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.inner.status()
    }

    /// The reason in words.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.inner.reason_phrase()
    }

    /// The body; empty without one.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.inner.body()
    }

    /// A header, its name compared without case; several of one name are joined by commas.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        header(self.inner.as_ref(), name)
    }

    /// `CSeq` of the request that it answers.
    #[must_use]
    pub fn cseq(&self) -> Option<u32> {
        self.header("CSeq")?.parse().ok()
    }

    /// The session, without parameters (RFC 2326 section 12.37).
    #[must_use]
    pub fn session(&self) -> Option<&str> {
        self.header("Session").map(session_id)
    }

    /// Seconds without a request after which the session is over, as far as the header tells (RFC 2326 section 12.37).
    #[must_use]
    pub fn session_timeout_seconds(&self) -> Option<u64> {
        let parameters = self.header("Session")?.split(';').skip(1);
        parameters.filter_map(|pair| pair.trim().split_once('=')).find_map(|(name, value)| {
            name.trim().eq_ignore_ascii_case("timeout").then(|| value.trim().parse().ok())?
        })
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: &str) -> Self {
        add_header(self.inner.as_mut(), name, value);
        self
    }

    /// Adds the body and its type.
    #[must_use]
    pub fn with_body(self, content_type: &str, body: Vec<u8>) -> Self {
        Self { inner: self.with_header("Content-Type", content_type).inner.replace_body(body) }
    }

    /// Appends the response as it is sent.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = format!("RTSP/1.0 {} {}", u16::from(self.status()), self.reason());
        write(&start, self.inner.as_ref(), self.inner.body(), out);
    }
}

/// Appends the head of an interleaved frame; the packet follows it. `None` for a packet that is too large for one.
pub fn write_frame_head(channel: u8, packet_bytes: usize, out: &mut Vec<u8>) -> Option<()> {
    let [high, low] = u16::try_from(packet_bytes).ok()?.to_be_bytes();
    out.extend_from_slice(&[b'$', channel, high, low]);
    Some(())
}

fn session_id(value: &str) -> &str {
    value.split(';').next().unwrap_or_default().trim()
}

fn header<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    HeaderName::try_from(name).ok().and_then(|name| headers.get(&name)).map(|value| value.as_str())
}

/// A name that is no ASCII adds nothing: all names are written in this program.
fn add_header(headers: &mut Headers, name: &'static str, value: &str) {
    if let Ok(name) = HeaderName::from_static_str(name) {
        headers.insert(name, printable(value));
    }
}

fn write(start: &str, headers: &Headers, body: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(start.as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in
        headers.iter().filter(|(name, _)| !name.as_str().eq_ignore_ascii_case("content-length"))
    {
        out.extend_from_slice(format!("{}: {}\r\n", name.as_str(), value.as_str()).as_bytes());
    }
    if !body.is_empty() {
        out.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
