//! Choosing from an offer, and writing the answer.
//!
//! The answer mirrors the sections of the offer in number and order (RFC 9429 section 5.3.1), takes at most one
//! section of sound and one of pictures, all on one transport (RFC 9143), and names only feedback that this server
//! gives.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::SdpError;
pub use super::codec::KnownCodec;
use super::offer::{Codec, Offer, Section, Setup};
use crate::proto::dtls::Fingerprint;

/// Header extension that carries the orientation of a camera (3GPP TS 26.114 section 7.4.5).
pub const VIDEO_ORIENTATION: &str = "urn:3gpp:video-orientation";
/// Header extension that carries the media identification (RFC 9143 section 15).
pub const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
/// Header extension that carries the time of sending, for bandwidth estimation.
pub const ABS_SEND_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";

/// Header extension that numbers packets across all sources (draft-holmer-rmcat-transport-wide-cc-extensions-01 section 2).
pub const TRANSPORT_WIDE: &str = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";

/// Why no answer can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NegotiationError {
    /// Nothing that is offered can be received with the codecs that are allowed.
    #[error("no common codecs")]
    NoCommonCodecs,
    /// The offer has no section that would send sound or pictures.
    #[error("nothing is sent")]
    NothingSent,
    /// The offer has no section that would receive sound or pictures of the stream.
    #[error("nothing is received")]
    NothingReceived,
    /// What is offered could be sent only in another codec than the stream has.
    #[error("transcoding is needed")]
    TranscodingNeeded,
    /// The offer cannot be used.
    #[error("bad offer: {0}")]
    BadOffer(#[from] SdpError),
    /// No address to be reached at was given.
    #[error("no candidate")]
    NoCandidate,
}

/// What was agreed, section by section, before it is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// User name fragment of the offerer.
    pub remote_ufrag: String,
    /// The offerer's certificate must match one of these.
    pub fingerprints: Vec<Fingerprint>,
    /// The section of pictures that is taken.
    pub video: Option<Accepted>,
    /// The section of sound that is taken.
    pub audio: Option<Accepted>,
}

/// A section that is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Place among the sections of the offer.
    pub index: usize,
    /// The payload type that will be received.
    pub codec: Codec,
    /// Which codec that is.
    pub known: KnownCodec,
    /// Feedback that both sides know.
    pub feedback: Vec<&'static str>,
    /// Header extensions that both sides know.
    pub extensions: Vec<(u8, &'static str)>,
}

/// What the server adds to an answer.
#[derive(Clone, Copy, Debug)]
pub struct Local<'a> {
    /// Session name, `s=`.
    pub session_name: &'a str,
    /// Session identifier, `o=`: below 2^63.
    pub session_id: u64,
    /// Addresses to be reached at, best first; not empty.
    pub candidates: &'a [SocketAddr],
    /// `a=ice-ufrag`.
    pub ice_ufrag: &'a str,
    /// `a=ice-pwd`.
    pub ice_pwd: &'a str,
    /// The certificate that will be shown.
    pub fingerprint: &'a Fingerprint,
    /// With how many kbit/s of video the peer may begin; 0 leaves it to the peer. Understood by Chromium and its kin.
    pub bitrate_start_kbps: u64,
}

impl Negotiated {
    /// Chooses what to receive of a publisher's offer. `codecs` are names in the order of preference; names that
    /// are not known or cannot be received are passed over.
    ///
    /// The first section that sends pictures and the first that sends sound are taken when they are in the bundle;
    /// pictures without a common codec fail the whole, sound without one is left out when there are pictures.
    ///
    /// # Errors
    /// When nothing can be received or no transport would come up.
    pub fn publisher(offer: &Offer, codecs: &[String]) -> Result<Self, NegotiationError> {
        if offer.ice_lite {
            return Err(SdpError::Unsupported("an offerer with ICE-lite").into());
        }
        let known: Vec<KnownCodec> =
            codecs.iter().filter_map(|name| KnownCodec::from_setting(name)).collect();
        let sending = |media: &str| {
            offer.sections.iter().enumerate().find(|(_, section)| section.media == media && usable(section))
        };
        let (video, audio) = (sending("video"), sending("audio"));
        if video.is_none() && audio.is_none() {
            return Err(NegotiationError::NothingSent);
        }
        let mut video_accepted = video.map(|(index, section)| accept(index, section, &known));
        if let Some(None) = video_accepted {
            return Err(NegotiationError::NoCommonCodecs);
        }
        let video_taken = video_accepted.take().flatten();
        let mut audio_taken = audio.and_then(|(index, section)| accept(index, section, &known));
        match &offer.bundle {
            // One transport is all there is, so without a bundle one section is all that can be taken.
            None if video_taken.is_some() => audio_taken = None,
            None => {}
            Some(bundle) => {
                let bundled = |taken: &Accepted| {
                    let mid = offer.sections.get(taken.index).and_then(|section| section.mid.as_ref());
                    mid.is_some_and(|mid| bundle.contains(mid))
                };
                if video_taken.as_ref().is_some_and(|taken| !bundled(taken)) {
                    return Err(SdpError::Unsupported("a section outside the bundle").into());
                }
                audio_taken = audio_taken.filter(bundled);
            }
        }
        if video_taken.is_none() && audio_taken.is_none() {
            return Err(NegotiationError::NoCommonCodecs);
        }
        let taken = [&video_taken, &audio_taken].into_iter().flatten().map(|taken| taken.index);
        let (remote_ufrag, fingerprints) = transport(offer, taken)?;
        Ok(Self { remote_ufrag, fingerprints, video: video_taken, audio: audio_taken })
    }

    /// Writes the answer.
    ///
    /// # Errors
    /// When there is no candidate.
    pub fn answer(&self, offer: &Offer, local: &Local<'_>) -> Result<String, NegotiationError> {
        let first = local.candidates.first().ok_or(NegotiationError::NoCandidate)?;
        let mut text = String::with_capacity(2048);
        // Writing into a string cannot fail.
        let _ = self.write(&mut text, offer, local, *first);
        Ok(text)
    }

    fn taken(&self, index: usize) -> Option<&Accepted> {
        [&self.video, &self.audio].into_iter().flatten().find(|taken| taken.index == index)
    }

    fn write(
        &self,
        text: &mut String,
        offer: &Offer,
        local: &Local<'_>,
        first: SocketAddr,
    ) -> std::fmt::Result {
        write_session(text, offer, local, first, |index| {
            self.taken(index).is_some() || anchors(offer, index)
        })?;
        for (index, section) in offer.sections.iter().enumerate() {
            match self.taken(index) {
                Some(taken) => write_taken(text, section, taken, local, first)?,
                None if anchors(offer, index) => write_idle(text, section, local, first)?,
                None => write_refused(text, section)?,
            }
        }
        Ok(())
    }
}

/// Whether media would come over this section in a form that can be received.
fn usable(section: &Section) -> bool {
    section.sends() && section.is_rtp() && section.rtcp_mux
}

fn accept(index: usize, section: &Section, known: &[KnownCodec]) -> Option<Accepted> {
    known.iter().filter(|known| known.media() == section.media).find_map(|known| {
        let ranked = section.codecs.iter().filter_map(|codec| Some((known.rank(codec)?, codec)));
        let (_, codec) = ranked.min_by_key(|(rank, _)| *rank)?;
        Some(Accepted {
            index,
            codec: codec.clone(),
            known: *known,
            feedback: known.feedback().iter().copied().filter(|kind| codec.offers_feedback(kind)).collect(),
            extensions: known
                .extensions()
                .iter()
                .filter_map(|uri| Some((section.extension(uri)?, *uri)))
                .collect(),
        })
    })
}

/// User name fragment and fingerprints of the bundle: from the sections that are taken, or from another one of the
/// bundle where a `bundle-only` section leaves them out (RFC 9143 section 7.1.3).
pub(super) fn transport(
    offer: &Offer,
    taken: impl Iterator<Item = usize>,
) -> Result<(String, Vec<Fingerprint>), SdpError> {
    let in_bundle = offer.sections.iter().filter(|section| {
        let bundle = offer.bundle.as_deref().unwrap_or_default();
        section.mid.as_ref().is_some_and(|mid| bundle.contains(mid))
    });
    let mut missing = SdpError::Missing("a=ice-ufrag");
    for section in taken.filter_map(|index| offer.sections.get(index)).chain(in_bundle) {
        // RFC 8839 section 5.4: 4 to 256 characters; passwords 22 to 256.
        let Some(ufrag) = section.ice_ufrag.as_ref().filter(|text| (4..=256).contains(&text.len())) else {
            continue;
        };
        if section.ice_pwd.is_none() {
            missing = SdpError::Missing("a=ice-pwd");
            continue;
        }
        if section.fingerprints.is_empty() {
            missing = SdpError::Missing("a=fingerprint with sha-256, sha-384 or sha-512");
            continue;
        }
        if section.setup == Some(Setup::Passive) {
            return Err(SdpError::Unsupported("a=setup:passive in an offer"));
        }
        return Ok((ufrag.clone(), section.fingerprints.clone()));
    }
    Err(missing)
}

fn connection(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("IN IP4 {address}"),
        IpAddr::V6(address) => format!("IN IP6 {address}"),
    }
}

/// The lines before the first section. `taken` tells which sections are in the bundle of the answer.
pub(super) fn write_session(
    text: &mut String,
    offer: &Offer,
    local: &Local<'_>,
    first: SocketAddr,
    taken: impl Fn(usize) -> bool,
) -> std::fmt::Result {
    let address = connection(first.ip());
    let name: String = local.session_name.chars().filter(|c| !c.is_control()).collect();
    let name = if name.is_empty() { "-" } else { &name };
    write!(text, "v=0\r\no=- {} 1 {address}\r\ns={name}\r\nc={address}\r\n", local.session_id)?;
    text.push_str("t=0 0\r\n");
    if offer.bundle.is_some() {
        text.push_str("a=group:BUNDLE");
        for (index, section) in offer.sections.iter().enumerate() {
            if let (true, Some(mid)) = (taken(index), &section.mid) {
                write!(text, " {mid}")?;
            }
        }
        text.push_str("\r\n");
    }
    text.push_str("a=ice-lite\r\n");
    Ok(())
}

/// What a section that is taken says of itself and of the transport. `direction` is seen from us.
pub(super) fn write_transport(
    text: &mut String,
    section: &Section,
    local: &Local<'_>,
    direction: &str,
) -> std::fmt::Result {
    if let Some(mid) = &section.mid {
        write!(text, "a=mid:{mid}\r\n")?;
    }
    write!(text, "a={direction}\r\na=rtcp-mux\r\n")?;
    if section.rtcp_rsize {
        text.push_str("a=rtcp-rsize\r\n");
    }
    write!(text, "a=ice-ufrag:{}\r\na=ice-pwd:{}\r\n", local.ice_ufrag, local.ice_pwd)?;
    write!(text, "a=fingerprint:{}\r\na=setup:passive\r\n", local.fingerprint)?;
    for (index, candidate) in local.candidates.iter().enumerate() {
        // RFC 8445 section 5.1.2.1 with type preference 126 (host), component 1; earlier ones are preferred.
        let preference = 65_535_u32.saturating_sub(u32::try_from(index).unwrap_or(u32::MAX));
        let priority = (126 << 24) + (preference << 8) + 255;
        let (foundation, ip, port) = (index + 1, candidate.ip(), candidate.port());
        write!(text, "a=candidate:{foundation} 1 udp {priority} {ip} {port} typ host\r\n")?;
    }
    text.push_str("a=end-of-candidates\r\n");
    Ok(())
}

fn write_taken(
    text: &mut String,
    section: &Section,
    taken: &Accepted,
    local: &Local<'_>,
    first: SocketAddr,
) -> std::fmt::Result {
    let number = taken.codec.payload_type;
    write!(text, "m={} {} {} {number}\r\n", section.media, first.port(), section.protocol)?;
    write_transport(text, section, local, "recvonly")?;
    write_rtpmap(text, &taken.codec, taken.known.name())?;
    let parameters = taken.known.parameters(&taken.codec, local.bitrate_start_kbps);
    if !parameters.is_empty() {
        write!(text, "a=fmtp:{number} {}\r\n", parameters.join(";"))?;
    }
    for kind in &taken.feedback {
        write!(text, "a=rtcp-fb:{number} {kind}\r\n")?;
    }
    for (id, uri) in &taken.extensions {
        write!(text, "a=extmap:{id} {uri}\r\n")?;
    }
    Ok(())
}

/// Whether the bundle hangs on this section, so that it cannot be refused: the first one, of which Chromium makes the only
/// transport when a page asks for `max-bundle`. It then fails on an answer without it.
pub(super) fn anchors(offer: &Offer, index: usize) -> bool {
    let first = offer.bundle.as_ref().and_then(|bundle| bundle.first());
    offer.sections.get(index).is_some_and(|section| {
        let is_first = first.is_some() && section.mid.as_ref() == first;
        is_first && section.port != 0 && section.is_rtp() && section.rtcp_mux && !section.codecs.is_empty()
    })
}

/// A section that carries the transport of others, and no media of its own.
pub(super) fn write_idle(
    text: &mut String,
    section: &Section,
    local: &Local<'_>,
    first: SocketAddr,
) -> std::fmt::Result {
    let Some(codec) = section.codecs.first() else { return write_refused(text, section) };
    write!(text, "m={} {} {} {}\r\n", section.media, first.port(), section.protocol, codec.payload_type)?;
    write_transport(text, section, local, "inactive")?;
    write_rtpmap(text, codec, &codec.name)
}

/// What a payload type means; `name` as we spell it.
pub(super) fn write_rtpmap(text: &mut String, codec: &Codec, name: &str) -> std::fmt::Result {
    write!(text, "a=rtpmap:{} {name}/{}", codec.payload_type, codec.clock_rate)?;
    if codec.channels > 1 {
        write!(text, "/{}", codec.channels)?;
    }
    text.push_str("\r\n");
    Ok(())
}

/// A section that is not taken keeps its place with port 0 (RFC 3264 section 6).
pub(super) fn write_refused(text: &mut String, section: &Section) -> std::fmt::Result {
    let format = section.formats.first().map_or("0", String::as_str);
    write!(text, "m={} 0 {} {format}\r\n", section.media, section.protocol)?;
    if let Some(mid) = &section.mid {
        write!(text, "a=mid:{mid}\r\n")?;
    }
    text.push_str("a=inactive\r\n");
    Ok(())
}
