//! `/recorder/list` and `/vod/list`: the files of recordings, and those that can be played on demand, in few words, for pages that
//! show a list again and again. Additions of ours: `/recorder/find_all` tells what is being recorded now and nothing else.

use std::collections::HashMap;
use std::path::Path;
use std::time::SystemTime;

use rouille::Response;
use serde::Serialize;

use super::error::ApiError;
use super::list::milliseconds;
use crate::services::folder::{self, FileFacts, Listing};
use crate::services::record::{Recordings, is_recording};
use crate::services::vod::Vods;

/// Levels of folders below `media_dir` that are listed.
const MEDIA_DEPTH: usize = 4;
/// Endings of files that are MP4 by their name.
const MP4_ENDINGS: [&str; 4] = [".mp4", ".m4v", ".mov", ".m4a"];

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RecordingsList {
    /// The server's clock, so that ages can be told whatever the reader's clock says; ms since 1970.
    now: u64,
    recordings: Vec<Recording>,
    /// Nothing was left out for its number.
    is_whole: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Recording {
    file_name: String,
    bytes: u64,
    /// When it was written to last; ms since 1970.
    modify_date: u64,
    /// It is being written; `media_session_id` tells by which stream.
    is_running: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_session_id: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FilesList {
    now: u64,
    files: Vec<MediaFile>,
    is_whole: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MediaFile {
    /// What follows `vod://` and `vod-live://`.
    file_name: String,
    bytes: u64,
    modify_date: u64,
}

/// Running and complete recordings, newest first.
pub(super) fn recordings(recordings: &Recordings, now: SystemTime) -> Result<Response, ApiError> {
    let listing = list(recordings.dir(), 0, &is_recording)?;
    let mut running: HashMap<String, String> =
        recordings.list().into_iter().map(|facts| (facts.file_name, facts.media_session_id)).collect();
    let describe = |file: FileFacts| {
        let media_session_id = running.remove(&file.name);
        Recording {
            bytes: file.bytes,
            modify_date: milliseconds(file.modified),
            is_running: media_session_id.is_some(),
            media_session_id,
            file_name: file.name,
        }
    };
    let recordings = listing.files.into_iter().map(describe).collect();
    Ok(answer(&RecordingsList { now: milliseconds(now), recordings, is_whole: listing.is_whole }))
}

/// Files on demand, newest first.
pub(super) fn media(vods: &Vods, now: SystemTime) -> Result<Response, ApiError> {
    let is_mp4 = |name: &str| {
        let name = name.to_ascii_lowercase();
        MP4_ENDINGS.iter().any(|ending| name.ends_with(ending))
    };
    let listing = list(vods.dir(), MEDIA_DEPTH, &is_mp4)?;
    let describe = |file: FileFacts| MediaFile {
        bytes: file.bytes,
        modify_date: milliseconds(file.modified),
        file_name: file.name,
    };
    let files = listing.files.into_iter().map(describe).collect();
    Ok(answer(&FilesList { now: milliseconds(now), files, is_whole: listing.is_whole }))
}

fn list(dir: &Path, depth: usize, ours: &dyn Fn(&str) -> bool) -> Result<Listing, ApiError> {
    folder::list(dir, depth, ours).map_err(|error| {
        tracing::warn!("{} cannot be listed: {error}", dir.display());
        ApiError::internal("The folder cannot be read")
    })
}

fn answer(list: &impl Serialize) -> Response {
    Response::json(list).with_additional_header("Cache-Control", "no-store")
}
