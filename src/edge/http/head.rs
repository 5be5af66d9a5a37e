//! The head of a request: where it ends, what it says, and whether its framing can be trusted.
//!
//! Pure: bytes in, facts or an error out. The grammar is read by `httparse`; what is decided here is what a head may
//! ask of us (RFC 9112), above all that two readers could not disagree on where the request ends.

use super::RequestError;

/// Bounds of a request's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Most bytes from the request line to the empty line, that line included.
    pub bytes: usize,
    /// Most header lines.
    pub headers: usize,
}

/// What the head of a request says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The method as it came; methods are case-sensitive.
    pub method: String,
    /// Path and query, beginning with `/`, percent-encoding untouched; or `*`.
    pub target: String,
    /// Names and values in their order; bytes of a value that are not UTF-8 are replaced.
    pub headers: Vec<(String, String)>,
    /// How much follows the head.
    pub body: BodyLength,
    /// The client lets us answer further requests on this connection.
    pub keep_alive: bool,
    /// The client waits for "100 Continue" before it sends the body (RFC 9110 section 10.1.1).
    pub expects_continue: bool,
}

/// How the end of a request's body is found (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// So many bytes; 0 when the head names neither a length nor a coding.
    Fixed(u64),
    /// In chunks, each after its length.
    Chunked,
}

/// Finds the empty line that ends a head; `from` is how many bytes were looked at before, in vain.
/// Returns the length of the head, that line included.
#[must_use]
pub fn find_end(bytes: &[u8], from: usize) -> Option<usize> {
    // The end may have begun up to three bytes before the new ones.
    let start = from.saturating_sub(3);
    let rest = bytes.get(start..)?;
    rest.iter().enumerate().filter(|(_, byte)| **byte == b'\n').find_map(|(at, _)| {
        let after = rest.get(at + 1..)?;
        let line_end = match after {
            [b'\n', ..] => 1,
            [b'\r', b'\n', ..] => 2,
            _ => return None,
        };
        Some(start + at + 1 + line_end)
    })
}

/// Reads a whole head, as [`find_end`] cut it.
///
/// # Errors
/// When the grammar is broken, the version is not 1.0 or 1.1, a limit is passed, or the framing is ambiguous.
pub fn parse(bytes: &[u8], limits: HeadLimits) -> Result<Head, RequestError> {
    let mut headers = vec![httparse::EMPTY_HEADER; limits.headers];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        // The parser sees another end than `find_end`: two readers, two opinions.
        Ok(_) => return Err(RequestError::Malformed("end of head")),
        Err(httparse::Error::TooManyHeaders) => return Err(RequestError::HeadTooLarge),
        Err(httparse::Error::Version) => return Err(RequestError::Version),
        Err(httparse::Error::HeaderName) => return Err(RequestError::Malformed("header name")),
        Err(httparse::Error::HeaderValue) => return Err(RequestError::Malformed("header value")),
        Err(_) => return Err(RequestError::Malformed("request line")),
    }
    let is_1_1 = request.version == Some(1);
    let method = request.method.unwrap_or_default().to_owned();
    let target = origin_form(request.path.unwrap_or_default())?;
    let headers: Vec<(String, String)> = request
        .headers
        .iter()
        .map(|header| (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned()))
        .collect();
    let fields = Fields(&headers);

    match fields.all("host").count() {
        1 => {}
        // RFC 9112 section 3.2: a 1.1 request without a host, or any with two, is refused.
        0 if !is_1_1 => {}
        _ => return Err(RequestError::Malformed("Host")),
    }
    if fields.has_token("upgrade", "websocket") {
        return Err(RequestError::WebSocket);
    }
    let body = body_length(fields, is_1_1)?;
    let expects_continue = match fields.all("expect").next() {
        None => false,
        // A 1.0 client cannot know it: ignored, as RFC 9110 section 10.1.1 asks.
        Some(_) if !is_1_1 => false,
        Some(value) if value.trim().eq_ignore_ascii_case("100-continue") => true,
        Some(_) => return Err(RequestError::Expectation),
    };
    let keep_alive = if fields.has_token("connection", "close") {
        false
    } else {
        is_1_1 || fields.has_token("connection", "keep-alive")
    };
    Ok(Head { method, target, headers, body, keep_alive, expects_continue })
}

/// Path and query of a target; a whole URL, as proxies are sent, loses its scheme and host (RFC 9112 section 3.2.2).
fn origin_form(target: &str) -> Result<String, RequestError> {
    if target.starts_with('/') || target == "*" {
        return Ok(target.to_owned());
    }
    let rest = ["http://", "https://"].into_iter().find_map(|scheme| {
        target.get(..scheme.len()).filter(|start| start.eq_ignore_ascii_case(scheme))?;
        target.get(scheme.len()..)
    });
    let Some(rest) = rest else { return Err(RequestError::Malformed("request target")) };
    match rest.find(['/', '?']).map(|at| rest.split_at(at)) {
        Some((_, path)) if path.starts_with('/') => Ok(path.to_owned()),
        Some((_, query)) => Ok(format!("/{query}")),
        None => Ok("/".to_owned()),
    }
}

/// Decides how the body ends. Whatever two readers could read differently is refused: behind a proxy, a request
/// whose end is ambiguous smuggles a second one in (RFC 9112 section 11.2).
fn body_length(fields: Fields<'_>, is_1_1: bool) -> Result<BodyLength, RequestError> {
    let mut codings = fields.all("transfer-encoding");
    let mut lengths = fields.all("content-length");
    if let Some(coding) = codings.next() {
        if lengths.next().is_some() {
            return Err(RequestError::Malformed("both Content-Length and Transfer-Encoding"));
        }
        if !is_1_1 {
            return Err(RequestError::Malformed("Transfer-Encoding in HTTP/1.0"));
        }
        if codings.next().is_some() || !coding.trim().eq_ignore_ascii_case("chunked") {
            return Err(RequestError::TransferCoding);
        }
        return Ok(BodyLength::Chunked);
    }
    let Some(length) = lengths.next() else { return Ok(BodyLength::Fixed(0)) };
    if lengths.next().is_some() {
        return Err(RequestError::Malformed("more than one Content-Length"));
    }
    let length = length.trim_matches([' ', '\t']);
    // `parse` alone would take a sign.
    if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(RequestError::Malformed("Content-Length"));
    }
    // Digits that do not fit are a number all the same, and too large.
    Ok(BodyLength::Fixed(length.parse().unwrap_or(u64::MAX)))
}

/// Header fields, looked up without regard to case.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a [(String, String)]);

impl<'a> Fields<'a> {
    fn all(self, name: &'static str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether a list field holds this token.
    fn has_token(self, name: &'static str, token: &str) -> bool {
        self.all(name).flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 1024, headers: 8 };

    fn parse_text(text: &str) -> Result<Head, RequestError> {
        assert_eq!(find_end(text.as_bytes(), 0), Some(text.len()), "not a whole head: {text:?}");
        parse(text.as_bytes(), LIMITS)
    }

    #[test]
    fn the_end_is_found_wherever_the_bytes_were_cut() {
        let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        let end = text.len() - 4;
        for cut in 0..text.len() {
            let found = find_end(&text[..cut], 0).or_else(|| find_end(text, cut));
            assert_eq!(found, Some(end), "cut at {cut}");
        }
        assert_eq!(find_end(b"GET / HTTP/1.0\n\nx", 0), Some(16));
        assert_eq!(find_end(b"GET / HTTP/1.1\r\nHost: a\r\n\r", 0), None);
    }

    #[test]
    fn persistence_follows_version_and_connection() {
        for (version, connection, kept) in [
            ("1.1", "", true),
            ("1.1", "Connection: Close\r\n", false),
            ("1.1", "Connection: upgrade, close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive\r\nConnection: close\r\n", false),
        ] {
            let head = parse_text(&format!("GET / HTTP/{version}\r\nHost: a\r\n{connection}\r\n")).unwrap();
            assert_eq!(head.keep_alive, kept, "{version} {connection:?}");
        }
    }

    #[test]
    fn a_body_whose_end_is_ambiguous_is_refused() {
        for (headers, want) in [
            ("Content-Length: 12", Ok(BodyLength::Fixed(12))),
            ("Content-Length: 99999999999999999999999", Ok(BodyLength::Fixed(u64::MAX))),
            ("Transfer-Encoding: Chunked", Ok(BodyLength::Chunked)),
            ("X-Nothing: 1", Ok(BodyLength::Fixed(0))),
        ] {
            let head = parse_text(&format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n"));
            assert_eq!(head.map(|head| head.body), want, "{headers}");
        }
        for headers in [
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 1, 1",
            "Content-Length: +1",
            "Content-Length: -1",
            "Content-Length: 0x10",
            "Content-Length:",
            "Content-Length: 3\r\nTransfer-Encoding: chunked",
            "Content-Length : 3",
            "X: a\r\n b",
        ] {
            let error = parse_text(&format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n")).unwrap_err();
            assert!(matches!(error, RequestError::Malformed(_)), "{headers}: {error:?}");
        }
        for headers in ["Transfer-Encoding: gzip, chunked", "Transfer-Encoding: identity"] {
            let error = parse_text(&format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n")).unwrap_err();
            assert_eq!(error, RequestError::TransferCoding, "{headers}");
        }
        let error = parse_text("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap_err();
        assert!(matches!(error, RequestError::Malformed(_)), "{error:?}");
    }

    #[test]
    fn targets_become_a_path_and_foreign_forms_are_refused() {
        for (target, want) in [
            ("/a%2fb?x=1", "/a%2fb?x=1"),
            ("*", "*"),
            ("http://host:80/a?b", "/a?b"),
            ("HTTPS://host", "/"),
            ("http://host?q=/", "/?q=/"),
        ] {
            assert_eq!(
                parse_text(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap().target,
                want
            );
        }
        for target in ["host:443", "ftp://a/", "a/b"] {
            let error = parse_text(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap_err();
            assert!(matches!(error, RequestError::Malformed(_)), "{target}: {error:?}");
        }
    }

    #[test]
    fn what_is_not_served_is_named() {
        let refused = |head: &str| parse_text(head).unwrap_err();
        assert!(matches!(refused("GET / HTTP/1.1\r\n\r\n"), RequestError::Malformed("Host")));
        assert!(matches!(
            refused("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
            RequestError::Malformed(_)
        ));
        assert_eq!(refused("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), RequestError::Version);
        assert_eq!(
            refused("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n"),
            RequestError::WebSocket
        );
        assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n"), RequestError::Expectation);
        let many = "X: 1\r\n".repeat(LIMITS.headers);
        assert_eq!(refused(&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n")), RequestError::HeadTooLarge);
        assert!(matches!(refused("\x16\x03\x01\x02\r\n\r\n"), RequestError::Malformed("request line")));
    }

    #[test]
    fn only_a_1_1_client_is_told_to_continue() {
        let head = |version| {
            parse_text(&format!("POST / HTTP/{version}\r\nHost: a\r\nExpect: 100-Continue\r\n\r\n")).unwrap()
        };
        assert!(head("1.1").expects_continue && !head("1.0").expects_continue);
    }
}
