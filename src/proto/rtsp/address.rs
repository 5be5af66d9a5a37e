//! What a request URI names on our server: a stream, and perhaps one of its tracks.

/// Control of a track in our own descriptions, in front of its number.
const TRACK: &str = "trackID=";

/// A URI taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Name of the stream: the whole path without its first slash, percent-decoded; may be empty.
    pub name: String,
    /// What follows the `?`; empty without one.
    pub query: String,
    /// The track, where the URI names one of ours.
    pub track: Option<usize>,
}

impl Address {
    /// Takes a URI apart: absolute (`rtsp://host:8554/name?query`), or a path alone.
    #[must_use]
    pub fn of(uri: &str) -> Self {
        let (rest, track) = without_track(path_of(uri));
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = path.strip_prefix('/').unwrap_or(path);
        Self { name: decode(path.strip_suffix('/').unwrap_or(path)), query: query.to_owned(), track }
    }
}

/// Path and query of a URI, without scheme and host.
#[must_use]
pub fn path_of(uri: &str) -> &str {
    let has_scheme = uri.split_once("://").is_some_and(|(scheme, _)| {
        matches!(scheme.to_ascii_lowercase().as_str(), "rtsp" | "rtsps" | "rtspu")
    });
    match uri.split_once("://") {
        Some((_, rest)) if has_scheme => rest.find(['/', '?']).and_then(|at| rest.get(at..)).unwrap_or(""),
        _ => uri,
    }
}

/// The track is appended behind everything else, a query too.
fn without_track(path: &str) -> (&str, Option<usize>) {
    let trimmed = path.trim_end_matches('/');
    let number = trimmed.rsplit_once('/').and_then(|(rest, last)| {
        let number = last.strip_prefix(TRACK)?.parse().ok()?;
        Some((rest, Some(number)))
    });
    number.unwrap_or((path, None))
}

/// Undoes percent encoding (RFC 3986 section 2.1). What is no encoding stays as it is; bytes that are no text are
/// replaced.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|&byte| char::from(byte).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_a_stream_a_query_and_a_track() {
        let read = |uri: &str| {
            let Address { name, query, track } = Address::of(uri);
            (name, query, track)
        };
        let is = |name: &str, query: &str, track| (name.to_owned(), query.to_owned(), track);
        assert_eq!(read("rtsp://h:8554/cam1"), is("cam1", "", None));
        assert_eq!(read("rtsp://[::1]/live/cam1/?a=b&c"), is("live/cam1", "a=b&c", None));
        assert_eq!(read("rtsp://h/cam1/trackID=1"), is("cam1", "", Some(1)));
        assert_eq!(read("rtsp://h/cam1?x=1/trackID=0/"), is("cam1", "x=1", Some(0)));
        assert_eq!(read("RTSP://h/K%C3%BCche%201%%2"), is("Küche 1%%2", "", None));
        assert_eq!(read("rtsp://h/rtsp%3A%2F%2Fcam%2F1"), is("rtsp://cam/1", "", None));
        assert_eq!(read("rtsp://h"), is("", "", None));
        assert_eq!(read("*"), is("*", "", None));
        assert_eq!(read("/cam1/trackID=x"), is("cam1/trackID=x", "", None));
    }
}
