//! Streams as REST shows them (protocol document, section 9.3), and looking them up (section 9.4).

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use serde::Serialize;
use serde_json::{Map, Value};

use super::error::ApiError;
use super::query::Query;
use crate::hub::{Registry, Stream, StreamStatus, Viewer};
use crate::services::record::Recordings;

/// The stream object. The order of the keys is that of the document's sample.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StreamObject {
    node_id: String,
    app_key: String,
    session_id: String,
    media_session_id: String,
    name: String,
    published: bool,
    has_video: bool,
    has_audio: bool,
    status: &'static str,
    info: String,
    sdp: String,
    audio_codec: String,
    video_codec: String,
    record: bool,
    width: u32,
    height: u32,
    bitrate: u32,
    min_bitrate: u32,
    max_bitrate: u32,
    /// This and the next four are what a transcoding was told; nobody tells one that.
    quality: u32,
    history: bool,
    gop: u32,
    fps: u32,
    audio_bitrate: u32,
    codec_impl: &'static str,
    transport: &'static str,
    cvo_extension: bool,
    create_date: u64,
    media_type: &'static str,
    audio_state: Muted,
    video_state: Muted,
    media_provider: &'static str,
    #[serde(skip_serializing_if = "serde_json::Value::is_null")]
    custom: Value,
}

#[derive(Debug, Serialize)]
struct Muted {
    muted: bool,
}

/// What `display:["metrics"]` adds, measured over the current group of pictures.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) struct StreamMetrics {
    video_width: u32,
    video_height: u32,
    /// Bits a second.
    pub(super) video_rate: u64,
    pub(super) video_fps: f64,
    /// Pictures that hold a B slice.
    video_b_frames: usize,
    /// RTP packets that never came, since the beginning; absent where the protocol does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    video_lost: Option<u64>,
    /// RTP packets asked for again, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    video_nack: Option<u64>,
}

/// One that a query means: somebody's publication, or somebody who plays one.
#[derive(Clone, Debug)]
pub(super) enum Target {
    Publication(Arc<Stream>),
    Player(Arc<Viewer>),
}

impl Target {
    /// What is published or played.
    fn stream(&self) -> &Arc<Stream> {
        match self {
            Self::Publication(stream) => stream,
            Self::Player(viewer) => viewer.stream(),
        }
    }
}

/// All that a query means, each with its object: publications first, oldest first.
pub(super) fn matching(
    registry: &Registry,
    node_id: &str,
    query: &Query,
) -> Vec<(Target, Map<String, Value>)> {
    let publications = registry.list().into_iter().map(Target::Publication);
    let players = registry.viewers().list().into_iter().map(Target::Player);
    publications
        .chain(players)
        .filter_map(|target| {
            let object = match &target {
                Target::Publication(stream) => describe(stream, node_id),
                Target::Player(viewer) => describe_player(viewer, node_id),
            };
            match serde_json::to_value(object) {
                Ok(Value::Object(object)) => Some((target, object)),
                // It is a struct of plain values.
                _ => None,
            }
        })
        .filter(|(_, object)| query.admits(object))
        .collect()
}

/// All streams that match.
///
/// # Errors
/// 404 when none does.
pub(super) fn find(
    registry: &Registry,
    recordings: Option<&Recordings>,
    node_id: &str,
    query: &Query,
) -> Result<Vec<Value>, ApiError> {
    let with_metrics = query.display.iter().any(|what| what == "metrics");
    let mut found = matching(registry, node_id, query);
    if with_metrics {
        for (target, object) in &mut found {
            if let Ok(metrics) = serde_json::to_value(measure(target.stream())) {
                object.insert("metrics".to_owned(), metrics);
            }
        }
    }
    for (target, object) in &mut found {
        let Target::Publication(stream) = target else { continue };
        if let Some(name) = recordings.and_then(|recordings| recordings.current(stream)) {
            object.insert("record".to_owned(), true.into());
            object.insert("recordName".to_owned(), name.into());
        }
    }
    match found.is_empty() {
        true => Err(ApiError::not_found("Stream not found")),
        false => Ok(found.into_iter().map(|(_, object)| Value::Object(object)).collect()),
    }
}

/// What comes, or while nothing came yet what was negotiated.
pub(super) fn codec(comes: &str, negotiated: &str) -> String {
    if comes.is_empty() { negotiated } else { comes }.to_owned()
}

fn describe(stream: &Stream, node_id: &str) -> StreamObject {
    let publication = stream.publication();
    let facts = stream.facts();
    let (width, height) = facts.video.as_ref().map_or((0, 0), |params| params.display_size());
    let [bitrate, min_bitrate, max_bitrate] = publication.bitrates_kbps;
    let created = publication.created.duration_since(UNIX_EPOCH).unwrap_or_default();
    StreamObject {
        node_id: node_id.to_owned(),
        app_key: publication.app_key.clone(),
        session_id: publication.session_id.clone(),
        media_session_id: publication.media_session_id.to_string(),
        name: publication.name.to_string(),
        published: true,
        has_video: facts.has_video,
        has_audio: facts.has_audio,
        status: match facts.status {
            StreamStatus::Pending => "PENDING",
            StreamStatus::Publishing => "PUBLISHING",
            StreamStatus::Ended => "UNPUBLISHED",
        },
        info: stream.ended().map(|reason| reason.to_string()).unwrap_or_default(),
        sdp: without_secrets(&publication.sdp),
        audio_codec: codec(facts.audio_codec(), &publication.audio_codec),
        video_codec: codec(facts.video_codec(), &publication.video_codec),
        record: publication.record,
        width,
        height,
        bitrate,
        min_bitrate,
        max_bitrate,
        quality: 0,
        history: false,
        gop: 0,
        fps: 0,
        audio_bitrate: 0,
        codec_impl: "",
        transport: publication.protocol.transport(),
        cvo_extension: publication.cvo_extension,
        create_date: u64::try_from(created.as_millis()).unwrap_or(u64::MAX),
        media_type: "publish",
        audio_state: Muted { muted: facts.audio_muted },
        video_state: Muted { muted: facts.video_muted },
        media_provider: publication.protocol.media_provider(),
        custom: publication.custom.clone(),
    }
}

fn describe_player(viewer: &Viewer, node_id: &str) -> StreamObject {
    let viewing = viewer.viewing();
    let [width, height] = viewing.size;
    let [bitrate, min_bitrate, max_bitrate] = viewing.bitrates_kbps;
    let created = viewing.created.duration_since(UNIX_EPOCH).unwrap_or_default();
    StreamObject {
        app_key: viewing.app_key.clone(),
        session_id: viewing.session_id.clone(),
        media_session_id: viewing.media_session_id.to_string(),
        published: false,
        has_video: !viewing.video_codec.is_empty(),
        has_audio: !viewing.audio_codec.is_empty(),
        status: if viewer.is_playing() { "PLAYING" } else { "PENDING" },
        info: viewer.asked_to_end().map(|reason| reason.to_string()).unwrap_or_default(),
        sdp: without_secrets(&viewing.sdp),
        audio_codec: viewing.audio_codec.clone(),
        video_codec: viewing.video_codec.clone(),
        record: false,
        width,
        height,
        bitrate,
        min_bitrate,
        max_bitrate,
        transport: viewing.transport,
        cvo_extension: false,
        create_date: u64::try_from(created.as_millis()).unwrap_or(u64::MAX),
        media_type: "play",
        media_provider: viewing.media_provider,
        custom: viewing.custom.clone(),
        ..describe(viewer.stream(), node_id)
    }
}

/// An offer without what lets others into its ICE session or tells where its publisher sits.
fn without_secrets(sdp: &str) -> String {
    const LEFT_OUT: [&str; 4] = ["a=ice-pwd:", "a=candidate:", "a=crypto:", "a=key-mgmt:"];
    sdp.split_inclusive('\n').filter(|line| !LEFT_OUT.iter().any(|start| line.starts_with(start))).collect()
}

/// Rates between the arrivals of the first and the newest unit. The first one's bytes came before that time, so they are
/// left out of it.
pub(super) fn measure(stream: &Stream) -> StreamMetrics {
    let (gop, facts) = (stream.gop(), stream.facts());
    let (video_width, video_height) = facts.video.as_ref().map_or((0, 0), |params| params.display_size());
    let seconds = match (gop.units.first(), gop.units.last()) {
        (Some(first), Some(last)) => last.arrived.saturating_duration_since(first.arrived).as_secs_f64(),
        _ => 0.0,
    };
    let bytes: usize = gop.units.iter().skip(1).map(|unit| unit.data.len()).sum();
    let per_second = |amount: f64| if seconds > 0.0 { amount / seconds } else { 0.0 };
    StreamMetrics {
        video_width,
        video_height,
        video_rate: per_second(bytes as f64 * 8.0).round() as u64,
        video_fps: (per_second(gop.units.len().saturating_sub(1) as f64) * 10.0).round() / 10.0,
        video_b_frames: gop.units.iter().filter(|unit| unit.bidirectional).count(),
        video_lost: facts.reception.map(|reception| reception.lost_packets),
        video_nack: facts.reception.map(|reception| reception.asked_again),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;
    use crate::base::id::{MediaSessionId, StreamName};
    use crate::edge::rest::query::tests::demand_keys;
    use crate::hub::{GopLimits, Publication, SourceProtocol};

    #[test]
    fn every_plain_key_of_a_stream_can_be_asked_for() {
        let registry = Registry::new(GopLimits { units: 10, bytes: 1000 }, 10);
        let (name, session) = (StreamName::new("a").unwrap(), MediaSessionId::new("m").unwrap());
        let publication = Publication::new(name, session, SourceProtocol::Rtmp, Clock::manual().wall());
        let _publisher = registry.publish(publication, None).unwrap();
        let found = matching(&registry, "n@192.0.2.1", &Query::default());
        demand_keys(&found[0].1);
    }
}
