//! Reading an offer: tolerant of what browsers, page scripts and the old client library make of it, and bounded.
//!
//! Unknown lines are passed over. A line that is damaged counts as absent, except `m=` lines, whose number and order
//! an answer must mirror.

use std::collections::HashSet;

use super::{
    EXTENSIONS_MAX, FINGERPRINTS_MAX, FORMATS_MAX, LINE_MAX_BYTES, OFFER_MAX_BYTES, OFFER_MAX_LINES,
    SECTIONS_MAX, SSRCS_MAX, SdpError,
};
use crate::proto::dtls::Fingerprint;

/// An offer, as far as an answer depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Media identifications of the first `a=group:BUNDLE` (RFC 9143); `None` without one.
    pub bundle: Option<Vec<String>>,
    /// `a=ice-lite`: the other side answers connectivity checks only (RFC 8839 section 5.3).
    pub ice_lite: bool,
    /// The sections, in order.
    pub sections: Vec<Section>,
}

/// One `m=` line with its attributes. Attributes of the session that a section does not repeat are filled in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// `audio`, `video`, `application`, …
    pub media: String,
    /// The port; 0 is a section that is not wanted, unless `bundle_only`.
    pub port: u16,
    /// For example `UDP/TLS/RTP/SAVPF`.
    pub protocol: String,
    /// Formats as written: payload types for RTP.
    pub formats: Vec<String>,
    /// `a=mid` (RFC 5888).
    pub mid: Option<String>,
    /// `a=bundle-only` (RFC 9143 section 6).
    pub bundle_only: bool,
    /// Which way media goes, seen from the offerer.
    pub direction: Direction,
    /// `a=ice-ufrag` (RFC 8839 section 5.4).
    pub ice_ufrag: Option<String>,
    /// `a=ice-pwd`.
    pub ice_pwd: Option<String>,
    /// `a=fingerprint` lines with a hash that we accept (RFC 8122).
    pub fingerprints: Vec<Fingerprint>,
    /// `a=setup` (RFC 4145 section 4).
    pub setup: Option<Setup>,
    /// `a=rtcp-mux` (RFC 5761).
    pub rtcp_mux: bool,
    /// `a=rtcp-rsize` (RFC 5506).
    pub rtcp_rsize: bool,
    /// Payload types that the `m=` line names and an `a=rtpmap` explains, in the order of the `m=` line.
    pub codecs: Vec<Codec>,
    /// `a=extmap` lines (RFC 8285 section 5).
    pub extensions: Vec<HeaderExtension>,
    /// Sources of media: `a=ssrc` without those that only repair others (`FID`, `FEC-FR` groups).
    pub ssrcs: Vec<u32>,
}

/// Which way media goes (RFC 8866 section 6.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Both ways; what holds when nothing is said.
    #[default]
    SendRecv,
    /// From the offerer.
    SendOnly,
    /// To the offerer.
    RecvOnly,
    /// Neither.
    Inactive,
}

/// Who opens the DTLS connection (RFC 4145 section 4, RFC 5763 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// The offerer is the client.
    Active,
    /// The offerer is the server.
    Passive,
    /// The answerer chooses.
    ActPass,
}

/// One payload type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Codec {
    /// Payload type, 0–127.
    pub payload_type: u8,
    /// Encoding name, as written.
    pub name: String,
    /// Ticks a second of its RTP clock.
    pub clock_rate: u32,
    /// Channels; 1 where unsaid.
    pub channels: u8,
    /// Text of its `a=fmtp`, empty without one.
    pub format: String,
    /// Its `a=rtcp-fb` values, those for `*` included (RFC 4585 section 4.2).
    pub feedback: Vec<String>,
}

/// One `a=extmap`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderExtension {
    /// Identifier in packets.
    pub id: u8,
    /// What it is.
    pub uri: String,
}

impl Codec {
    /// A format parameter, name compared without case; `None` where it is not said.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.format.split(';').find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Whether this kind of feedback was offered.
    #[must_use]
    pub fn offers_feedback(&self, kind: &str) -> bool {
        self.feedback.iter().any(|offered| offered.eq_ignore_ascii_case(kind))
    }
}

impl Section {
    /// Whether the offerer would send media here.
    #[must_use]
    pub fn sends(&self) -> bool {
        matches!(self.direction, Direction::SendOnly | Direction::SendRecv)
            && (self.port != 0 || self.bundle_only)
    }

    /// Whether the offerer would take media here.
    #[must_use]
    pub fn receives(&self) -> bool {
        matches!(self.direction, Direction::RecvOnly | Direction::SendRecv)
            && (self.port != 0 || self.bundle_only)
    }

    /// Whether this is media over RTP with DTLS keys.
    #[must_use]
    pub fn is_rtp(&self) -> bool {
        matches!(self.protocol.as_str(), "UDP/TLS/RTP/SAVPF" | "UDP/TLS/RTP/SAVP" | "RTP/SAVPF" | "RTP/SAVP")
    }

    /// The identifier of a header extension, when it fits the one-byte form (RFC 8285 section 4.2).
    #[must_use]
    pub fn extension(&self, uri: &str) -> Option<u8> {
        let found = self.extensions.iter().find(|extension| extension.uri == uri)?;
        (1..=14).contains(&found.id).then_some(found.id)
    }
}

impl Offer {
    /// Reads an offer.
    ///
    /// # Errors
    /// When it is no session description, or larger than the bounds of [`super`] in any respect.
    pub fn parse(text: &str) -> Result<Self, SdpError> {
        if text.len() > OFFER_MAX_BYTES {
            return Err(SdpError::TooLong(text.len()));
        }
        let mut reader = Reader::default();
        for (index, line) in text.split(['\n', '\r']).filter(|line| !line.is_empty()).enumerate() {
            if index >= OFFER_MAX_LINES {
                return Err(SdpError::TooManyLines);
            }
            if line.len() > LINE_MAX_BYTES {
                return Err(SdpError::LineTooLong { line: index + 1 });
            }
            if index == 0 && line.trim() != "v=0" {
                return Err(SdpError::NotSdp);
            }
            reader.line(index + 1, line)?;
        }
        reader.finish()
    }
}

/// A section while it is read: lines about one payload type may come in any order.
#[derive(Debug, Default)]
struct Draft {
    section: Section,
    direction: Option<Direction>,
    rtpmaps: Vec<(u8, String)>,
    formats: Vec<(u8, String)>,
    feedback: Vec<(Option<u8>, String)>,
    /// Sources that repair others.
    repair: HashSet<u32>,
}

#[derive(Debug, Default)]
struct Reader {
    bundle: Option<Vec<String>>,
    ice_lite: bool,
    session: Draft,
    drafts: Vec<Draft>,
}

impl Reader {
    fn line(&mut self, number: usize, line: &str) -> Result<(), SdpError> {
        if let Some(media) = line.strip_prefix("m=") {
            if self.drafts.len() >= SECTIONS_MAX {
                return Err(SdpError::TooMany { what: "media sections", max: SECTIONS_MAX });
            }
            let section = media_line(media, number)?;
            self.drafts.push(Draft { section, ..Draft::default() });
            return Ok(());
        }
        let Some(attribute) = line.strip_prefix("a=") else { return Ok(()) };
        let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
        let (name, value) = (name.trim(), value.trim());
        match (name, self.drafts.last_mut()) {
            ("group", None) => {
                let mut words = value.split_whitespace();
                if words.next() == Some("BUNDLE") && self.bundle.is_none() {
                    self.bundle = Some(words.take(SECTIONS_MAX).map(str::to_owned).collect());
                }
                Ok(())
            }
            ("ice-lite", _) => {
                self.ice_lite = true;
                Ok(())
            }
            (_, None) => self.session.attribute(name, value),
            (_, Some(draft)) => draft.attribute(name, value),
        }
    }

    fn finish(self) -> Result<Offer, SdpError> {
        if self.drafts.is_empty() {
            return Err(SdpError::NoMedia);
        }
        let session = self.session;
        let sections = self.drafts.into_iter().map(|draft| draft.finish(&session)).collect();
        Ok(Offer { bundle: self.bundle, ice_lite: self.ice_lite, sections })
    }
}

/// `m=<media> <port>[/<number>] <protocol> <format> …` (RFC 8866 section 5.14).
fn media_line(text: &str, line: usize) -> Result<Section, SdpError> {
    let bad = SdpError::BadMedia { line };
    let mut words = text.split_whitespace();
    let media = words.next().ok_or(bad)?;
    let port = words.next().ok_or(bad)?;
    let port = port.split_once('/').map_or(port, |(first, _)| first).parse().map_err(|_| bad)?;
    let protocol = words.next().ok_or(bad)?;
    let formats: Vec<String> = words.by_ref().take(FORMATS_MAX).map(str::to_owned).collect();
    if words.next().is_some() {
        return Err(SdpError::TooMany { what: "formats in a media section", max: FORMATS_MAX });
    }
    Ok(Section { media: media.into(), port, protocol: protocol.into(), formats, ..Section::default() })
}

/// Adds to a list that has a bound.
fn push<T>(list: &mut Vec<T>, item: T, max: usize, what: &'static str) -> Result<(), SdpError> {
    if list.len() >= max {
        return Err(SdpError::TooMany { what, max });
    }
    list.push(item);
    Ok(())
}

/// Splits `<payload type> <rest>`; payload types have 7 bits.
fn payload_type(value: &str) -> Option<(u8, &str)> {
    let (number, rest) = value.split_once(char::is_whitespace)?;
    let number = number.parse().ok().filter(|number| *number <= 127)?;
    Some((number, rest.trim()))
}

impl Draft {
    fn attribute(&mut self, name: &str, value: &str) -> Result<(), SdpError> {
        let section = &mut self.section;
        match name {
            "mid" if is_token(value) => section.mid = Some(value.to_owned()),
            "ice-ufrag" => section.ice_ufrag = Some(value.to_owned()),
            "ice-pwd" => section.ice_pwd = Some(value.to_owned()),
            "fingerprint" => {
                if let Some(fingerprint) = Fingerprint::parse(value) {
                    push(&mut section.fingerprints, fingerprint, FINGERPRINTS_MAX, "fingerprints")?;
                }
            }
            "setup" => {
                section.setup = match value {
                    "active" => Some(Setup::Active),
                    "passive" => Some(Setup::Passive),
                    "actpass" => Some(Setup::ActPass),
                    _ => None,
                }
            }
            "rtcp-mux" => section.rtcp_mux = true,
            "rtcp-rsize" => section.rtcp_rsize = true,
            "bundle-only" => section.bundle_only = true,
            "sendrecv" => self.direction = Some(Direction::SendRecv),
            "sendonly" => self.direction = Some(Direction::SendOnly),
            "recvonly" => self.direction = Some(Direction::RecvOnly),
            "inactive" => self.direction = Some(Direction::Inactive),
            "extmap" => self.extension(value)?,
            "ssrc" => self.source(value)?,
            "ssrc-group" => self.source_group(value),
            // Bounded by the number of lines.
            "rtpmap" => self.rtpmaps.extend(payload_type(value).map(|(number, rest)| (number, rest.into()))),
            "fmtp" => self.formats.extend(payload_type(value).map(|(number, rest)| (number, rest.into()))),
            "rtcp-fb" => match value.strip_prefix("* ") {
                Some(rest) => self.feedback.push((None, rest.trim().into())),
                None => self
                    .feedback
                    .extend(payload_type(value).map(|(number, rest)| (Some(number), rest.into()))),
            },
            _ => {}
        }
        Ok(())
    }

    /// `<id>[/<direction>] <uri> …`
    fn extension(&mut self, value: &str) -> Result<(), SdpError> {
        let mut words = value.split_whitespace();
        let (Some(id), Some(uri)) = (words.next(), words.next()) else { return Ok(()) };
        let id = id.split_once('/').map_or(id, |(id, _)| id);
        let Ok(id) = id.parse() else { return Ok(()) };
        let extension = HeaderExtension { id, uri: uri.to_owned() };
        push(&mut self.section.extensions, extension, EXTENSIONS_MAX, "header extensions")
    }

    /// `<ssrc> <attribute>…`: several lines may name one source.
    fn source(&mut self, value: &str) -> Result<(), SdpError> {
        let Some(Ok(ssrc)) = value.split_whitespace().next().map(str::parse) else { return Ok(()) };
        if self.section.ssrcs.contains(&ssrc) {
            return Ok(());
        }
        push(&mut self.section.ssrcs, ssrc, SSRCS_MAX, "sources")
    }

    /// `<semantics> <ssrc> <ssrc>…`: all but the first of `FID` (RFC 4588) and `FEC-FR` (RFC 5956) repair it.
    fn source_group(&mut self, value: &str) {
        let mut words = value.split_whitespace();
        if matches!(words.next(), Some("FID" | "FEC-FR")) {
            self.repair.extend(words.skip(1).take(SSRCS_MAX).filter_map(|word| word.parse::<u32>().ok()));
        }
    }

    fn finish(self, session: &Self) -> Section {
        let Self { mut section, direction, rtpmaps, formats, feedback, repair } = self;
        section.direction = direction.or(session.direction).unwrap_or_default();
        section.ice_ufrag = section.ice_ufrag.or_else(|| session.section.ice_ufrag.clone());
        section.ice_pwd = section.ice_pwd.or_else(|| session.section.ice_pwd.clone());
        section.setup = section.setup.or(session.section.setup);
        if section.fingerprints.is_empty() {
            section.fingerprints.clone_from(&session.section.fingerprints);
        }
        section.ssrcs.retain(|ssrc| !repair.contains(ssrc));
        let numbers = section.formats.iter().filter_map(|format| format.parse::<u8>().ok());
        section.codecs = numbers
            .filter_map(|number| {
                let (_, map) = rtpmaps.iter().find(|(mapped, _)| *mapped == number)?;
                let mut parts = map.split('/');
                let name = parts.next().filter(|name| !name.is_empty())?.to_owned();
                let clock_rate = parts.next()?.trim().parse().ok()?;
                let channels = parts.next().map_or(Some(1), |channels| channels.trim().parse().ok())?;
                let format = formats.iter().find(|(of, _)| *of == number);
                let feedback = feedback.iter().filter(|(of, _)| of.is_none_or(|of| of == number));
                Some(Codec {
                    payload_type: number,
                    name,
                    clock_rate,
                    channels,
                    format: format.map(|(_, text)| text.clone()).unwrap_or_default(),
                    feedback: feedback.map(|(_, kind)| kind.clone()).collect(),
                })
            })
            .collect();
        section
    }
}

/// Whether text may be echoed into an answer as a token (RFC 8866 section 9): no separators, 32 bytes at most.
fn is_token(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]".contains(&byte);
    !text.is_empty() && text.len() <= 32 && text.bytes().all(allowed)
}
