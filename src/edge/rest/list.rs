//! `/stream/list`: all live streams in few words, for pages that show a list again and again. It is an addition of ours:
//! `/stream/find_all` carries each publisher's offer, and answers 404 when there are no streams.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use rouille::Response;
use serde::Serialize;

use super::streams::{codec, measure};
use crate::hub::{Registry, Stream, StreamStatus};

/// The answer.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List {
    /// The server's clock, so that ages can be told whatever the reader's clock says; ms since 1970.
    now: u64,
    streams: Vec<Line>,
}

/// One stream.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    name: String,
    /// Which publication of the name it is: another one has another number.
    epoch: u64,
    /// `webrtc`, `rtmp`, `rtmp_pull`, `rtsp`, `rtsp_pull`, `test_card`.
    protocol: &'static str,
    /// Media came through.
    is_live: bool,
    has_video: bool,
    has_audio: bool,
    width: u32,
    height: u32,
    video_codec: String,
    audio_codec: String,
    video_muted: bool,
    audio_muted: bool,
    create_date: u64,
    /// Of the video, over the current group of pictures: bits a second, and frames a second.
    bitrate: u64,
    fps: f64,
    viewers: usize,
}

pub(super) fn list(registry: &Registry, now: SystemTime) -> Response {
    let mut viewers = HashMap::<u64, usize>::new();
    for viewer in registry.viewers().list() {
        *viewers.entry(viewer.stream().epoch()).or_default() += 1;
    }
    let line = |stream: &Stream| describe(stream, viewers.get(&stream.epoch()).copied().unwrap_or(0));
    let streams = registry.list().iter().map(|stream| line(stream)).collect();
    Response::json(&List { now: milliseconds(now), streams })
        .with_additional_header("Cache-Control", "no-store")
}

/// Milliseconds since 1970.
pub(super) fn milliseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn describe(stream: &Stream, viewers: usize) -> Line {
    let (publication, facts) = (stream.publication(), stream.facts());
    let (width, height) = facts.video.as_ref().map_or((0, 0), |params| params.display_size());
    let metrics = measure(stream);
    Line {
        name: publication.name.to_string(),
        epoch: stream.epoch(),
        protocol: publication.protocol.label(),
        is_live: facts.status == StreamStatus::Publishing,
        has_video: facts.has_video,
        has_audio: facts.has_audio,
        width,
        height,
        video_codec: codec(facts.video_codec(), &publication.video_codec),
        audio_codec: codec(facts.audio_codec(), &publication.audio_codec),
        video_muted: facts.video_muted,
        audio_muted: facts.audio_muted,
        create_date: milliseconds(publication.created),
        bitrate: metrics.video_rate,
        fps: metrics.video_fps,
        viewers,
    }
}
