//! The head of a response, and which responses have a body.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::SystemTime;

use rouille::{Request, Response, ResponseBody};

/// Header fields that describe the connection or the framing: written here, never taken from a handler.
const OURS: [&str; 6] = ["connection", "content-length", "transfer-encoding", "trailer", "upgrade", "date"];

/// Whether a response of this status to this method carries a body (RFC 9110 sections 6.4.1 and 9.3.2).
pub(super) fn has_body(method: &str, status: u16) -> bool {
    method != "HEAD" && status != 204 && status != 304 && status >= 200
}

/// The status line, the header fields and the empty line. `length` is the size of the body, or of the body that a GET would
/// have had; `None`: not known, so that the end of the connection ends it.
pub(super) fn head(
    status: u16,
    headers: &[(Cow<'static, str>, Cow<'static, str>)],
    length: Option<usize>,
    keep_alive: bool,
    now: SystemTime,
) -> Vec<u8> {
    let mut text = String::with_capacity(512);
    let _ = write!(text, "HTTP/1.1 {status} {}\r\n", reason(status));
    let _ = write!(text, "Date: {}\r\n", httpdate::fmt_http_date(now));
    // On everything: an error repeats what was asked for, and must never be taken for a page.
    text.push_str("X-Content-Type-Options: nosniff\r\n");
    for (name, value) in headers {
        if OURS.iter().any(|ours| name.eq_ignore_ascii_case(ours)) {
            continue;
        }
        // A line end inside would let a value write headers of its own.
        if name.bytes().chain(value.bytes()).any(|byte| byte.is_ascii_control()) {
            tracing::error!("response header {name:?} holds a control character and is left out");
            continue;
        }
        let _ = write!(text, "{name}: {value}\r\n");
    }
    if let Some(length) = length
        && status != 204
        && status != 304
        && status >= 200
    {
        let _ = write!(text, "Content-Length: {length}\r\n");
    }
    text.push_str(if keep_alive { "Connection: keep-alive\r\n\r\n" } else { "Connection: close\r\n\r\n" });
    text.into_bytes()
}

/// Makes an empty 304 of a response that the client has already: one of the tags that it names is the response's `ETag`,
/// perhaps marked as weak by a proxy on the way (RFC 9110 section 13.1.2).
pub(crate) fn unless_known(request: &Request, response: Response) -> Response {
    let etag = response.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("ETag"));
    let is_known = etag.zip(request.header("If-None-Match")).is_some_and(|((_, etag), known)| {
        let plain = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
        known.trim() == "*" || known.split(',').any(|tag| plain(tag) == **etag)
    });
    if is_known && (200..300).contains(&response.status_code) {
        return Response { status_code: 304, data: ResponseBody::empty(), ..response };
    }
    response
}

/// The class of a status, as the metrics name it.
pub(super) fn class(status: u16) -> &'static str {
    match status {
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}

/// The reason phrase, for people who read dumps (RFC 9110 section 15; 431: RFC 6585).
pub(crate) fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_header_value_cannot_write_headers_of_its_own() {
        let response = Response::text("x").with_unique_header("X-Name", "a\r\nSet-Cookie: b");
        let head = String::from_utf8(head(200, &response.headers, Some(1), true, UNIX_EPOCH)).unwrap();
        assert_eq!(
            head,
            "HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nX-Content-Type-Options: nosniff\r\n\
             Content-Type: text/plain; charset=utf-8\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n"
        );
    }

    #[test]
    fn a_response_is_known_by_any_of_the_tags_that_a_client_names() {
        let status = |known: &str| {
            let headers = vec![("If-None-Match".to_owned(), known.to_owned())];
            let request = Request::fake_http("GET", "/", headers, Vec::new());
            let response = Response::text("body").with_additional_header("ETag", "\"a-1\"");
            unless_known(&request, response).status_code
        };
        for known in ["\"a-1\"", "\"x\", \"a-1\"", "W/\"a-1\"", "\"x\",W/\"a-1\" ", "*"] {
            assert_eq!(status(known), 304, "{known}");
        }
        for known in ["", "\"a-2\"", "a-1", "\"a-1", "W/"] {
            assert_eq!(status(known), 200, "{known}");
        }
    }

    #[test]
    fn responses_without_a_body_have_no_length_except_to_head() {
        assert!(!has_body("HEAD", 200) && !has_body("GET", 304) && has_body("GET", 404));
        let head = String::from_utf8(head(304, &[], Some(0), false, UNIX_EPOCH)).unwrap();
        assert!(!head.contains("Content-Length") && head.ends_with("Connection: close\r\n\r\n"), "{head}");
    }
}
