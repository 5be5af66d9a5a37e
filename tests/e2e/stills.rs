//! Small pictures for lists, and the list itself.

use serde_json::json;
use stillcast::services::test_card::push_cards;

use crate::support::rest::HttpClient;
use crate::support::site::{Options, TestSite, read_png};

const LIST: &str = "/rest-api/stream/list";

#[test]
fn a_still_shows_the_newest_keyframe_and_an_unchanged_one_costs_nothing() {
    let site = TestSite::start(Options::default());
    let (publisher, mut encoder) = site.publish_cards("cam1", (640, 360), 5);
    let mut client = HttpClient::connect(site.address);
    let first = client.get("/stills/cam1.png");
    assert_eq!((first.status, first.header("Content-Type")), (200, Some("image/png")), "{}", first.text());
    assert_eq!(
        read_png(&first.body),
        (320, 180, Some(0)),
        "the keyframe, though five pictures came after it"
    );
    let tag = first.header("ETag").unwrap().to_owned();
    let costs = || (site.metrics.units_decoded_total.get(), site.metrics.pictures_encoded_total.get());
    assert_eq!(costs(), (1, 1));
    let unchanged = client.request("GET", "/stills/cam1.png", &[("If-None-Match", &tag)], b"");
    assert_eq!((unchanged.status, unchanged.body.len(), unchanged.header("ETag")), (304, 0, Some(&*tag)));
    assert_eq!(client.get("/stills/cam1.png").body, first.body, "for another reader");
    assert_eq!(costs(), (1, 1));

    encoder.request_keyframe();
    push_cards(&publisher, &mut encoder, 6..8, &site.clock).unwrap();
    let second = client.request("GET", "/stills/cam1.png", &[("If-None-Match", &tag)], b"");
    assert_eq!((second.status, read_png(&second.body)), (200, (320, 180, Some(6))));
    let smaller = client.get("/stills/cam1.png?w=160");
    assert_eq!(read_png(&smaller.body).0, 160);
    assert_ne!(smaller.header("ETag"), second.header("ETag"));
    assert!(second.header("X-Frame-Age-Ms").unwrap().parse::<u64>().unwrap() < 10_000);
}

#[test]
fn a_still_that_cannot_be_had_says_why() {
    let site = TestSite::start(Options::default());
    let sound = site.publish("sound", |publication| publication.has_video = false, None);
    let _silent = site.publish("silent", |_| {}, None);
    let mut client = HttpClient::connect(site.address);
    let mut message = |path: &str, status| client.get(path).error(status, path.split('?').next().unwrap());
    assert_eq!(message("/stills/nobody.png", 404), "Stream not found");
    assert_eq!(message("/stills/sound.png", 409), "Stream has no video");
    assert_eq!(message("/stills/silent.png", 503), "No keyframe yet");
    message("/stills/silent.png?w=0", 400);
    message("/stills/..%2f..%2fetc%2fpasswd.png", 404);
    message("/stills/", 404);
    drop(sound);
    let (_cam, _) = site.publish_cards("cam", (320, 180), 0);
    assert_eq!(client.get("/stills/cam.png?w=641").status, 400, "stills are small");
}

#[test]
fn the_list_tells_of_all_streams_in_few_words_and_of_none_without_an_error() {
    let site = TestSite::start(Options::default());
    let mut client = HttpClient::connect(site.address);
    let empty = client.get(LIST);
    assert_eq!((empty.status, &empty.json()["streams"]), (200, &json!([])));
    let (_one, _) = site.publish_cards("rtsp://cam/1?x=y", (320, 240), 3);
    let _two = site.publish("<b>\"two\"</b>", |publication| publication.has_video = false, None);
    let list = client.get(LIST).json();
    let (one, two) = (&list["streams"][0], &list["streams"][1]);
    assert_eq!(two["name"], "<b>\"two\"</b>");
    assert_eq!((&two["hasVideo"], &two["width"], &two["isLive"]), (&json!(false), &json!(0), &json!(true)));
    let expected = json!({
        "name": "rtsp://cam/1?x=y", "epoch": one["epoch"], "protocol": "rtsp_pull", "isLive": true,
        "hasVideo": true, "hasAudio": false, "width": 320, "height": 240, "videoCodec": "H264", "audioCodec": "",
        "videoMuted": false, "audioMuted": false, "createDate": one["createDate"], "bitrate": one["bitrate"],
        "fps": one["fps"], "viewers": 0,
    });
    assert_eq!(one, &expected);
    let age = list["now"].as_u64().unwrap() - one["createDate"].as_u64().unwrap();
    assert!(age < 60_000 && one["fps"].as_f64().unwrap() > 0.0, "{list}");
    assert!(!list.to_string().contains("ice-"), "no offers");
}
