//! An operator ends streams by REST: publishers really end, hear why, and their names are free.

use serde_json::json;
use stillcast::hub::EndReason;

use crate::publish::{Live, Way, clip, publish};
use crate::support::page::status_of;
use crate::support::rest::{HttpClient, HttpResponse};
use crate::support::server::Server;
use crate::support::site::{Options, TestSite};

const TERMINATE: &str = "/rest-api/stream/terminate";
const FIND: &str = "/rest-api/stream/find";
const FIND_ALL: &str = "/rest-api/stream/find_all";

fn assert_done(response: &HttpResponse) {
    assert_eq!((response.status, response.body.len()), (200, 0), "{}", response.text());
}

#[test]
fn a_page_hears_that_its_stream_was_terminated_and_may_publish_again_at_once() {
    let server = Server::start(&[], false);
    let clip = clip(300, 30);
    let mut live = publish(&server, "cam", &clip, Way::default());
    let other = publish(&server, "other", &clip, Way::default());
    let mut rest = HttpClient::connect(server.address("http"));
    let found = rest.post(FIND, r#"{"name":"cam","status":"PUBLISHING","display":["metrics"]}"#).json();
    let id = &found[0]["mediaSessionId"];
    assert_eq!(found.as_array().unwrap().len(), 1);

    assert_done(&rest.post(TERMINATE, &json!({ "mediaSessionId": id }).to_string()));
    // The answer comes when it is done, not before.
    rest.post(FIND, r#"{"name":"cam"}"#).error(404, FIND);
    let ended = live.page.wait_for(|message| status_of(message) == Some("UNPUBLISHED")).unwrap();
    assert_eq!(ended["data"][0]["info"], "Stopped by rest /terminate");
    live.publishers.close();

    let Live { page, publishers, .. } = publish(&server, "cam", &clip, Way::default());
    assert_eq!(rest.get(FIND_ALL).json().as_array().unwrap().len(), 2, "the other one lived on");
    page.close().unwrap();
    publishers.close();
    other.page.close().unwrap();
    other.publishers.close();
}

#[test]
fn loss_on_the_way_shows_in_the_metrics_of_a_stream() {
    let server = Server::start(&[], false);
    let live = publish(&server, "cam", &clip(300, 30), Way::default());
    let mut rest = HttpClient::connect(server.address("http"));
    let ask = r#"{"name":"cam","display":["metrics"]}"#;
    let metrics = loop {
        let metrics = rest.post(FIND, ask).json()[0]["metrics"].clone();
        if metrics["VIDEO_LOST"].is_u64() {
            break metrics;
        }
        assert!(live.publishers.states()[0].closed.is_none());
        let _ = crossbeam_channel::after(std::time::Duration::from_millis(50)).recv();
    };
    assert_eq!((&metrics["VIDEO_LOST"], &metrics["VIDEO_NACK"]), (&json!(0), &json!(0)), "{metrics}");
    assert_eq!(metrics["VIDEO_WIDTH"], 320);
    live.page.close().unwrap();
    live.publishers.close();
}

#[test]
fn the_test_card_ends_as_others_do_and_an_empty_query_means_everything() {
    let server = Server::start(&[("demo_size", "320x180")], true);
    let stream = server.app().registry().find("test").unwrap();
    let mut rest = HttpClient::connect(server.address("http"));
    rest.post(TERMINATE, r#"{"mediaProvider":"Flash"}"#).error(404, TERMINATE);
    rest.request("HEAD", TERMINATE, &[], b"");
    assert_eq!(stream.ended(), None, "HEAD changes nothing");
    assert_done(&rest.post(TERMINATE, ""));
    assert_eq!(stream.ended(), Some(EndReason::Terminated));
    rest.get(FIND_ALL).error(404, FIND_ALL);
    rest.post(TERMINATE, "{}").error(404, TERMINATE);
}

#[test]
fn only_what_is_meant_is_ended_and_a_publisher_that_does_not_listen_is_told_of() {
    let site = TestSite::start(Options::default());
    let deaf: Vec<_> = ["a", "b"].map(|name| site.publish(name, |_| {}, None)).into();
    let mut rest = HttpClient::connect(site.address);
    for unclear in [r#"{"nmae":"a"}"#, r#"{"name":null}"#, r#"{"mediaSessionIds":"session of a"}"#, "[]", "x"]
    {
        rest.post(TERMINATE, unclear).error(400, TERMINATE);
    }
    for nobody in [r#"{"name":"c"}"#, r#"{"mediaSessionIds":[]}"#, r#"{"published":false}"#] {
        rest.post(TERMINATE, nobody).error(404, TERMINATE);
    }
    assert!(deaf.iter().all(|publisher| publisher.asked_to_end().is_none()));
    let message =
        rest.post(TERMINATE, r#"{"mediaSessionIds":["session of b","none"]}"#).error(500, TERMINATE);
    assert_eq!(message, "1 streams did not end in time");
    let asked: Vec<_> = deaf.iter().map(|publisher| publisher.asked_to_end().is_some()).collect();
    assert_eq!(asked, [false, true]);
}
