//! Recording: a page asks for it, gets the file's name and the file; other programs read it; a kill loses nothing but the last second.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use stillcast::base::clock::Clock;
use stillcast::proto::dtls::Certificate;
use stillcast::services::test_card::{CardSettings, annex_b_run, read_number};

use crate::support::browser::{Browser, BrowserSettings};
use crate::support::clip::Clip;
use crate::support::page::{Page, status_of};
use crate::support::process::{PATIENCE, Process};
use crate::support::publishers::{Publisher, Publishers};
use crate::support::rest::HttpClient;
use crate::support::server::Server;

const SIZE: (u32, u32) = (320, 240);

/// A page that publishes numbered cards and silence, and asks to be recorded.
struct Live {
    page: Page,
    publishers: Publishers,
    record_name: String,
}

fn publish(signalling: std::net::SocketAddr, name: &str) -> Live {
    let clock = &Clock::real();
    let settings =
        CardSettings { keyframe_interval: KEYFRAME_INTERVAL, ..CardSettings::sized(SIZE.0, SIZE.1) };
    let clip = Clip::read(&annex_b_run(settings, 0..900, clock).unwrap(), 30).unwrap();
    let settings = BrowserSettings {
        seed: 7,
        video: true,
        audio: true,
        certificate: Arc::new(Certificate::generate().unwrap()),
    };
    let mut browser = Browser::new(settings, clock.now());
    let mut page = Page::connect(signalling).unwrap();
    page.record = true;
    let answer = page.publish(name, &browser.offer(), true).unwrap();
    let address = browser.take_answer(clock.now(), &answer);
    let publisher = Publisher::new(browser, address, clip, true, true).unwrap();
    let publishers = Publishers::start(vec![publisher], clock).unwrap();
    let status = page.wait_for(|message| status_of(message) == Some("PUBLISHING")).unwrap();
    let status = &status["data"][0];
    assert_eq!(status["record"], true, "{status}");
    let record_name = status["recordName"].as_str().unwrap().to_owned();
    Live { page, publishers, record_name }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let clock = Clock::real();
    let end = clock.now() + PATIENCE;
    while !holds() {
        assert!(clock.now() < end, "{what}");
        let _ = crossbeam_channel::after(Duration::from_millis(50)).recv();
    }
}

/// What another program says of a file.
fn probe(file: &Path, arguments: &[&str]) -> String {
    let output =
        Command::new("ffprobe").args(["-v", "error", "-of", "csv=p=0"]).args(arguments).arg(file).output();
    let output = output.expect("ffprobe is needed: tools/install-test-deps");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The numbers on the cards of a file, as another program decodes it.
fn numbers(file: &Path) -> Vec<u32> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(file)
        .args(["-map", "0:v", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"])
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let bytes = (SIZE.0 * SIZE.1 * 3) as usize;
    output.stdout.chunks(bytes).map(|rgb| read_number(rgb, SIZE.0, SIZE.1).unwrap()).collect()
}

/// From one keyframe of the clip to the next.
const KEYFRAME_INTERVAL: u32 = 15;

/// Likewise as GStreamer decodes it.
fn numbers_by_gstreamer(file: &Path) -> Vec<u32> {
    let location = format!("location={}", file.display());
    let output = Command::new("gst-launch-1.0")
        .args(["-q", "filesrc", &location, "!", "qtdemux", "name=demux", "demux.video_0", "!", "queue", "!"])
        .args(["h264parse", "!", "openh264dec", "!", "videoconvert", "!", "video/x-raw,format=RGB", "!"])
        .args(["fdsink", "fd=1"])
        .output()
        .expect("GStreamer is needed: tools/install-test-deps");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Rows of a width that four divides have no padding.
    let bytes = (SIZE.0 * SIZE.1 * 3) as usize;
    output.stdout.chunks(bytes).map(|rgb| read_number(rgb, SIZE.0, SIZE.1).unwrap()).collect()
}

/// Nothing is missing. A page that is asked for a keyframe shows the last one of its clip again.
fn assert_consecutive(numbers: &[u32]) {
    let follows = |pair: &[u32]| pair[1] == pair[0] + 1 || (pair[1] == pair[0] - pair[0] % KEYFRAME_INTERVAL);
    let broken = numbers.windows(2).find(|pair| !follows(pair));
    assert!(broken.is_none(), "{broken:?} in {numbers:?}");
}

#[test]
fn a_page_gets_its_complete_file_with_every_picture_and_sound_in_time() {
    let server = Server::start(&[], false);
    let mut live = publish(server.address("ws"), "cam");
    until("nothing comes", || live.publishers.states()[0].pictures >= 90);
    live.page.answer_pings().unwrap();
    let mut http = HttpClient::connect(server.address("http"));
    let listed = http.get("/rest-api/recorder/find_all").json();
    assert_eq!(listed[0]["fileName"], live.record_name.as_str());
    assert_eq!(listed[0]["mediaSessionId"], live.page.media_session_id());
    let found = http.get("/rest-api/stream/find_all").json();
    assert_eq!(found[0]["recordName"], live.record_name.as_str());

    let last = live.page.unpublish().unwrap();
    assert_eq!(last["recordName"], live.record_name.as_str());
    // The page shows the file at once.
    let target = format!("/client/records/{}", live.record_name);
    let whole = http.get(&target);
    assert_eq!((whole.status, whole.header("Content-Type")), (200, Some("video/mp4")));
    let part = http.request("GET", &target, &[("Range", "bytes=4-7")], b"");
    assert_eq!((part.status, part.body.as_slice()), (206, &b"ftyp"[..]));
    let head = http.request("HEAD", &format!("/client2/records/{}", live.record_name), &[], b"");
    assert_eq!(head.header("Content-Length"), Some(whole.body.len().to_string().as_str()));
    assert_eq!(http.get("/client/records/").status, 404);
    assert_eq!(http.get("/client/records/..%2f..%2fetc%2fpasswd").status, 404);
    assert_eq!(http.get("/rest-api/recorder/find_all").status, 404);

    let file = server.folder().join("data/records").join(&live.record_name);
    assert_eq!(std::fs::read(&file).unwrap(), whole.body);
    let numbers = numbers(&file);
    assert!(numbers.len() >= 85, "{} pictures", numbers.len());
    assert_consecutive(&numbers);
    assert_eq!(numbers_by_gstreamer(&file), numbers);
    let streams = probe(&file, &["-show_entries", "stream=codec_name,nb_frames,start_time,duration"]);
    let fields: Vec<Vec<&str>> = streams.lines().map(|line| line.split(',').collect()).collect();
    let seconds = |at: usize, field: usize| fields[at][field].parse::<f64>().unwrap();
    assert_eq!((fields[0][0], fields[1][0]), ("h264", "opus"), "{streams}");
    assert!((seconds(0, 1) - seconds(1, 1)).abs() < 0.5, "{streams}");
    assert!((seconds(0, 2) - numbers.len() as f64 / 30.0).abs() < 0.1, "{streams}");
    let format = probe(&file, &["-show_entries", "format=start_time,duration"]);
    assert!(format.starts_with("0.0") || format.starts_with("-0.0"), "{format}");
}

#[test]
fn the_list_tells_running_and_complete_recordings_and_nothing_that_is_none() {
    let server = Server::start(&[], false);
    let mut http = HttpClient::connect(server.address("http"));
    let empty = http.get("/rest-api/recorder/list");
    assert_eq!((empty.status, empty.json()["recordings"].as_array().unwrap().len()), (200, 0));

    let mut live = publish(server.address("ws"), "cam");
    until("nothing comes", || live.publishers.states()[0].pictures >= 30);
    live.page.answer_pings().unwrap();
    let records = server.folder().join("data/records");
    let other = "a b & <c>.webm";
    std::fs::write(records.join(other), b"12345").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", records.join("link.mp4")).unwrap();
    std::fs::write(records.join("notes.txt"), b"1").unwrap();

    let list = http.get("/rest-api/recorder/list");
    assert_eq!(list.header("Cache-Control"), Some("no-store"));
    let list = list.json();
    let find = |list: &serde_json::Value, name: &str| {
        let recordings = list["recordings"].as_array().unwrap();
        assert_eq!((recordings.len(), &list["isWhole"]), (2, &true.into()), "{list}");
        recordings.iter().find(|recording| recording["fileName"] == name).unwrap().clone()
    };
    let foreign = find(&list, other);
    assert_eq!((foreign["bytes"].as_u64(), foreign["isRunning"].as_bool()), (Some(5), Some(false)));
    let running = find(&list, &live.record_name);
    assert_eq!(running["isRunning"], true);
    assert_eq!(running["mediaSessionId"], live.page.media_session_id());
    let age = list["now"].as_u64().unwrap().abs_diff(running["modifyDate"].as_u64().unwrap());
    assert!(age < 60_000, "{list}");

    live.page.unpublish().unwrap();
    let complete = find(&http.get("/rest-api/recorder/list").json(), &live.record_name);
    assert_eq!(complete["isRunning"], false, "{complete}");
    assert_eq!(complete.get("mediaSessionId"), None, "{complete}");
    let bytes = records.join(&live.record_name).metadata().unwrap().len();
    assert_eq!(complete["bytes"].as_u64(), Some(bytes));
    // As the list says it, it is served.
    assert_eq!(http.get("/client/records/a%20b%20%26%20%3Cc%3E.webm").body, b"12345");
    let head = http.request("HEAD", "/rest-api/recorder/list", &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[test]
fn killed_in_the_middle_a_recording_plays_to_its_last_second_and_is_completed_by_the_next_start() {
    let records = tempfile::tempdir().unwrap();
    let setting = format!("records_dir={}", records.path().display());
    let process = Process::start(&["--set", &setting]);
    let signalling = process.value("ws").split(' ').next().unwrap();
    let signalling = signalling.strip_prefix("ws://").unwrap().parse().unwrap();
    let live = publish(signalling, "cam");
    until("nothing comes", || live.publishers.states()[0].pictures >= 120);
    let sent = live.publishers.states()[0].pictures;
    process.signal("KILL");
    let _ = process.wait();
    drop(live.publishers);
    let file = records.path().join(&live.record_name);
    let before = numbers(&file);
    assert_consecutive(&before);
    assert!(before.len() as u64 + 33 >= sent, "{} of {sent} pictures", before.len());
    let mark = || std::fs::read_dir(records.path()).unwrap().count() > 1;
    assert!(mark());

    let _process = Process::start(&["--set", &setting]);
    until("it is not completed", || !mark());
    assert_eq!(numbers(&file), before);
    let bytes = std::fs::read(&file).unwrap();
    // The index of fragments, which stood behind the file's own head, is out of sight.
    let after = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
    assert_eq!(&bytes[after + 4..after + 8], b"free", "it is an ordinary file");
}

#[test]
fn a_full_disk_ends_the_recording_with_a_reason_for_operator_and_page_and_not_the_stream() {
    let disk = tempfile::tempdir().unwrap();
    let records = format!("records_dir={}", disk.path().display());
    let arguments = ["--set", &records, "--set", "record_free_min_bytes=0"];
    let Some(process) = Process::start_with_disk(disk.path(), 200, &arguments) else {
        eprintln!("skipped: no file system can be mounted here");
        return;
    };
    let address = |name: &str| {
        let found = process.value(name).split([' ', '/']).find_map(|part| part.parse().ok());
        found.unwrap_or_else(|| panic!("{name} in {:?}", process.banner))
    };
    let mut live = publish(address("ws"), "cam");
    let mut http = HttpClient::connect(address("http"));
    let mut listed = || http.get("/rest-api/recorder/find_all").status;
    until("nothing is recorded", || live.publishers.states()[0].pictures >= 10);
    assert_eq!(listed(), 200);
    until("the disk is never full", || listed() == 404);
    let pictures = live.publishers.states()[0].pictures;
    until("the stream does not go on", || live.publishers.states()[0].pictures >= pictures + 30);
    live.page.answer_pings().unwrap();
    assert_eq!(http.get("/snapshots/cam.png").status, 200, "the stream lives");
    let last = live.page.unpublish().unwrap();
    let told = last.to_string();
    assert!(told.contains("recording ended") && told.contains("No space left"), "{told}");

    // What was written before is there and plays.
    let file = http.get(&format!("/client/records/{}", live.record_name));
    assert_eq!(file.status, 200);
    let copy = tempfile::NamedTempFile::with_suffix(".mp4").unwrap();
    std::fs::write(copy.path(), &file.body).unwrap();
    let numbers = numbers(copy.path());
    assert!(numbers.len() >= 15, "{} pictures", numbers.len());
    assert_consecutive(&numbers);
    process.signal("TERM");
    let (_, _, log) = process.wait();
    assert!(log.contains("recording ended: No space left on device"), "{log}");
}

#[test]
fn an_operator_records_any_stream_by_rest() {
    let server = Server::start(&[("record_streams", "false")], true);
    let mut http = HttpClient::connect(server.address("http"));
    let stream = server.app().registry().find("test").unwrap();
    let id = serde_json::json!({ "mediaSessionId": stream.publication().media_session_id.as_str() });
    let mut begin = id.clone();
    begin["config"] = serde_json::json!({ "fileTemplate": "{streamName}-{duration}", "rotation": "100M" });
    assert_eq!(http.post("/rest-api/recorder/startup", &begin.to_string()).status, 200);
    let began = stream.facts().units;
    until("nothing comes", || stream.facts().units > began + 60);
    assert_eq!(http.post("/rest-api/recorder/terminate", &id.to_string()).status, 200);
    assert_eq!(http.post("/rest-api/recorder/terminate", &id.to_string()).status, 404);
    assert_eq!(http.post("/rest-api/recorder/startup", "{}").status, 400);
    assert_eq!(http.post("/rest-api/stream/startRecording", r#"{"mediaSessionId":"x"}"#).status, 404);
    let names: Vec<_> = std::fs::read_dir(server.folder().join("data/records"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
    let ms: u64 =
        names[0].strip_prefix("test-").and_then(|n| n.strip_suffix(".mp4")).unwrap().parse().unwrap();
    assert!((2000..20_000).contains(&ms), "{names:?}");
    assert!(server.app().registry().find("test").is_some());
}
