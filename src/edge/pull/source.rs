//! What a caller gave to pull from, taken apart: where to connect, what to ask for, with which password, and the name that others
//! may see.

use std::net::IpAddr;

use url::{Host, Url};

use super::{PullError, PullKind};
use crate::base::id::StreamName;
use crate::proto::rtmp::url::RtmpUrl;
use crate::proto::rtsp::client::Login;

/// How a source is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// RTSP (RFC 2326) over TCP.
    Rtsp,
    /// The same over TLS.
    Rtsps,
    /// RTMP over TCP.
    Rtmp,
    /// The same over TLS.
    Rtmps,
}

impl Scheme {
    fn new(text: &str) -> Option<Self> {
        match text {
            "rtsp" => Some(Self::Rtsp),
            "rtsps" => Some(Self::Rtsps),
            "rtmp" => Some(Self::Rtmp),
            "rtmps" => Some(Self::Rtmps),
            _ => None,
        }
    }

    /// Where such a source listens when its address does not say (RFC 2326 section 3.2; IANA for `rtsps`).
    fn port(self) -> u16 {
        match self {
            Self::Rtsp => 554,
            Self::Rtsps => 322,
            Self::Rtmp => 1935,
            Self::Rtmps => 443,
        }
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Rtsps | Self::Rtmps)
    }

    /// Whether the source speaks RTMP; RTSP otherwise.
    #[must_use]
    pub fn is_rtmp(self) -> bool {
        matches!(self, Self::Rtmp | Self::Rtmps)
    }
}

/// The text is no address that can be pulled from. It may hold a password, so that it is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no address of a source")]
pub struct BadUri;

/// A source, checked for form alone: whether it may be connected to is the fence's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    scheme: Scheme,
    host: String,
    address: Option<IpAddr>,
    port: u16,
    url: Url,
    name: StreamName,
    login: Option<Login>,
}

/// Whether a stream name is an address to pull from, rather than a name of ours.
#[must_use]
pub fn is_uri(name: &str) -> bool {
    let scheme = name.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    scheme.is_some_and(|scheme| Scheme::new(&scheme).is_some())
}

impl Source {
    /// Takes an address apart (RFC 3986).
    ///
    /// # Errors
    /// When it is none, or of a scheme that is not spoken, without a host, or longer than a stream name may be.
    pub fn parse(text: &str) -> Result<Self, BadUri> {
        // First as a name: no control characters, not too long.
        let name = StreamName::new(text).map_err(|_| BadUri)?;
        let url = Url::parse(text).map_err(|_| BadUri)?;
        let scheme = Scheme::new(url.scheme()).ok_or(BadUri)?;
        let mut source = Self::of_url(scheme, url).ok_or(BadUri)?;
        // Where the text without its password means another place, somebody plays tricks, or a password is not escaped.
        let shown = Url::parse(name.as_str()).ok().and_then(|url| Self::of_url(scheme, url)).ok_or(BadUri)?;
        let same = shown.url == source.url && shown.login.is_none();
        if !same || text.contains('\\') {
            return Err(BadUri);
        }
        // An application and a stream must be there.
        if scheme.is_rtmp() && RtmpUrl::parse(source.url.as_str()).is_err() {
            return Err(BadUri);
        }
        source.name = name;
        Ok(source)
    }

    fn of_url(scheme: Scheme, mut url: Url) -> Option<Self> {
        let decoded = |text: &str| percent_decoded(text);
        let login = match (decoded(url.username())?, url.password()) {
            (user, None) if user.is_empty() => None,
            (user, password) => Some(Login { user, password: decoded(password.unwrap_or_default())? }),
        };
        url.set_username("").ok()?;
        url.set_password(None).ok()?;
        url.set_fragment(None);
        let (host, address) = match url.host()? {
            // Other schemes than those of the web leave the host as it is: names, and addresses of IPv4 alike.
            Host::Domain(name) => (name.to_ascii_lowercase(), name.parse().ok().map(IpAddr::V4)),
            Host::Ipv4(v4) => (v4.to_string(), Some(v4.into())),
            Host::Ipv6(v6) => (v6.to_string(), Some(v6.into())),
        };
        if host.is_empty() || host.contains('%') {
            return None;
        }
        let port = url.port().unwrap_or(scheme.port());
        let name = StreamName::new(url.as_str()).ok()?;
        (port != 0).then_some(Self { scheme, host, address, port, url, name, login })
    }

    /// The source to which this one sends us. The password goes along only to the same host: another one could learn it.
    ///
    /// # Errors
    /// When the address is none, or its protocol is another one.
    pub fn redirected(&self, location: &str) -> Result<Self, BadUri> {
        let target = self.url.join(location).map_err(|_| BadUri)?;
        let mut target = Self::parse(target.as_str())?;
        if target.scheme.is_rtmp() != self.scheme.is_rtmp()
            || (self.scheme.is_tls() && !target.scheme.is_tls())
        {
            return Err(BadUri);
        }
        if target.login.is_none() && target.host == self.host {
            target.login = self.login.clone();
        }
        target.name = self.name.clone();
        Ok(target)
    }

    /// How it is spoken to.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host as it was named, lower case: a name, or an address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host's address, where the host is one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// The port, the scheme's own where none was named.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What to ask the source for: without password and fragment.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The address as the caller spelt it, without password: the stream's name unless another one is wished for.
    #[must_use]
    pub fn name(&self) -> &StreamName {
        &self.name
    }

    /// Which protocol's pull it makes.
    #[must_use]
    pub fn kind(&self) -> PullKind {
        if self.scheme.is_rtmp() { PullKind::Rtmp } else { PullKind::Rtsp }
    }

    /// What the source itself calls the stream: the last part of its path.
    #[must_use]
    pub fn remote_name(&self) -> &str {
        self.url.path().rsplit('/').find(|part| !part.is_empty()).unwrap_or_default()
    }

    /// The error for a source that cannot be reached.
    #[must_use]
    pub fn unreachable(&self) -> PullError {
        match self.kind() {
            PullKind::Rtsp => PullError::RtspConnect,
            PullKind::Rtmp => PullError::RtmpConnect,
        }
    }

    /// The password for it.
    #[must_use]
    pub fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }
}

/// Text whose percent signs stand for bytes (RFC 3986 section 2.1); `None` when the bytes are no UTF-8, or hold a control
/// character, which could break out of a header line.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits
            .filter(|digits| *first == b'%' && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_camera_with_a_password_is_known_by_its_address_alone() {
        let source = Source::parse("rtsp://user:p%40ss%3A%2F@Cam.Example:8554/ch/1?x=y#f").unwrap();
        assert_eq!((source.host(), source.port()), ("cam.example", 8554));
        assert_eq!(source.name().as_str(), "rtsp://Cam.Example:8554/ch/1?x=y#f");
        assert!(source.url().as_str().ends_with(":8554/ch/1?x=y") && !source.url().as_str().contains('@'));
        let login = source.login().unwrap();
        assert_eq!((login.user.as_str(), login.password.as_str()), ("user", "p@ss:/"));
        let shown = format!("{source:?}");
        assert!(!shown.contains("p@ss") && !shown.contains("p%40"), "{shown}");
    }

    #[test]
    fn ports_and_addresses_come_from_the_address_or_the_scheme() {
        for (text, host, address, port) in [
            ("rtsp://10.0.0.1/1", "10.0.0.1", Some("10.0.0.1"), 554),
            ("RTSPS://[::1]/1", "::1", Some("::1"), 322),
            ("rtmp://live.example/app/x", "live.example", None, 1935),
            ("rtmps://live.example:1/app/y", "live.example", None, 1),
            ("rtsp://[::ffff:127.0.0.1]:9", "::ffff:127.0.0.1", Some("::ffff:127.0.0.1"), 9),
            // Not an address by its form; the lookup tells what it means, and the fence judges that.
            ("rtsp://127.1/", "127.1", None, 554),
            ("rtsp://2130706433/", "2130706433", None, 554),
        ] {
            let source = Source::parse(text).unwrap();
            let found = (source.host(), source.address().map(|a| a.to_string()), source.port());
            let address = address.map(|a| a.parse::<IpAddr>().unwrap().to_string());
            assert_eq!(found, (host, address, port), "{text}");
        }
    }

    #[test]
    fn what_is_no_source_is_refused() {
        let long = format!("rtsp://cam/{}", "x".repeat(2000));
        for text in [
            "",
            "cam1",
            "rtsp:",
            "rtsp://",
            "rtsp:///path",
            "rtsp://:554/",
            "rtsp://user@/x",
            "rtsp://cam:0/",
            "rtsp://cam:70000/",
            "rtsp://cam:x/",
            "rtsp://[::1/",
            "rtsp://ca m/",
            "rtsp://a%00b/",
            "rtsp://%31%32%37.0.0.1/",
            "rtsp://u:p%0d%0aX@cam/",
            "rtsp://user:pa/ss@cam/1",
            "rtsp://cam\\@evil/1",
            "rtsp://cam/a\r\nb",
            "http://cam/",
            "rtmp://cam/app",
            "file:///etc/passwd",
            "dov://x.mp4",
            long.as_str(),
        ] {
            assert_eq!(Source::parse(text).err(), Some(BadUri), "{text:?}");
        }
        assert!(is_uri("RTSP://x") && is_uri("rtmps://x") && !is_uri("rtsp") && !is_uri("http://x"));
    }

    #[test]
    fn a_redirect_keeps_the_name_and_gives_the_password_to_nobody_else() {
        let source = Source::parse("rtsp://u:p@cam.example/1").unwrap();
        let same = source.redirected("rtsp://CAM.example:8554/other").unwrap();
        assert_eq!((same.port(), same.name().as_str()), (8554, "rtsp://cam.example/1"));
        assert!(same.login().is_some());
        assert_eq!(source.redirected("/2").unwrap().url().as_str(), "rtsp://cam.example/2");
        assert!(source.redirected("rtsp://evil.example/1").unwrap().login().is_none());
        for location in ["http://cam.example/", "rtmp://cam.example/a", "gopher://x", "rtsp://"] {
            assert!(source.redirected(location).is_err(), "{location}");
        }
        let secure = Source::parse("rtsps://u:p@cam.example/1").unwrap();
        assert!(secure.redirected("rtsp://cam.example/1").is_err(), "in clear, after TLS was asked for");
    }
}
