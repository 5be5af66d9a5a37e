//! Pictures by GET, for `<img>`, cameras pages and `curl`: `/snapshots/<stream name>.png` is the newest picture,
//! `/stills/<stream name>.png` a small one of the newest keyframe, `/vod/<file>.png?at=12.5` the one that a file shows then.

use std::io::Cursor;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rouille::percent_encoding::percent_decode_str;
use rouille::{Request, Response, ResponseBody};

use super::error::ApiError;
use crate::edge::http::unless_known;
use crate::services::png::{rfc3339_ms, seconds};
use crate::services::scale::SIDE_MAX;
use crate::services::snapshot::{Fit, Scale, Snapshot, SnapshotRequest, Snapshots};
use crate::services::vod::{FilePictureError, FilePictures};

/// What stands before and after the stream name.
const PREFIX: &str = "/snapshots/";
/// Likewise for stills.
const STILLS_PREFIX: &str = "/stills/";
/// Likewise for the name of a file, which may have folders in it.
const FILES_PREFIX: &str = "/vod/";
/// Width of a still whose caller names no size.
const STILL_WIDTH: u32 = 320;
const SUFFIX: &str = ".png";

/// What is pictured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A stream, now.
    Snapshot,
    /// The newest keyframe of a stream.
    Still,
    /// A file at a moment.
    File,
}

impl Kind {
    /// What a request for this path asks for; `None`: no picture.
    pub(super) fn of(path: &str) -> Option<Self> {
        [(PREFIX, Self::Snapshot), (STILLS_PREFIX, Self::Still), (FILES_PREFIX, Self::File)]
            .into_iter()
            .find(|(prefix, _)| path.starts_with(prefix))
            .map(|(_, kind)| kind)
    }
}

/// Takes the picture that the request's path and query name.
pub(super) fn take(
    snapshots: &Snapshots,
    request: &Request,
    now: &dyn Fn() -> Instant,
) -> Result<Response, ApiError> {
    let wanted = Wanted::read(request, PREFIX)?;
    let max_age = wanted.max_age;
    let fit = wanted.scale.as_ref().map(|scale| scale.fit);
    let request_to_service =
        SnapshotRequest { stream_name: wanted.name, scale: wanted.scale, max_age, limit: None };
    let snapshot = snapshots.take(request_to_service).map_err(|error| ApiError::picture(&error))?;
    let age = snapshot.age(now());
    let fit = fit_label(fit);
    let etag =
        format!("\"{:x}-{:x}-{}x{}{fit}\"", snapshot.epoch, snapshot.seq, snapshot.width, snapshot.height);
    Ok(unless_known(request, respond(snapshot, age, etag)))
}

/// Takes the still that the request's path and query name. Who has it already costs neither a decode nor its bytes.
pub(super) fn take_still(
    snapshots: &Snapshots,
    request: &Request,
    now: &dyn Fn() -> Instant,
) -> Result<Response, ApiError> {
    let wanted = Wanted::read(request, STILLS_PREFIX)?;
    let scale = wanted.scale.unwrap_or(Scale { width: Some(STILL_WIDTH), height: None, fit: Fit::Contain });
    let source = snapshots.still_source(&wanted.name).map_err(|error| ApiError::picture(&error))?;
    let etag = |epoch: u64, seq: u64| {
        let side = |side: Option<u32>| side.map_or_else(String::new, |side| side.to_string());
        let fit = if scale.fit == Fit::Cover { "-cover" } else { "" };
        format!("\"still-{epoch:x}-{seq:x}-{}x{}{fit}\"", side(scale.width), side(scale.height))
    };
    let known = Response::text("").with_additional_header("ETag", etag(source.epoch(), source.seq()));
    let known = unless_known(request, known);
    if known.status_code == 304 {
        return Ok(known.with_additional_header("Cache-Control", "no-store"));
    }
    let still = snapshots.still(source, scale).map_err(|error| ApiError::picture(&error))?;
    let (age, etag) = (still.age(now()), etag(still.epoch, still.seq));
    Ok(unless_known(request, respond(still, age, etag)))
}

/// Takes the picture of a file that the request's path and query name. Who has it already costs no more than a look at the file.
pub(super) fn take_of_file(pictures: &FilePictures, request: &Request) -> Result<Response, ApiError> {
    // What cannot be a name names no file: nothing tells it from a file that is not there.
    let wanted = Wanted::read(request, FILES_PREFIX).map_err(|error| match error.message() {
        NOT_UTF_8 => ApiError::file_picture(&FilePictureError::NotFound),
        _ => error,
    })?;
    let at = moment(request)?;
    let failed = |error| ApiError::file_picture(&error);
    let source = pictures.source(&wanted.name).map_err(failed)?;
    let side = |side: Option<u32>| side.map_or_else(String::new, |side| side.to_string());
    let sides = wanted.scale.map(|scale| format!("-{}x{}", side(scale.width), side(scale.height)));
    let fit = fit_label(wanted.scale.map(|scale| scale.fit));
    let etag =
        format!("\"file-{:x}-{:x}{}{fit}\"", source.version(), at.as_nanos(), sides.unwrap_or_default());
    let modified = httpdate::fmt_http_date(source.modified());
    let dress = |response: Response| {
        response
            .with_additional_header("ETag", etag.clone())
            // A file may be written to at any time: to be asked for again, which costs little where it was not.
            .with_additional_header("Cache-Control", "no-cache")
            .with_additional_header("Last-Modified", modified.clone())
            .with_additional_header("Cross-Origin-Resource-Policy", "cross-origin")
    };
    let known = unless_known(request, dress(Response::text("")));
    if known.status_code == 304 {
        return Ok(known);
    }
    let picture = pictures.take(source, at, wanted.scale).map_err(failed)?;
    let file_time = seconds(picture.at);
    let length = picture.png.len();
    let response = Response {
        data: ResponseBody::from_reader_and_size(Cursor::new(picture.png.clone()), length),
        ..Response::from_data("image/png", Vec::new())
    };
    Ok(dress(response.with_additional_header("X-File-Time", file_time)))
}

/// The moment of a file that is asked for: seconds, with a point and up to nine digits of a fraction. The beginning when nothing is said.
fn moment(request: &Request) -> Result<Duration, ApiError> {
    const DIGITS_MAX: usize = 9;
    let Some(text) = request.get_param("at") else { return Ok(Duration::ZERO) };
    let read = |digits: &str| -> Option<u32> {
        let is_number = digits.len() <= DIGITS_MAX && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| digits.parse().ok()).flatten()
    };
    let (whole, fraction) = match text.split_once('.') {
        Some((_, "")) => (None, None),
        Some((whole, fraction)) => (read(whole), read(&format!("{fraction:0<DIGITS_MAX$}"))),
        None => (read(&text), Some(0)),
    };
    match (whole, fraction) {
        (Some(whole), Some(nanos)) => Ok(Duration::new(u64::from(whole), nanos)),
        _ => Err(ApiError::bad_request("at must be seconds such as 12.5")),
    }
}

/// How a picture is brought into its box, for tags.
fn fit_label(fit: Option<Fit>) -> &'static str {
    match fit {
        None => "",
        Some(Fit::Contain) => "-contain",
        Some(Fit::Cover) => "-cover",
    }
}

const NOT_UTF_8: &str = "Name is not UTF-8";

/// What a request asks for.
#[derive(Debug, PartialEq)]
struct Wanted {
    /// Of a stream or a file.
    name: String,
    scale: Option<Scale>,
    max_age: Option<Duration>,
}

impl Wanted {
    fn read(request: &Request, prefix: &str) -> Result<Self, ApiError> {
        let name = super::path_of(request).strip_prefix(prefix).and_then(|rest| rest.strip_suffix(SUFFIX));
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Err(ApiError::not_found(format!("A picture is found at {prefix}<name>.png")));
        };
        // Decoded once: a name that itself holds a percent sign arrives as its owner spelt it.
        let name = percent_decode_str(name)
            .decode_utf8()
            .map_err(|_| ApiError::bad_request(NOT_UTF_8))?
            .into_owned();
        let max_age = number(request, "maxAgeMs", 0..=u64::MAX)?.map(Duration::from_millis);
        let side = |key| -> Result<Option<u32>, ApiError> {
            let pixels = number(request, key, 1..=u64::from(SIDE_MAX))?;
            Ok(pixels.and_then(|pixels| u32::try_from(pixels).ok()))
        };
        let (width, height) = (side("w")?, side("h")?);
        let fit = match request.get_param("fit").as_deref() {
            None | Some("contain") => Fit::Contain,
            Some("cover") => Fit::Cover,
            Some(_) => return Err(ApiError::bad_request("fit must be contain or cover")),
        };
        let scale = (width.is_some() || height.is_some()).then_some(Scale { width, height, fit });
        Ok(Self { name, scale, max_age })
    }
}

/// A whole number of the query.
fn number(
    request: &Request,
    key: &str,
    range: std::ops::RangeInclusive<u64>,
) -> Result<Option<u64>, ApiError> {
    let Some(text) = request.get_param(key) else { return Ok(None) };
    let value = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    match value {
        Some(value) if range.contains(&value) => Ok(Some(value)),
        _ => {
            let (least, most) = (range.start(), range.end());
            Err(ApiError::bad_request(format!("{key} must be a whole number from {least} to {most}")))
        }
    }
}

/// The PNG of a shared snapshot.
struct Png(Arc<Snapshot>);

impl AsRef<[u8]> for Png {
    fn as_ref(&self) -> &[u8] {
        &self.0.png
    }
}

/// The picture with all that is known of it. `If-None-Match` is to be honoured; `If-Modified-Since` is not, as its seconds
/// are too coarse for a stream.
fn respond(snapshot: Arc<Snapshot>, age: Duration, etag: String) -> Response {
    let length = snapshot.png.len();
    let headers = [
        ("ETag", etag),
        ("Last-Modified", httpdate::fmt_http_date(snapshot.captured)),
        ("Cache-Control", "no-store".to_owned()),
        ("X-Capture-Time", rfc3339_ms(snapshot.captured)),
        ("X-Frame-Age-Ms", age.as_millis().to_string()),
        ("X-Stream-Epoch", snapshot.epoch.to_string()),
        ("Cross-Origin-Resource-Policy", "cross-origin".to_owned()),
    ];
    let response = Response {
        data: ResponseBody::from_reader_and_size(Cursor::new(Png(snapshot)), length),
        ..Response::from_data("image/png", Vec::new())
    };
    headers.into_iter().fold(response, |response, (name, value)| response.with_additional_header(name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Wanted, ApiError> {
        Wanted::read(&Request::fake_http("GET", url, Vec::new(), Vec::new()), PREFIX)
    }

    #[test]
    fn names_are_decoded_once_and_never_read_as_paths() {
        for (url, name) in [
            ("/snapshots/cam1.png", "cam1"),
            ("/snapshots/cam%201.png?x=.png", "cam 1"),
            ("/snapshots/..%2F..%2Fetc%2Fpasswd.png", "../../etc/passwd"),
            ("/snapshots/../../etc/passwd.png", "../../etc/passwd"),
            ("/snapshots/rtsp:%2F%2Fa%2Fb.png", "rtsp://a/b"),
            ("/snapshots/100%2525.png", "100%25"),
            ("/snapshots/a+b.png", "a+b"),
            ("/snapshots/K%C3%BCche.png.png", "Küche.png"),
        ] {
            assert_eq!(read(url).unwrap().name, name, "{url}");
        }
        assert_eq!(read("/snapshots/.png").unwrap_err().status(), 404);
        assert_eq!(read("/snapshots/cam1.jpg").unwrap_err().status(), 404);
        assert_eq!(read("/snapshots/%FF.png").unwrap_err().status(), 400);
    }

    #[test]
    fn parameters_out_of_their_range_are_refused() {
        let wanted = read("/snapshots/a.png?w=320&h=180&fit=cover&maxAgeMs=250&_=1").unwrap();
        assert_eq!(wanted.scale, Some(Scale { width: Some(320), height: Some(180), fit: Fit::Cover }));
        assert_eq!(wanted.max_age, Some(Duration::from_millis(250)));
        let wanted = read("/snapshots/a.png?w=320").unwrap();
        assert_eq!(wanted.scale, Some(Scale { width: Some(320), height: None, fit: Fit::Contain }));
        assert_eq!(read("/snapshots/a.png?fit=contain").unwrap().scale, None);
        for query in [
            "w=0",
            "w=-1",
            "w=",
            "h=8193",
            "w=1e3",
            "fit=fill",
            "maxAgeMs=x",
            "maxAgeMs=99999999999999999999",
        ] {
            assert_eq!(read(&format!("/snapshots/a.png?{query}")).unwrap_err().status(), 400, "{query}");
        }
    }
}
