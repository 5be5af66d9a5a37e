//! Choosing from a viewer's offer, and writing the answer: the server sends.
//!
//! The stream says in which codecs it can be sent, and the offer under which number.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::SdpError;
use super::answer::{
    ABS_SEND_TIME, Local, MID, NegotiationError, TRANSPORT_WIDE, VIDEO_ORIENTATION, anchors, transport,
    write_idle, write_refused, write_rtpmap, write_session, write_transport,
};
use super::offer::{Codec, Offer, Section};
use crate::media::track::VideoCodec;
use crate::proto::dtls::Fingerprint;

/// Feedback that the sender understands, as `a=rtcp-fb` spells it.
const VIDEO_FEEDBACK: [&str; 4] = ["nack", "nack pli", "ccm fir", "goog-remb"];
/// Feedback about arrival, for viewers that do not estimate by themselves (`goog-remb`) what their network carries.
const TRANSPORT_FEEDBACK: &str = "transport-cc";
/// Longest identifier in `a=msid` (RFC 8830 section 2).
const MSID_MAX_BYTES: usize = 64;

/// What of a stream can be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sendable {
    /// Its pictures; `None` without.
    pub video: Option<SendableVideo>,
    /// Forms in which its sound can be sent, best first; empty without sound.
    pub audio: Vec<SendableAudio>,
}

/// Pictures that can be sent over RTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendableVideo {
    /// RFC 6184.
    H264 {
        /// What its SPS says; `None` while none came: taken for constrained baseline, which all encoders of browsers make.
        profile: Option<H264Profile>,
    },
    /// RFC 7741.
    Vp8,
}

/// Sound that can be sent over RTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendableAudio {
    /// RFC 7587.
    Opus,
    /// G.711 with A-law (RFC 3551).
    Pcma,
    /// G.711 with µ-law (RFC 3551).
    Pcmu,
}

/// Profile and level as the SPS has them (H.264 7.3.2.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct H264Profile {
    /// `profile_idc`.
    pub idc: u8,
    /// The `constraint_set` flags and the reserved bits behind them.
    pub constraints: u8,
    /// `level_idc`.
    pub level: u8,
}

impl H264Profile {
    /// Reads the beginning of an SPS without start code; `None` when it is too short.
    #[must_use]
    pub fn of_sps(sps: &[u8]) -> Option<Self> {
        let &[_, idc, constraints, level] = sps.first_chunk::<4>()?;
        Some(Self { idc, constraints, level })
    }
}

impl SendableVideo {
    /// Of the track of this codec.
    #[must_use]
    pub fn of(codec: &VideoCodec) -> Self {
        match codec.h264_sets() {
            Some((sps, _)) => Self::H264 { profile: sps.first().and_then(|sps| H264Profile::of_sps(sps)) },
            None => Self::Vp8,
        }
    }

    /// The name in `a=rtpmap` and in status messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::H264 { .. } => "H264",
            Self::Vp8 => "VP8",
        }
    }

    /// How well an offered payload type suits: lower is better, `None` where it is another codec.
    fn rank(self, codec: &Codec) -> Option<u8> {
        if !codec.name.eq_ignore_ascii_case(self.name()) || codec.clock_rate != 90_000 {
            return None;
        }
        match self {
            Self::Vp8 => Some(0),
            Self::H264 { profile } => {
                let mode = match codec.parameter("packetization-mode").unwrap_or("0") {
                    "1" => 0,
                    // Large NAL units cannot be sent in mode 0 (RFC 6184 section 6.2). Browsers take fragments in it all
                    // the same, and offers that page scripts have damaged say nothing else.
                    "0" => 100,
                    _ => return None,
                };
                let offered = codec.parameter("profile-level-id");
                let offered = match offered {
                    None => CONSTRAINED_BASELINE,
                    Some(text) => {
                        let value = u32::from_str_radix(text, 16).ok().filter(|_| text.len() == 6)?;
                        let [_, idc, constraints, level] = value.to_be_bytes();
                        H264Profile { idc, constraints, level }
                    }
                };
                Some(mode + profile_rank(profile.unwrap_or(CONSTRAINED_BASELINE), offered)?)
            }
        }
    }
}

/// RFC 6184 section 8.1: what holds where nothing is said.
const CONSTRAINED_BASELINE: H264Profile = H264Profile { idc: 66, constraints: 0xE0, level: 31 };

/// How much a profile can do, among those of 4:2:0 with 8 bits (H.264 annex A.2).
fn reach(profile: H264Profile) -> Option<u8> {
    let constrained = profile.constraints & 0x40 != 0;
    match profile.idc {
        66 if constrained => Some(0),
        66 => Some(1),
        77 => Some(2),
        100 => Some(3),
        _ => None,
    }
}

/// The same profile first, then the next one that holds it. A profile that does not hold the stream's is taken when nothing
/// better is offered: browsers offer what they are obliged to and decode more, and the alternative is no picture.
/// High 4:4:4 Predictive (244) decodes all of them (H.264 A.2.7).
fn profile_rank(stream: H264Profile, offered: H264Profile) -> Option<u8> {
    if stream.idc == offered.idc && reach(stream) == reach(offered) {
        return Some(0);
    }
    let stream = reach(stream)?;
    match reach(offered) {
        Some(offered) if offered >= stream => Some(offered - stream),
        Some(offered) => Some(20 + stream - offered),
        None => (offered.idc == 244).then_some(10),
    }
}

impl SendableAudio {
    /// The form in which sound of this codec can be sent as it is; `None` for what no browser takes (AAC). The name is that of
    /// status messages ("opus").
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Opus, Self::Pcma, Self::Pcmu].into_iter().find(|form| form.name() == name)
    }

    /// The name in `a=rtpmap`.
    fn encoding(self) -> &'static str {
        match self {
            Self::Opus => "opus",
            Self::Pcma => "PCMA",
            Self::Pcmu => "PCMU",
        }
    }

    /// The name in status messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Opus => "opus",
            Self::Pcma => "alaw",
            Self::Pcmu => "ulaw",
        }
    }

    fn suits(self, codec: &Codec) -> bool {
        let form = match self {
            Self::Opus => (48_000, 2),
            Self::Pcma | Self::Pcmu => (8000, 1),
        };
        codec.name.eq_ignore_ascii_case(self.encoding()) && (codec.clock_rate, codec.channels) == form
    }
}

/// A section that is taken, and how it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Place among the sections of the offer.
    pub index: usize,
    /// The payload type to send.
    pub codec: Codec,
    /// Payload type of repeated packets (RFC 4588); `None` where they are repeated as they were.
    pub rtx: Option<u8>,
    /// Feedback that both sides know.
    pub feedback: Vec<&'static str>,
    /// Header extensions that both sides know.
    pub extensions: Vec<(u8, &'static str)>,
}

impl Sent {
    /// The identifier of a header extension.
    #[must_use]
    pub fn extension(&self, uri: &str) -> Option<u8> {
        self.extensions.iter().find(|(_, known)| *known == uri).map(|(id, _)| *id)
    }

    /// Whether this kind of feedback was agreed on.
    #[must_use]
    pub fn agreed(&self, kind: &str) -> bool {
        self.feedback.contains(&kind)
    }
}

/// What was agreed with a viewer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewerNegotiated {
    /// User name fragment of the offerer.
    pub remote_ufrag: String,
    /// The offerer's certificate must match one of these.
    pub fingerprints: Vec<Fingerprint>,
    /// The section of pictures that is taken.
    pub video: Option<Sent>,
    /// The section of sound that is taken.
    pub audio: Option<Sent>,
    /// In which form.
    pub audio_form: Option<SendableAudio>,
}

/// The sources of one section as the answer names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Media.
    pub ssrc: u32,
    /// Repeated packets, where the section has a payload type for them.
    pub rtx: u32,
}

/// What the answer says of the sender.
#[derive(Clone, Copy, Debug)]
pub struct SenderLines<'a> {
    /// The stream's name: identifier of the one `MediaStream` that holds both tracks. What cannot stand there is left out.
    pub stream: &'a str,
    /// Canonical name of all sources.
    pub cname: &'a str,
    /// Of pictures.
    pub video: Sources,
    /// Of sound.
    pub audio: Sources,
}

impl ViewerNegotiated {
    /// Chooses how to send a stream to a viewer: its pictures in the first section that takes pictures, likewise its sound.
    ///
    /// Pictures that the stream has and the viewer asks for must come through, or the whole fails; sound without a common
    /// codec is left out when there are pictures. Sections for which there is nothing to send are refused, since a
    /// browser that waits for pictures plays no sound either.
    ///
    /// # Errors
    /// When nothing can be sent or no transport would come up.
    pub fn new(offer: &Offer, stream: &Sendable) -> Result<Self, NegotiationError> {
        if offer.ice_lite {
            return Err(SdpError::Unsupported("an offerer with ICE-lite").into());
        }
        let receiving = |media: &str| {
            let mut sections = offer.sections.iter().enumerate();
            sections.find(|(_, section)| {
                section.media == media && section.receives() && section.is_rtp() && section.rtcp_mux
            })
        };
        let video = stream.video.and_then(|video| Some((video, receiving("video")?)));
        let audio = receiving("audio").filter(|_| !stream.audio.is_empty());
        let mut video_taken = None;
        if let Some((sendable, (index, section))) = video {
            let taken = take_video(index, section, sendable);
            video_taken = Some(taken.ok_or_else(|| without_common(section))?);
        }
        let mut audio_taken = audio.and_then(|(index, section)| take_audio(index, section, &stream.audio));
        match &offer.bundle {
            // One transport is all there is, so without a bundle one section is all that can be taken.
            None if video_taken.is_some() => audio_taken = None,
            None => {}
            Some(bundle) => {
                let bundled = |taken: &Sent| -> bool {
                    let mid = offer.sections.get(taken.index).and_then(|section| section.mid.as_ref());
                    mid.is_some_and(|mid| bundle.contains(mid))
                };
                if video_taken.as_ref().is_some_and(|taken| !bundled(taken)) {
                    return Err(SdpError::Unsupported("a section outside the bundle").into());
                }
                audio_taken = audio_taken.filter(|(_, taken)| bundled(taken));
            }
        }
        if video_taken.is_none() && audio_taken.is_none() {
            // Sound was wanted and is there, only not in a codec that the viewer has.
            return Err(match audio {
                Some(_) => NegotiationError::TranscodingNeeded,
                None => NegotiationError::NothingReceived,
            });
        }
        let (audio_form, audio_taken) = audio_taken.unzip();
        let taken = [&video_taken, &audio_taken].into_iter().flatten().map(|taken| taken.index);
        let (remote_ufrag, fingerprints) = transport(offer, taken)?;
        Ok(Self { remote_ufrag, fingerprints, video: video_taken, audio: audio_taken, audio_form })
    }

    fn taken(&self, index: usize) -> Option<&Sent> {
        [&self.video, &self.audio].into_iter().flatten().find(|taken| taken.index == index)
    }

    /// Writes the answer.
    ///
    /// # Errors
    /// When there is no candidate.
    pub fn answer(
        &self,
        offer: &Offer,
        local: &Local<'_>,
        sender: &SenderLines<'_>,
    ) -> Result<String, NegotiationError> {
        let first = local.candidates.first().ok_or(NegotiationError::NoCandidate)?;
        let mut text = String::with_capacity(2048);
        // Writing into a string cannot fail.
        let _ = self.write(&mut text, offer, local, sender, *first);
        Ok(text)
    }

    fn write(
        &self,
        text: &mut String,
        offer: &Offer,
        local: &Local<'_>,
        sender: &SenderLines<'_>,
        first: SocketAddr,
    ) -> std::fmt::Result {
        write_session(text, offer, local, first, |index| {
            self.taken(index).is_some() || anchors(offer, index)
        })?;
        for (index, section) in offer.sections.iter().enumerate() {
            match self.taken(index) {
                Some(sent) => write_sent(text, section, sent, local, sender, first)?,
                None if anchors(offer, index) => write_idle(text, section, local, first)?,
                None => write_refused(text, section)?,
            }
        }
        Ok(())
    }
}

/// A viewer that has another codec of ours could be served by transcoding; one that has none could not.
fn without_common(section: &Section) -> NegotiationError {
    let known = ["H264", "VP8"];
    let has_known =
        section.codecs.iter().any(|codec| known.iter().any(|name| codec.name.eq_ignore_ascii_case(name)));
    if has_known { NegotiationError::TranscodingNeeded } else { NegotiationError::NoCommonCodecs }
}

fn take_video(index: usize, section: &Section, video: SendableVideo) -> Option<Sent> {
    let ranked = section.codecs.iter().filter_map(|codec| Some((video.rank(codec)?, codec)));
    let (_, codec) = ranked.min_by_key(|(rank, _)| *rank)?;
    let mut feedback: Vec<_> =
        VIDEO_FEEDBACK.iter().copied().filter(|kind| codec.offers_feedback(kind)).collect();
    let mut known = vec![MID, ABS_SEND_TIME, VIDEO_ORIENTATION];
    if !feedback.contains(&"goog-remb")
        && codec.offers_feedback(TRANSPORT_FEEDBACK)
        && section.extension(TRANSPORT_WIDE).is_some()
    {
        feedback.push(TRANSPORT_FEEDBACK);
        known.push(TRANSPORT_WIDE);
    }
    let apt = codec.payload_type.to_string();
    let rtx = section
        .codecs
        .iter()
        .find(|other| other.name.eq_ignore_ascii_case("rtx") && other.parameter("apt") == Some(apt.as_str()));
    Some(Sent {
        index,
        codec: codec.clone(),
        // Without NACK nobody would ask for a repetition.
        rtx: rtx.filter(|_| feedback.contains(&"nack")).map(|rtx| rtx.payload_type),
        feedback,
        extensions: extensions(section, &known),
    })
}

fn take_audio(index: usize, section: &Section, forms: &[SendableAudio]) -> Option<(SendableAudio, Sent)> {
    forms.iter().find_map(|form| {
        let codec = section.codecs.iter().find(|codec| form.suits(codec))?.clone();
        let extensions = extensions(section, &[MID, ABS_SEND_TIME]);
        Some((*form, Sent { index, codec, rtx: None, feedback: Vec::new(), extensions }))
    })
}

fn extensions(section: &Section, known: &[&'static str]) -> Vec<(u8, &'static str)> {
    known.iter().filter_map(|uri| Some((section.extension(uri)?, *uri))).collect()
}

/// What may stand in `a=msid` (token characters of RFC 8866 section 9).
fn msid(name: &str) -> String {
    let allowed = |c: &char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`{|}~".contains(*c);
    let text: String = name.chars().filter(allowed).take(MSID_MAX_BYTES - 2).collect();
    if text.is_empty() { "stream".to_owned() } else { text }
}

fn write_sent(
    text: &mut String,
    section: &Section,
    sent: &Sent,
    local: &Local<'_>,
    sender: &SenderLines<'_>,
    first: SocketAddr,
) -> std::fmt::Result {
    let (number, media) = (sent.codec.payload_type, &section.media);
    write!(text, "m={media} {} {} {number}", first.port(), section.protocol)?;
    if let Some(rtx) = sent.rtx {
        write!(text, " {rtx}")?;
    }
    text.push_str("\r\n");
    write_transport(text, section, local, "sendonly")?;
    let is_video = media == "video";
    let (track, sources) = if is_video { ("v", sender.video) } else { ("a", sender.audio) };
    let stream = msid(sender.stream);
    write!(text, "a=msid:{stream} {stream}-{track}\r\n")?;
    write_rtpmap(text, &sent.codec, &sent.codec.name)?;
    write_format(text, &sent.codec)?;
    for kind in &sent.feedback {
        write!(text, "a=rtcp-fb:{number} {kind}\r\n")?;
    }
    if let Some(rtx) = sent.rtx {
        write!(
            text,
            "a=rtpmap:{rtx} rtx/{rate}\r\na=fmtp:{rtx} apt={number}\r\n",
            rate = sent.codec.clock_rate
        )?;
    }
    for (id, uri) in &sent.extensions {
        write!(text, "a=extmap:{id} {uri}\r\n")?;
    }
    if sent.rtx.is_some() {
        write!(text, "a=ssrc-group:FID {} {}\r\n", sources.ssrc, sources.rtx)?;
    }
    let ssrcs = [Some(sources.ssrc), sent.rtx.map(|_| sources.rtx)];
    for ssrc in ssrcs.into_iter().flatten() {
        write!(text, "a=ssrc:{ssrc} cname:{}\r\n", sender.cname)?;
    }
    Ok(())
}

/// RFC 6184 section 8.2.2: profile and mode are the offered ones. Opus is sent as it was published.
fn write_format(text: &mut String, codec: &Codec) -> std::fmt::Result {
    let number = codec.payload_type;
    if codec.name.eq_ignore_ascii_case("opus") {
        return write!(text, "a=fmtp:{number} minptime=10;useinbandfec=1\r\n");
    }
    if !codec.name.eq_ignore_ascii_case("H264") {
        return Ok(());
    }
    let said: Vec<String> = ["level-asymmetry-allowed", "packetization-mode", "profile-level-id"]
        .into_iter()
        .filter_map(|name| Some((name, codec.parameter(name)?)))
        .filter(|(_, value)| value.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    if said.is_empty() { Ok(()) } else { write!(text, "a=fmtp:{number} {}\r\n", said.join(";")) }
}

#[cfg(test)]
#[path = "viewer_tests.rs"]
mod tests;
