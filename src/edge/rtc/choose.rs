//! In which form a viewer is sent a stream: as it is where that can be, else made anew.

use std::sync::Arc;

use super::feed::is_in_order;
use super::play::PlayRefused;
use crate::hub::{Stream, StreamFacts, StreamStatus};
use crate::proto::sdp::viewer::{Sendable, SendableAudio, SendableVideo, ViewerNegotiated};
use crate::proto::sdp::{NegotiationError, Offer};
use crate::proto::signal::StartPlay;
use crate::services::transcode::Form;

/// What a viewer gets.
#[derive(Debug)]
pub(super) struct Choice {
    /// In which codecs.
    pub(super) sendable: Sendable,
    /// How its pictures are made anew; `None`: sent as they are.
    pub(super) form: Option<Form>,
}

/// Chooses by what the viewer asks for and offers, and what comes or, while nothing came yet, what was negotiated.
///
/// # Errors
/// When the stream is not ready.
pub(super) fn choose(
    request: &StartPlay,
    stream: &Arc<Stream>,
    offer: &Offer,
) -> Result<Choice, PlayRefused> {
    let facts = stream.facts();
    let sendable = sendable(stream, &facts)?;
    if sendable.video.is_none() {
        return Ok(Choice { sendable, form: None });
    }
    let [width, height] = request.size;
    let form = Form { width, height, bitrate_kbps: request.bitrates_kbps[0] };
    let is_asked_for = match &facts.video {
        Some(params) => form.differs_from(params),
        None => form != Form::default(),
    };
    let is_needed = || {
        !is_in_order(&stream.gop().units)
            || matches!(ViewerNegotiated::new(offer, &sendable), Err(NegotiationError::TranscodingNeeded))
    };
    if !is_asked_for && !is_needed() {
        return Ok(Choice { sendable, form: None });
    }
    // Constrained baseline, which is what is taken where no profile is known.
    let sendable = Sendable { video: Some(SendableVideo::H264 { profile: None }), ..sendable };
    // What asks for nothing shares the rendition of all others who only need another one.
    Ok(Choice { sendable, form: Some(if is_asked_for { form } else { Form::default() }) })
}

/// What of a stream can be sent as it is.
fn sendable(stream: &Stream, facts: &StreamFacts) -> Result<Sendable, PlayRefused> {
    let publication = stream.publication();
    if facts.status != StreamStatus::Publishing {
        return Err(PlayRefused::NotReady);
    }
    let video = match (&facts.video, publication.video_codec.as_str()) {
        (Some(params), _) => Some(SendableVideo::of(&params.codec)),
        (None, "H264") => Some(SendableVideo::H264 { profile: None }),
        (None, "VP8") => Some(SendableVideo::Vp8),
        // Announced, and nobody knows as what.
        (None, _) if facts.has_video => return Err(PlayRefused::NotReady),
        (None, _) => None,
    };
    let audio_codec =
        facts.audio.as_ref().map_or(publication.audio_codec.as_str(), |params| params.codec.name());
    let audio = match SendableAudio::named(audio_codec) {
        Some(SendableAudio::Opus) => vec![SendableAudio::Opus],
        // As it is where the viewer takes it; all take Opus, which is made of it.
        Some(form) => vec![form, SendableAudio::Opus],
        None if facts.has_audio => vec![SendableAudio::Opus],
        None => Vec::new(),
    };
    if video.is_none() && audio.is_empty() {
        return Err(PlayRefused::NotReady);
    }
    Ok(Sendable { video, audio })
}
