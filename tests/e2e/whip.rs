//! Publishing by plain HTTP (WHIP): an offer is posted, media comes from a browser's stand-in.

use std::sync::Arc;
use std::time::Duration;

use stillcast::base::clock::Clock;
use stillcast::proto::dtls::Certificate;
use stillcast::services::test_card::{CardSettings, annex_b_run, read_number};

use crate::support::browser::{Browser, BrowserSettings};
use crate::support::clip::Clip;
use crate::support::publishers::{Publisher, Publishers};
use crate::support::rest::{HttpClient, HttpResponse};
use crate::support::server::Server;

const LIMIT: Duration = Duration::from_secs(20);
const SIZE: (u32, u32) = (320, 240);
const SDP: (&str, &str) = ("Content-Type", "application/sdp");
const FRAGMENT: (&str, &str) = ("Content-Type", "application/trickle-ice-sdpfrag");

fn browser() -> Browser {
    let certificate = Arc::new(Certificate::generate().unwrap());
    Browser::new(BrowserSettings { seed: 3, video: true, audio: false, certificate }, Clock::real().now())
}

fn post(http: &mut HttpClient, target: &str, offer: &str) -> HttpResponse {
    http.request("POST", target, &[SDP], offer.as_bytes())
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let end = Clock::real().now() + LIMIT;
    while !holds() {
        assert!(Clock::real().now() < end, "{what}");
        let _ = crossbeam_channel::after(Duration::from_millis(10)).recv();
    }
}

#[test]
fn a_posted_offer_publishes_until_its_session_is_deleted() {
    let server = Server::start(&[], false);
    let clock = Clock::real();
    let mut http = HttpClient::connect(server.address("http"));
    let mut browser = browser();
    let created = post(&mut http, "/whip/K%C3%BCche%2F1", &browser.offer());
    assert_eq!((created.status, created.header("Content-Type")), (201, Some("application/sdp")));
    let session = created.header("Location").unwrap().to_owned();
    assert!(session.starts_with("/whip/K%C3%BCche%2F1/"), "{session}");

    let address = browser.take_answer(clock.now(), created.text());
    let settings = CardSettings { keyframe_interval: 30, ..CardSettings::sized(SIZE.0, SIZE.1) };
    let clip = Clip::read(&annex_b_run(settings, 0..30, &clock).unwrap(), 30).unwrap();
    let publisher = Publisher::new(browser, address, clip, true, false).unwrap();
    let _publishers = Publishers::start(vec![publisher], &clock).unwrap();
    let picture = http.get("/snapshots/K%C3%BCche%2F1.png");
    assert_eq!(picture.status, 200, "{}", picture.text());
    let mut reader = png::Decoder::new(std::io::Cursor::new(&picture.body)).read_info().unwrap();
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut rgb).unwrap();
    assert!(read_number(&rgb, SIZE.0, SIZE.1).is_some());

    let candidates = b"a=ice-ufrag:unknown\r\na=ice-pwd:unknown\r\n";
    assert_eq!(http.request("PATCH", &session, &[FRAGMENT], candidates).status, 422, "an ICE restart");
    let candidates = b"a=mid:0\r\na=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n";
    assert_eq!(http.request("PATCH", &session, &[FRAGMENT], candidates).status, 204);
    assert_eq!(http.request("DELETE", &session, &[], b"").status, 200);
    wait_until("the name is still taken", || server.app().registry().is_empty());
    assert_eq!(http.request("DELETE", &session, &[], b"").status, 404);
    assert_eq!(http.request("PATCH", &session, &[FRAGMENT], candidates).status, 404);
}

#[test]
fn what_cannot_be_published_is_told_by_its_status() {
    let server = Server::start(&[], true);
    let mut http = HttpClient::connect(server.address("http"));
    let offer = browser().offer();
    assert_eq!(
        post(&mut http, "/whip/test", &offer).error(409, "/whip/test"),
        "Stream name is already in use"
    );
    assert_eq!(post(&mut http, "/whip/a", "v=0").status, 400);
    assert_eq!(post(&mut http, "/whip/%FF", &offer).status, 400);
    assert_eq!(post(&mut http, "/whip/", &offer).status, 404);
    assert_eq!(
        http.request("POST", "/whip/a", &[("Content-Type", "text/plain")], offer.as_bytes()).status,
        415
    );
    let only_av1 = offer.replace("H264/90000", "AV1/90000").replace("VP8/90000", "VP9/90000");
    assert_eq!(post(&mut http, "/whip/a", &only_av1).status, 406);
    let refused = http.get("/whip/a");
    assert_eq!((refused.status, refused.header("Allow")), (405, Some("POST, OPTIONS")));
    let preflight = http.request("OPTIONS", "/whip/a", &[("Origin", "https://a.example")], b"");
    assert_eq!((preflight.status, preflight.header("Access-Control-Allow-Origin")), (204, Some("*")));
    assert!(preflight.header("Access-Control-Allow-Methods").unwrap().contains("DELETE"));
    assert_eq!(server.app().registry().len(), 1, "nothing but the test card");
}

#[test]
fn what_cannot_be_played_is_told_by_its_status() {
    let server = Server::start(&[("whep_token", "s3cret")], true);
    let card = || server.app().registry().find("test").and_then(|stream| stream.facts().video);
    wait_until("the test card does not come", || card().is_some());
    let mut http = HttpClient::connect(server.address("http"));
    let offer = browser().offer().replace("a=sendonly", "a=recvonly");
    let mut play = |name: &str, token: &str, offer: &str| {
        let target = format!("/whep/{name}");
        http.request("POST", &target, &[SDP, ("Authorization", token)], offer.as_bytes()).status
    };
    assert_eq!(play("test", "Bearer guess", &offer), 401);
    assert_eq!(play("absent", "Bearer s3cret", &offer), 404);
    assert_eq!(play("test", "Bearer s3cret", &offer.replace("H264/90000", "AV1/90000")), 406);
    assert_eq!(play("test", "Bearer s3cret", "v=0"), 400);
    assert_eq!(play("test", "Bearer s3cret", &offer), 201);
    assert_eq!(server.app().registry().viewers().len(), 1, "and it ends with the server");
}

#[test]
fn a_token_is_demanded_where_one_is_configured() {
    let server = Server::start(&[("whip_token", "s3cret")], false);
    let mut http = HttpClient::connect(server.address("http"));
    let offer = browser().offer();
    let refused = post(&mut http, "/whip/a", &offer);
    assert_eq!((refused.status, refused.header("WWW-Authenticate")), (401, Some("Bearer")));
    let mut with = |authorization: &str| {
        http.request("POST", "/whip/a", &[SDP, ("Authorization", authorization)], offer.as_bytes()).status
    };
    assert_eq!((with("Bearer wrong"), with("Basic s3cret"), with("Bearer")), (401, 401, 401));
    assert_eq!(with("bearer s3cret"), 201);
}
