//! Files that change while they are played: recordings that go on, files that grow, are cut off, replaced and overwritten.

use std::fs::File;
use std::io::Write as _;
use std::process::Command;

use serde_json::json;
use stillcast::hub::EndReason;
use stillcast::media::unit::MediaUnit;
use stillcast::services::vod::Demuxer;

use crate::support::camera::card_clip;
use crate::support::server::Server;
use crate::support::viewer::Viewer;
use crate::support::ws_client::WsClient;
use crate::vod::{PATIENCE, call, end_of, media, play, rest, server, until};

#[test]
fn a_recording_is_watched_while_it_goes_on_and_to_its_last_picture() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let server = Server::start(&[("media_dir", path), ("records_dir", path)], true);
    let mut pages = rest(&server);
    let stream = server.app().registry().find("test").unwrap();
    let id = stream.publication().media_session_id.as_str();
    let begin = json!({"mediaSessionId": id, "config": {"fileTemplate": "live"}});
    assert_eq!(call(&mut pages, "recorder/startup", &begin).status, 200);
    let file = folder.path().join("live.mp4");
    let opens = || File::open(&file).is_ok_and(|file| Demuxer::open(file, u64::MAX).is_ok());
    until("the first fragment", opens);

    let mut client = WsClient::hello(server.address("ws"));
    let mut viewer = Viewer::new(1);
    viewer.take_answer(&play(&mut client, "a", "vod://live.mp4", &viewer).unwrap(), None);
    assert!(viewer.run_until(PATIENCE, |viewer| viewer.pictures.len() > 90), "it grows, and so it goes on");
    let picture = pages.get("/vod/live.mp4.png?at=1");
    assert_eq!(picture.status, 200, "{}", String::from_utf8_lossy(&picture.body));
    assert_eq!(call(&mut pages, "recorder/terminate", &json!({"mediaSessionId": id})).status, 200);
    let mut complete = Demuxer::open(File::open(&file).unwrap(), u64::MAX).unwrap();
    assert!(!complete.is_fragmented());
    let mut all = 0;
    while let Some(due) = complete.next(stream.newest().unwrap().arrived).unwrap() {
        all += usize::from(matches!(due.unit, MediaUnit::Video(_)));
    }
    assert!(viewer.run_until(PATIENCE, |viewer| viewer.pictures.len() == all), "{all} are in it");
    assert_eq!(end_of(&mut client, "a"), ("STOPPED".into(), "Stopped by publisher stop".into()));
    assert_eq!((viewer.gaps, viewer.pictures.len()), (0, all));
    let steps = viewer.pictures.windows(2).map(|pair| pair[1].1.pts.ticks - pair[0].1.pts.ticks);
    assert!(steps.clone().all(|step| step > 0), "{:?}", steps.collect::<Vec<_>>());
}

#[test]
fn a_file_in_fragments_goes_on_as_it_grows_and_ends_when_it_has_stopped_to() {
    let media = media(100);
    let whole = media.path().join("whole.mp4");
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-i"])
        .arg(media.path().join("film.mp4"))
        .args(["-c", "copy", "-movflags", "frag_keyframe+empty_moov+default_base_moof"])
        .arg(&whole)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bytes = std::fs::read(&whole).unwrap();
    let mut growing = File::create(media.path().join("growing.mp4")).unwrap();
    // In the middle of a fragment each time.
    let (first, rest_of_it) = bytes.split_at(bytes.len() * 2 / 5);
    growing.write_all(first).unwrap();
    let server = server(&media, &[]);
    let mut pages = rest(&server);
    let body = json!({"uri": "vod-live://growing.mp4", "localStreamName": "g"});
    assert_eq!(call(&mut pages, "vod/startup", &body).status, 200);
    let stream = server.app().registry().find("g").unwrap();
    let live = stream.subscribe(2000, None).live;
    let mut times = Vec::new();
    let mut pictures_until = |wanted: usize| {
        while times.len() < wanted {
            if let MediaUnit::Video(unit) = live.receiver().recv_timeout(PATIENCE).unwrap() {
                times.push(unit.pts.ticks);
            }
        }
    };
    for (n, more) in rest_of_it.chunks(rest_of_it.len().div_ceil(4)).enumerate() {
        // All that is whole of what was there is played before more comes.
        pictures_until(25 + n * 12);
        growing.write_all(more).unwrap();
    }
    // The first one was sent before we looked.
    pictures_until(99);
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 3600), "{times:?}");
    assert_eq!(stream.ended(), None, "there may be more");
    until("the end", || stream.ended().is_some());
    assert_eq!(stream.ended(), Some(EndReason::EndOfFile));
}

#[test]
fn a_file_that_is_replaced_plays_on_and_one_that_is_cut_off_or_overwritten_ends() {
    let media = media(75);
    let film = media.path().join("film.mp4");
    let copy = |name: &str| std::fs::copy(&film, media.path().join(name)).unwrap();
    let size = copy("replaced.mp4");
    assert_eq!([copy("cut.mp4"), copy("overwritten.mp4")], [size; 2]);
    let server = server(&media, &[]);
    let mut pages = rest(&server);
    let mut begin = |file: &str| {
        let body = json!({"uri": format!("vod-live://{file}.mp4"), "localStreamName": file});
        assert_eq!(call(&mut pages, "vod/startup", &body).status, 200);
        let stream = server.app().registry().find(file).unwrap();
        until("some pictures", || stream.facts().units > 5);
        stream
    };
    let ended = |stream: &stillcast::hub::Stream| {
        until("the end", || stream.ended().is_some());
        stream.facts().units
    };

    let replaced = begin("replaced");
    std::fs::rename(card_clip(media.path(), 10, 10), media.path().join("replaced.mp4")).unwrap();
    assert_eq!((ended(&replaced), replaced.ended()), (75, Some(EndReason::EndOfFile)));

    let cut = begin("cut");
    let file = File::options().write(true).open(media.path().join("cut.mp4")).unwrap();
    file.set_len(size / 2).unwrap();
    let pictures = ended(&cut);
    assert!((6..75).contains(&pictures), "{pictures} pictures of half a file");

    let overwritten = begin("overwritten");
    let mut file = File::options().write(true).open(media.path().join("overwritten.mp4")).unwrap();
    file.write_all(&vec![0xFF; size as usize]).unwrap();
    let pictures = ended(&overwritten);
    assert!((6..75).contains(&pictures), "{pictures} pictures before it was overwritten");
    assert_eq!(pages.get("/vod/film.mp4.png").status, 200);
}
