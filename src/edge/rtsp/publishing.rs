//! A publication by RTSP: from `ANNOUNCE` to its end.

use crossbeam_channel::Receiver;

use super::Inner;
use crate::base::id::{MediaSessionId, StreamName, random_id};
use crate::base::metrics::Metrics;
use crate::base::wait::Waker;
use crate::hub::{Bell, EndReason, Publication, PublishError, Publisher, SourceProtocol};
use crate::proto::rtsp::media::{MediaStats, received_tracks};
use crate::proto::rtsp::message::StatusCode;
use crate::proto::rtsp::sdp::{Description, Track};
use crate::proto::rtsp::server::Refusal;

/// The guard of a publication. However it falls, by a panic too, the name is free and the end is counted.
#[derive(Debug)]
pub(super) struct Publishing {
    publisher: Option<Publisher>,
    bell: Receiver<()>,
    metrics: Metrics,
    reason: EndReason,
    counted: MediaStats,
    counted_bad: u64,
}

/// Takes the name that a client announces.
pub(super) fn announce(
    service: &Inner,
    name: &str,
    query: &str,
    (description, sdp): (&Description, String),
    session_id: String,
    waker: Waker,
) -> Result<Publishing, Refusal> {
    let name = StreamName::new(name).map_err(|error| Refusal::new(StatusCode::BadRequest, error))?;
    let tracks: Vec<&Track> = received_tracks(&description.tracks)
        .iter()
        .filter_map(|&place| description.tracks.get(place))
        .collect();
    let video = tracks.iter().find(|track| track.is_video());
    let audio = tracks.iter().find(|track| track.is_audio());
    let codec =
        |track: Option<&&Track>| track.map_or_else(String::new, |track| track.codec_name().to_owned());
    let (bell, rung) = Bell::without_keyframes(Some(waker));
    // A UUID is a media session id.
    let media_session_id = MediaSessionId::new(&random_id())
        .map_err(|error| Refusal::new(StatusCode::InternalServerError, error))?;
    let publication = Publication {
        session_id,
        has_video: video.is_some(),
        has_audio: audio.is_some(),
        video_codec: codec(video),
        audio_codec: codec(audio),
        sdp,
        custom: custom(query),
        ..Publication::new(name.clone(), media_session_id, SourceProtocol::Rtsp, service.clock.wall())
    };
    let publisher = service.registry.publish(publication, Some(bell)).map_err(|error| {
        tracing::info!("{name} is not published: {error}");
        match error {
            // RTSP has no "conflict"; this one says that the method does not fit as things stand.
            PublishError::NameInUse | PublishError::SessionInUse | PublishError::Address => {
                Refusal::new(StatusCode::MethodNotValidInThisState, error)
            }
            PublishError::TooMany => Refusal::new(StatusCode::NotEnoughBandwidth, error),
        }
    })?;
    if let Some(params) = audio.and_then(|track| track.audio_params()) {
        publisher.set_audio_params(params);
    }
    for track in description.tracks.iter().filter(|track| !track.is_known()) {
        tracing::info!("{name}: a track of {} is passed over", track.codec_name());
    }
    tracing::info!("{name} is published by RTSP");
    Ok(Publishing {
        publisher: Some(publisher),
        bell: rung,
        metrics: service.metrics.clone(),
        reason: EndReason::SessionDisconnect,
        counted: MediaStats::default(),
        counted_bad: 0,
    })
}

/// The parameters of the publisher's URL, for hooks.
fn custom(query: &str) -> serde_json::Value {
    if query.is_empty() {
        return serde_json::Value::Null;
    }
    let pairs = url::form_urlencoded::parse(query.as_bytes());
    let stream: serde_json::Map<_, _> =
        pairs.map(|(name, value)| (name.into_owned(), value.into_owned().into())).collect();
    serde_json::json!({ "stream": stream })
}

impl Publishing {
    /// The right to push.
    pub(super) fn publisher(&self) -> Option<&Publisher> {
        self.publisher.as_ref()
    }

    /// Why somebody wants it to end, if anybody does.
    pub(super) fn asked_to_end(&self) -> Option<EndReason> {
        while self.bell.try_recv().is_ok() {}
        self.publisher.as_ref()?.asked_to_end()
    }

    /// With which reason it is to end when it falls.
    pub(super) fn end_with(&mut self, reason: EndReason) {
        self.reason = reason;
    }

    /// Adds what came since the last call to the server's counts.
    pub(super) fn count(&mut self, now: MediaStats, bad_packets: u64) {
        let before = std::mem::replace(&mut self.counted, now);
        self.metrics.rtp_received_total.inc_by(now.packets.saturating_sub(before.packets));
        self.metrics.rtp_lost_total.inc_by(now.lost.saturating_sub(before.lost));
        let bad = bad_packets.saturating_sub(self.counted_bad);
        self.counted_bad = bad_packets;
        self.metrics.bad_input_total.with_label_values(&["rtsp_media"]).inc_by(bad);
        if let Some(error) = now.last_unit_error {
            let unusable = now.units_unusable.saturating_sub(before.units_unusable);
            self.metrics.bad_input_total.with_label_values(&[error.codec()]).inc_by(unusable);
            if before.last_unit_error != now.last_unit_error
                && let Some(publisher) = &self.publisher
            {
                let name = &publisher.stream().publication().name;
                tracing::warn!("pictures of {name} cannot be used: {error}");
            }
        }
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        if let Some(publisher) = self.publisher.take() {
            tracing::info!("{} ended: {}", publisher.stream().publication().name, self.reason);
            publisher.end(self.reason.clone());
        }
        self.metrics.publications_ended_total.with_label_values(&[self.reason.label()]).inc();
    }
}
