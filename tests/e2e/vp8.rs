//! Publishers of VP8: a browser's stand-in without H.264, from datagrams to PNG.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use stillcast::base::clock::Clock;

use crate::publish::{Way, pixels, publish, references, snapshot, wait_for};
use crate::support::clip::Clip;
use crate::support::relay::Faults;
use crate::support::rest::HttpClient;
use crate::support::server::Server;

const LIMIT: Duration = Duration::from_secs(20);

/// Samples of `tests/data/vp8`, one after the other.
fn clip(names: &[&str]) -> Arc<Clip> {
    let file = |name: &&str| format!("{}/tests/data/vp8/{name}.ivf", env!("CARGO_MANIFEST_DIR"));
    let files: Vec<_> = names.iter().map(|name| std::fs::read(file(name)).unwrap()).collect();
    Clip::read_ivf(&files, 30).unwrap()
}

/// Which picture of a clip this is, sample for sample; hidden ones count, and match none.
fn place(clip: &Clip, references: &[Vec<u8>], rgb: &[u8]) -> usize {
    let shown = |place: &usize| !clip.pictures[*place].unit.hidden && references[*place] == rgb;
    (0..references.len()).find(shown).expect("a picture that was sent and is shown")
}

#[test]
fn a_browser_without_h264_publishes_vp8_and_each_picture_is_exact() {
    let clip = clip(&["realtime"]);
    let references = references(&clip);
    let server = Server::start(&[], false);
    let live = publish(&server, "fox", &clip, Way::default());
    wait_for(&live, |_| server.app().registry().find("fox").is_some_and(|stream| stream.facts().units > 0));
    let mut places = Vec::new();
    for taken in 0..12 {
        wait_for(&live, |state| state.pictures >= taken * 9);
        let picture = snapshot(&server, "fox").unwrap();
        assert_eq!((picture.width, picture.height), (426, 240));
        places.push(place(&clip, &references, &pixels(&picture.png)));
    }
    places.dedup();
    assert!(places.len() >= 10, "it moves: {places:?}");

    let mut http = HttpClient::connect(server.address("http"));
    let found = http.post("/rest-api/stream/find", r#"{"name":"fox"}"#);
    let Value::Array(streams) = found.json() else { panic!("{}", found.text()) };
    assert_eq!((&streams[0]["videoCodec"], &streams[0]["width"]), (&"VP8".into(), &426.into()));
    assert_eq!(http.get("/snapshots/fox.png").status, 200);
    assert_eq!(live.publishers.close()[0].closed, None);
}

#[test]
fn over_a_way_that_loses_pictures_of_vp8_are_exact() {
    let clip = clip(&["realtime"]);
    let references = references(&clip);
    let server = Server::start(&[], false);
    let delay = (Duration::from_millis(5), Duration::from_millis(25));
    let faults = Faults { seed: 5, loss: 0.08, delay };
    let live = publish(&server, "lossy", &clip, Way { faults: Some(faults), ..Way::default() });
    for taken in 0..20 {
        wait_for(&live, |state| state.pictures >= taken * 10);
        place(&clip, &references, &pixels(&snapshot(&server, "lossy").unwrap().png));
    }
    let state = live.publishers.close()[0];
    assert!(state.stats.nacks > 0 && state.stats.repeated > 0, "{state:?}");
}

#[test]
fn a_frame_that_is_not_to_be_shown_is_never_a_picture() {
    let clip = clip(&["altref"]);
    let references = references(&clip);
    let server = Server::start(&[("snapshot_auto_enabled", "true"), ("snapshot_auto_rate", "2")], false);
    let live = publish(&server, "hidden", &clip, Way::default());
    let end = Clock::real().now() + LIMIT;
    let mut places = std::collections::BTreeSet::new();
    // Without pause, so that some requests meet a hidden frame as the newest one, cold and watched.
    while places.len() < 25 {
        assert!(Clock::real().now() < end, "{places:?}");
        places.insert(place(&clip, &references, &pixels(&snapshot(&server, "hidden").unwrap().png)));
    }
    // Every second unit gives an automatic picture, or the one after it where it is hidden.
    let auto = |what: &str| server.app().metrics().auto_pictures_total.with_label_values(&[what]).get();
    wait_for(&live, |_| auto("written") >= 10);
    assert_eq!(auto("failed"), 0);
}

#[test]
fn a_new_size_in_mid_stream_gives_pictures_of_that_size() {
    let clip = clip(&["realtime", "partitions"]);
    let references = references(&clip);
    let server = Server::start(&[], false);
    let live = publish(&server, "sizes", &clip, Way::default());
    let mut sizes = std::collections::BTreeSet::new();
    let end = Clock::real().now() + LIMIT;
    while sizes.len() < 2 {
        assert!(Clock::real().now() < end, "{sizes:?}");
        let picture = snapshot(&server, "sizes").unwrap();
        let place = place(&clip, &references, &pixels(&picture.png));
        let params = &clip.pictures[place].unit.params;
        assert_eq!((picture.width, picture.height), (params.width, params.height));
        sizes.insert(picture.width);
    }
    live.publishers.close();
}
