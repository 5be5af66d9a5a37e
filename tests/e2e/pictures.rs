//! Pictures by GET.

use std::time::{Duration, UNIX_EPOCH};

use stillcast::services::test_card::{CardEncoder, CardSettings, push_cards};

use crate::support::rest::{HttpClient, HttpResponse};
use crate::support::site::{Options, TestSite, read_png};

fn picture(client: &mut HttpClient, target: &str) -> (u32, u32, Option<u32>) {
    let response = client.get(target);
    assert_eq!(response.status, 200, "{:?}", String::from_utf8_lossy(&response.body));
    read_png(&response.body)
}

fn header<'a>(response: &'a HttpResponse, name: &str) -> &'a str {
    response.header(name).unwrap_or_else(|| panic!("no {name} in {:?}", response.headers))
}

#[test]
fn each_picture_is_the_newest_and_tells_what_is_known_of_it() {
    let site = TestSite::start(Options::default());
    let (publisher, mut encoder) = site.publish_cards("cam 1", (320, 240), 4);
    let mut client = HttpClient::connect(site.address);
    let response = client.get("/snapshots/cam%201.png");
    assert_eq!(response.status, 200);
    assert_eq!(read_png(&response.body), (320, 240, Some(4)));
    assert_eq!(header(&response, "Content-Type"), "image/png");
    assert_eq!(header(&response, "Content-Length"), response.body.len().to_string());
    assert_eq!(header(&response, "Cache-Control"), "no-store");
    assert_eq!(header(&response, "X-Stream-Epoch"), publisher.stream().epoch().to_string());
    assert_eq!(header(&response, "Access-Control-Allow-Origin"), "*");
    assert!(header(&response, "Access-Control-Expose-Headers").contains("X-Frame-Age-Ms"));
    let age: u64 = header(&response, "X-Frame-Age-Ms").parse().unwrap();

    let captured = header(&response, "X-Capture-Time");
    assert_eq!((captured.len(), &captured[10..11], &captured[23..]), (24, "T", "Z"), "{captured}");
    let unit = publisher.stream().newest().unwrap();
    let arrived = site.clock.wall_at(unit.arrived).duration_since(UNIX_EPOCH).unwrap();
    let format = time::format_description::well_known::Rfc3339;
    let told = time::OffsetDateTime::parse(captured, &format).unwrap().unix_timestamp_nanos() / 1_000_000;
    assert!((told - arrived.as_millis() as i128).abs() <= 5, "{told} ms is not {arrived:?}");
    assert!(u128::from(age) <= site.clock.now().duration_since(unit.arrived).as_millis());
    let modified = httpdate::parse_http_date(header(&response, "Last-Modified")).unwrap();
    assert_eq!(modified.duration_since(UNIX_EPOCH).unwrap().as_secs() as i128, told / 1000);

    let head = client.request("HEAD", "/snapshots/cam%201.png", &[], b"");
    assert_eq!(head.status, 200);
    for name in ["Content-Length", "ETag", "X-Capture-Time"] {
        assert_eq!(head.header(name), response.header(name), "{name}");
    }
    let etag = header(&response, "ETag").to_owned();
    let known = [("If-None-Match", etag.as_str())];
    assert_eq!(client.request("GET", "/snapshots/cam%201.png", &known, b"").status, 304);

    push_cards(&publisher, &mut encoder, 5..7, &site.clock).unwrap();
    let next = client.request("GET", "/snapshots/cam%201.png", &known, b"");
    assert_eq!((next.status, read_png(&next.body)), (200, (320, 240, Some(6))));
    assert_ne!(next.header("ETag"), Some(etag.as_str()));
}

#[test]
fn names_with_slashes_are_names() {
    let site = TestSite::start(Options::default());
    let (_publisher, _) = site.publish_cards("rtsp://10.0.0.1/cam?a=1", (320, 240), 1);
    let mut client = HttpClient::connect(site.address);
    assert_eq!(picture(&mut client, "/snapshots/rtsp:%2F%2F10.0.0.1%2Fcam%3Fa=1.png").2, Some(1));
    assert_eq!(picture(&mut client, "/snapshots/rtsp://10.0.0.1/cam%3fa=1.png").2, Some(1));
}

#[test]
fn a_name_of_odd_characters_is_the_same_name_at_every_door() {
    let site = TestSite::start(Options::default());
    let names = ["..", "a\\b", "Küche 100% + \"1\" <#;&>", "日本.png", "%41", "+", "'; --"];
    let _publishers: Vec<_> = names.iter().map(|name| site.publish_cards(name, (320, 240), 1)).collect();
    let mut client = HttpClient::connect(site.address);
    for name in names {
        let encoded: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let response = client.get(&format!("/snapshots/{encoded}.png"));
        assert_eq!((response.status, read_png(&response.body).2), (200, Some(1)), "{name}");
        let info = png::Decoder::new(std::io::Cursor::new(&response.body)).read_info().unwrap();
        let latin =
            info.info().uncompressed_latin1_text.iter().map(|text| (&text.keyword, text.text.clone()));
        let utf_8 = info.info().utf8_text.iter().map(|text| (&text.keyword, text.get_text().unwrap()));
        let title = latin.chain(utf_8).find(|(keyword, _)| *keyword == "Title").unwrap().1;
        assert_eq!(title, name);
        let json = serde_json::json!({"streamName": name, "name": name}).to_string();
        assert_eq!(client.post("/rest-api/stream/snapshot", &json).status, 200, "{name}");
        assert_eq!(client.post("/rest-api/stream/find", &json).json()[0]["name"], name);
    }
}

#[test]
fn a_picture_is_scaled_into_the_box_or_over_it() {
    let site = TestSite::start(Options::default());
    let (_publisher, _) = site.publish_cards("cam", (640, 360), 3);
    let mut client = HttpClient::connect(site.address);
    assert_eq!(picture(&mut client, "/snapshots/cam.png?w=320"), (320, 180, Some(3)));
    assert_eq!(picture(&mut client, "/snapshots/cam.png?h=180"), (320, 180, Some(3)));
    assert_eq!(picture(&mut client, "/snapshots/cam.png?w=320&h=320&fit=contain"), (320, 180, Some(3)));
    let (width, height, _) = picture(&mut client, "/snapshots/cam.png?w=200&h=200&fit=cover");
    assert_eq!((width, height), (200, 200));
    let etag = |client: &mut HttpClient, query: &str| {
        header(&client.get(&format!("/snapshots/cam.png{query}")), "ETag").to_owned()
    };
    assert_ne!(etag(&mut client, ""), etag(&mut client, "?w=320"));
    for query in ["w=0", "w=99999", "h=x", "fit=stretch", "maxAgeMs=-1"] {
        client.get(&format!("/snapshots/cam.png?{query}")).error(400, "/snapshots/cam.png");
    }
}

#[test]
fn failures_say_which() {
    let mut options = Options::default();
    options.snapshots.limit = Duration::from_millis(300);
    let site = TestSite::start(options);
    let _silent = site.publish("silent", |_| {}, None);
    let _deaf = site.publish("radio", |publication| publication.has_video = false, None);
    let (_publisher, _) = site.publish_cards("old", (320, 240), 0);
    let mut client = HttpClient::connect(site.address);
    let mut message = |path: &str, status| client.get(path).error(status, path.split('?').next().unwrap());
    assert_eq!(message("/snapshots/nobody.png", 404), "Stream not found");
    message("/snapshots/../../etc/passwd.png", 404);
    message("/snapshots/..%2F..%2Fetc%2Fpasswd.png", 404);
    message(&format!("/snapshots/{}.png", "x".repeat(10_000)), 404);
    message("/snapshots/nobody", 404);
    message("/snapshots/%FF%FE.png", 400);
    assert_eq!(message("/snapshots/radio.png", 409), "Stream has no video");
    assert_eq!(message("/snapshots/silent.png", 504), "Snapshot response timeout");
    message("/snapshots/old.png?maxAgeMs=0", 504);
    assert_eq!(client.get("/snapshots/old.png?maxAgeMs=600000").status, 200);
    let post = client.post("/snapshots/old.png", "{}");
    post.error(405, "/snapshots/old.png");
    assert_eq!(post.header("Access-Control-Allow-Origin"), Some("*"));
}

#[test]
fn who_comes_when_all_are_busy_is_told_to_come_again() {
    const STREAMS: usize = 8;
    let mut options = Options::default();
    options.snapshots.queue_max = 1;
    let site = TestSite::start(options);
    let settings = CardSettings { keyframe_interval: u32::MAX, ..CardSettings::sized(1280, 720) };
    let mut encoder = CardEncoder::new(settings).unwrap();
    let units: Vec<_> =
        (0..60).map(|number| encoder.encode(number, site.clock.now(), site.clock.wall()).unwrap()).collect();
    let publishers: Vec<_> = (0..STREAMS)
        .map(|n| {
            let publisher = site.publish(&format!("cam{n}"), |_| {}, None);
            units.iter().for_each(|unit| publisher.push_video(unit.clone()));
            publisher
        })
        .collect();
    let mut clients: Vec<_> = (0..STREAMS).map(|_| HttpClient::connect(site.address)).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(format!("GET /snapshots/cam{n}.png HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
    }
    let mut served = 0;
    for (n, client) in clients.iter_mut().enumerate() {
        let response = client.read_response("GET");
        if response.status == 200 {
            assert_eq!(read_png(&response.body), (1280, 720, Some(59)));
            served += 1;
        } else {
            response.error(503, &format!("/snapshots/cam{n}.png"));
            assert_eq!(header(&response, "Retry-After"), "1");
        }
    }
    assert!(
        (1..STREAMS).contains(&served),
        "{served} of {STREAMS} were served by one decoder with one place to wait"
    );
    drop(publishers);
}
