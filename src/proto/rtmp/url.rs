//! Addresses: `rtmp://host[:port]/app/name`, with parameters after the application, the name, or both
//! (protocol document, section 7.3).

use thiserror::Error;

/// Port of `rtmp://` where none is said.
pub const PORT: u16 = 1935;
/// Port of `rtmps://` likewise.
pub const TLS_PORT: u16 = 443;
/// Most parameters of one group that are kept.
const PARAMETERS_MAX: usize = 64;

/// Why text is no such address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UrlError {
    /// It does not begin with `rtmp://` or `rtmps://`.
    #[error("not an rtmp address")]
    Scheme,
    /// The host or the port cannot be used.
    #[error("host or port is not usable")]
    Host,
    /// It names no stream.
    #[error("no stream is named")]
    NoName,
}

/// Where a stream is to be had. What stood before an `@` was left out: no credentials are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RtmpUrl {
    /// Over TLS (`rtmps://`).
    pub is_secure: bool,
    /// Host name or address; an IPv6 address without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Application, with its instance and parameters if it has such: all between host and name.
    pub app: String,
    /// Name of the stream, with its parameters.
    pub name: String,
}

impl RtmpUrl {
    /// Reads an address.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        let is_secure = match scheme.to_ascii_lowercase().as_str() {
            "rtmp" => false,
            "rtmps" => true,
            _ => return Err(UrlError::Scheme),
        };
        let (authority, path) = rest.split_once('/').ok_or(UrlError::NoName)?;
        let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
        let (host, port) = split_port(address).ok_or(UrlError::Host)?;
        let usual = if is_secure { TLS_PORT } else { PORT };
        let port = match port {
            "" => usual,
            digits => digits.parse().ok().filter(|&port| port != 0).ok_or(UrlError::Host)?,
        };
        let is_clean = |text: &str| !text.chars().any(|c| c.is_control() || c.is_whitespace());
        if host.is_empty() || !is_clean(text) {
            return Err(UrlError::Host);
        }
        let (app, name) = split_path(path).ok_or(UrlError::NoName)?;
        Ok(Self { is_secure, host: host.to_owned(), port, app: app.to_owned(), name: name.to_owned() })
    }

    /// The address of the application, as `connect` tells it (`tcUrl`).
    #[must_use]
    pub fn tc_url(&self) -> String {
        let scheme = if self.is_secure { "rtmps" } else { "rtmp" };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{scheme}://{host}:{}/{}", self.port, self.app)
    }
}

/// Host and port of `host`, `host:port`, `[v6]` and `[v6]:port`; the port is empty when there is none.
fn split_port(address: &str) -> Option<(&str, &str)> {
    if let Some(rest) = address.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        return if rest.is_empty() { Some((host, "")) } else { Some((host, rest.strip_prefix(':')?)) };
    }
    Some(address.split_once(':').unwrap_or((address, "")))
}

/// Application and name: the name is what follows the last slash that no parameter of the name holds. Parameters of
/// the application end at the next slash.
fn split_path(path: &str) -> Option<(&str, &str)> {
    let plain = path.find('?').unwrap_or(path.len());
    let at = match path.get(..plain)?.rfind('/') {
        // The first parameters belong to the application when a slash follows them and none came before.
        None => plain + path.get(plain..)?.find('/')?,
        Some(at) => at,
    };
    let (app, name) = (path.get(..at)?, path.get(at + 1..)?);
    (!app.is_empty() && !name.is_empty()).then_some((app, name))
}

/// A name and the parameters after its question mark, decoded, as a JSON object; `None` when there are none. Of
/// parameters with the same name the last counts.
#[must_use]
pub fn split_parameters(text: &str) -> (&str, Option<serde_json::Value>) {
    let Some((name, query)) = text.split_once('?') else { return (text, None) };
    let pairs = url::form_urlencoded::parse(query.as_bytes()).take(PARAMETERS_MAX);
    let object: serde_json::Map<String, serde_json::Value> =
        pairs.filter(|(key, _)| !key.is_empty()).map(|(key, value)| (key.into(), value.into())).collect();
    (name, (!object.is_empty()).then_some(object.into()))
}

/// A name in which `%20` and the like are what they stand for; a plus is a plus.
#[must_use]
pub fn percent_decoded(name: &str) -> String {
    let guarded = name.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
    let mut pairs = url::form_urlencoded::parse(guarded.as_bytes());
    pairs.next().map(|(decoded, _)| decoded.into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (String, u16, String, String) {
        let url = RtmpUrl::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        (url.host, url.port, url.app, url.name)
    }

    fn parts(host: &str, port: u16, app: &str, name: &str) -> (String, u16, String, String) {
        (host.into(), port, app.into(), name.into())
    }

    #[test]
    fn addresses_are_taken_apart() {
        assert_eq!(parse("rtmp://h/live/cam"), parts("h", 1935, "live", "cam"));
        assert_eq!(parse("RTMPS://h/live/cam"), parts("h", 443, "live", "cam"));
        assert_eq!(parse("rtmp://u:p@h:19/live/inst/cam?k=a/b"), parts("h", 19, "live/inst", "cam?k=a/b"));
        assert_eq!(parse("rtmp://[::1]:19/live?c=1/cam?s=2"), parts("::1", 19, "live?c=1", "cam?s=2"));
        assert_eq!(RtmpUrl::parse("rtmp://u:p@[::1]/live/cam").unwrap().tc_url(), "rtmp://[::1]:1935/live");
        for bad in [
            "http://h/a/b",
            "rtmp://h",
            "rtmp://h/live",
            "rtmp://h/live/",
            "rtmp:///live/x",
            "rtmp://h:0/a/b",
            "rtmp://h:x/a/b",
            "rtmp://h/a/b\r\nc",
            "rtmp://[::1/a/b",
        ] {
            assert!(RtmpUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_is_decoded_and_a_plus_stays() {
        assert_eq!(percent_decoded("cam%201+2&a=%C3%BC"), "cam 1+2&a=ü");
    }

    #[test]
    fn parameters_become_an_object() {
        let (name, parameters) = split_parameters("cam 1?token=a%20b&x&token=c+d");
        assert_eq!((name, parameters.unwrap().to_string().as_str()), ("cam 1", r#"{"token":"c d","x":""}"#));
        assert_eq!((split_parameters("cam"), split_parameters("cam?")), (("cam", None), ("cam", None)));
    }
}
