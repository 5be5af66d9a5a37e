//! Errors as clients see them: the only place that turns an error into a status and a body.
//!
//! The body is that of the protocol document, section 9.2: seven keys in a fixed order.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use rouille::Response;
use serde::Serialize;

use crate::edge::http::{RequestError, reason};
use crate::services::snapshot::SnapshotError;
use crate::services::vod::FilePictureError;

/// The package that clients find before the name of each exception.
const EXCEPTION_PACKAGE: &str = "com.flashphoner.rest.server.exception";

/// Seconds after which a client that found us busy may try again.
const RETRY_AFTER_S: &str = "1";

/// An answer that is not the one asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    status: u16,
    message: Cow<'static, str>,
    header: Option<(&'static str, &'static str)>,
}

/// The body of section 9.2; the fields stand in the order in which clients find them.
#[derive(Serialize)]
struct Body<'a> {
    exception: &'a str,
    reason: &'a str,
    path: &'a str,
    error: &'a str,
    message: &'a str,
    timestamp: u64,
    status: u16,
}

impl ApiError {
    fn new(status: u16, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into(), header: None }
    }

    /// 400: the request cannot be understood.
    #[must_use]
    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, message)
    }

    /// 401: name and password are missing or wrong (RFC 7617).
    #[must_use]
    pub fn unauthorized() -> Self {
        let header = ("WWW-Authenticate", "Basic realm=\"Stillcast\", charset=\"UTF-8\"");
        Self { header: Some(header), ..Self::new(401, "User name and password are required") }
    }

    /// 404: there is no such thing.
    #[must_use]
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(404, message)
    }

    /// 405: the thing exists and does not know the method; `allow` lists those that it knows.
    #[must_use]
    pub fn method_not_allowed(allow: &'static str) -> Self {
        Self { header: Some(("Allow", allow)), ..Self::new(405, "Method not allowed") }
    }

    /// 401: a bearer token is missing or wrong (RFC 6750).
    #[must_use]
    pub fn bearer_wanted() -> Self {
        Self { header: Some(("WWW-Authenticate", "Bearer")), ..Self::new(401, "A bearer token is required") }
    }

    /// 406: what is offered and what is served have nothing in common.
    #[must_use]
    pub fn not_acceptable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(406, message)
    }

    /// 409: a name or an id is taken, or something runs already.
    #[must_use]
    pub fn conflict(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(409, message)
    }

    /// 415: a body of another kind than is understood.
    #[must_use]
    pub fn unsupported_media_type(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(415, message)
    }

    /// 422: understood, and not served.
    #[must_use]
    pub fn unprocessable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(422, message)
    }

    /// 503: not now.
    #[must_use]
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self { header: Some(("Retry-After", RETRY_AFTER_S)), ..Self::new(503, message) }
    }

    /// 500: it could be understood and was not done.
    #[must_use]
    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(500, message)
    }

    /// A failed `POST /rest-api/stream/snapshot`: 404 or 500, as the manuals promise no other (section 4.4).
    #[must_use]
    pub fn rest_snapshot(error: &SnapshotError) -> Self {
        match error {
            SnapshotError::StreamNotFound => Self::not_found(error.to_string()),
            _ => Self::new(500, error.to_string()),
        }
    }

    /// A failed `GET /snapshots/….png`, whose callers are promised to be told why.
    #[must_use]
    pub fn picture(error: &SnapshotError) -> Self {
        let message = error.to_string();
        match error {
            SnapshotError::Scale(_) => Self::bad_request(message),
            SnapshotError::StreamNotFound | SnapshotError::StreamEnded => Self::not_found(message),
            SnapshotError::NoVideo => Self::new(409, message),
            SnapshotError::Busy | SnapshotError::NoKeyframe | SnapshotError::Stopping => {
                Self { header: Some(("Retry-After", RETRY_AFTER_S)), ..Self::new(503, message) }
            }
            SnapshotError::Timeout | SnapshotError::TooOld(_) => Self::new(504, message),
            _ => Self::new(500, message),
        }
    }

    /// A failed `GET /vod/….png`.
    #[must_use]
    pub fn file_picture(error: &FilePictureError) -> Self {
        let message = error.to_string();
        match error {
            FilePictureError::Scale(_) => Self::bad_request(message),
            FilePictureError::NotFound | FilePictureError::PastEnd(_) => Self::not_found(message),
            FilePictureError::NoVideo => Self::conflict(message),
            FilePictureError::Format => Self::unprocessable(message),
            FilePictureError::Busy | FilePictureError::Stopping => Self::unavailable(message),
            FilePictureError::Timeout => Self::new(504, message),
            _ => Self::internal(message),
        }
    }

    /// The status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// What the client is told.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The response. `path` is the request's path without its query, `now` the wall clock.
    #[must_use]
    pub fn into_response(self, path: &str, now: SystemTime) -> Response {
        let timestamp =
            now.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
        let error = reason(self.status);
        let message = self.message.as_ref();
        let exception = format!("{EXCEPTION_PACKAGE}.{}", exception_name(self.status));
        let reason = format!("{exception}, {error}, {message}, ts: {timestamp}, path: {path}");
        let body = Body {
            exception: &exception,
            reason: &reason,
            path,
            error,
            message,
            timestamp,
            status: self.status,
        };
        let response = Response::json(&body).with_status_code(self.status);
        match self.header {
            Some((name, value)) => response.with_additional_header(name, value),
            None => response,
        }
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        Self::new(error.status(), error.to_string())
    }
}

/// The class name for a status: that of section 9.2 for the statuses it lists, formed likewise for the others.
fn exception_name(status: u16) -> String {
    match status {
        500 => "InternalErrorException".to_owned(),
        _ => reason(status).chars().filter(|c| *c != ' ').chain("Exception".chars()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn body_of(error: ApiError, path: &str) -> String {
        let response = error.into_response(path, UNIX_EPOCH + Duration::from_millis(1_735_689_600_123));
        let (mut reader, _) = response.data.into_reader_and_size();
        let mut body = String::new();
        reader.read_to_string(&mut body).unwrap();
        body
    }

    #[test]
    fn the_body_is_the_documented_one_byte_for_byte() {
        let error = ApiError::rest_snapshot(&SnapshotError::Timeout);
        assert_eq!(
            body_of(error, "/rest-api/stream/snapshot"),
            "{\"exception\":\"com.flashphoner.rest.server.exception.InternalErrorException\",\
             \"reason\":\"com.flashphoner.rest.server.exception.InternalErrorException, Internal Server Error, \
             Snapshot response timeout, ts: 1735689600123, path: /rest-api/stream/snapshot\",\
             \"path\":\"/rest-api/stream/snapshot\",\"error\":\"Internal Server Error\",\
             \"message\":\"Snapshot response timeout\",\"timestamp\":1735689600123,\"status\":500}"
        );
    }

    #[test]
    fn the_other_classes_have_their_documented_names() {
        for (error, exception, text, status) in [
            (ApiError::bad_request("x"), "BadRequestException", "Bad Request", 400),
            (ApiError::not_found("x"), "NotFoundException", "Not Found", 404),
            (ApiError::picture(&SnapshotError::NoVideo), "ConflictException", "Conflict", 409),
            (ApiError::new(403, "x"), "ForbiddenException", "Forbidden", 403),
        ] {
            let body = body_of(error, "/p");
            let start = format!("{{\"exception\":\"com.flashphoner.rest.server.exception.{exception}\",");
            assert!(body.starts_with(&start), "{body}");
            assert!(body.contains(&format!("\"error\":\"{text}\",")), "{body}");
            assert!(body.ends_with(&format!("\"status\":{status}}}")), "{body}");
        }
    }

    #[test]
    fn a_path_from_outside_cannot_break_out_of_the_body() {
        let body = body_of(ApiError::not_found("x"), "/a\",\"status\":200,\"");
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(value["status"], 404);
        assert_eq!(value["path"], "/a\",\"status\":200,\"");
    }
}
