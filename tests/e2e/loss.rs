//! What a viewer behind a bad network sees: how long pictures stand still, and that they go on.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use stillcast::base::clock::Clock;
use stillcast::base::threads::{STACK_CODEC_BYTES, spawn};

use super::publish::{Way, clip, publish};
use crate::support::page::Page;
use crate::support::relay::{Faults, Relay};
use crate::support::server::Server;
use crate::support::viewer::Viewer;

const PICTURE: Duration = Duration::from_millis(33);
const LIMIT: Duration = Duration::from_secs(20);

/// Freezes as `RTCInboundRtpStreamStats` counts them (webrtc-stats, `freezeCount`): a picture that stands for longer than three
/// times the usual, and for 150 ms more than that.
#[derive(Clone, Copy, Debug, Default)]
struct Frozen {
    count: usize,
    sum: Duration,
    longest: Duration,
}

impl Frozen {
    fn of(times: &[Instant]) -> Self {
        let limit = (PICTURE * 3).max(PICTURE + Duration::from_millis(150));
        let stood = times.windows(2).map(|pair| pair[1] - pair[0]).filter(|stood| *stood > limit);
        stood.fold(Self::default(), |frozen, stood| Self {
            count: frozen.count + 1,
            sum: frozen.sum + stood,
            longest: frozen.longest.max(stood),
        })
    }
}

/// A viewer behind a relay, with its first picture.
fn watch(server: &Server, id: &str, faults: Faults) -> (Page, Viewer, Relay) {
    let mut page = Page::connect(server.address("ws")).unwrap();
    let mut viewer = Viewer::new(faults.seed);
    let answer = page.play(id, "cam", &viewer.offer()).unwrap();
    // The relay has to know where to.
    let media = Viewer::new(0).take_answer(&answer, None);
    let relay = Relay::start(media, faults, &Clock::real()).unwrap();
    viewer.take_answer(&answer, Some(relay.address()));
    assert!(viewer.run_until(LIMIT, |viewer| !viewer.pictures.is_empty()), "no picture at {faults:?}");
    (page, viewer, relay)
}

#[test]
fn losses_freeze_pictures_for_a_moment_at_most_and_none_is_wrong() {
    let server = Server::start(&[], false);
    let clip = clip(150, 30);
    let _live = publish(&server, "cam", &clip, Way::default());
    let watched = Duration::from_secs(8);
    let delay = (Duration::from_millis(20), Duration::from_millis(30));
    let rates = [0.0, 0.02, 0.05, 0.10];
    let mut running = Vec::new();
    for (number, loss) in rates.into_iter().enumerate() {
        let (page, mut viewer, relay) =
            watch(&server, &format!("m{number}"), Faults { seed: 40 + number as u64, loss, delay });
        let (sender, seen) = crossbeam_channel::bounded(1);
        spawn(format!("viewer-{number}"), STACK_CODEC_BYTES, move || {
            viewer.run_until(watched, |_| false);
            let _ = sender.send((viewer, relay.counts()));
            drop((page, relay));
        })
        .unwrap();
        running.push((loss, seen));
    }
    let sent: HashSet<_> = clip.pictures.iter().map(|picture| picture.unit.data.clone()).collect();
    for (loss, seen) in running {
        let (viewer, (lost, carried)) = seen.recv_timeout(LIMIT).unwrap();
        assert!(
            viewer.pictures.iter().all(|(_, unit)| sent.contains(&unit.data)),
            "a picture that was not sent"
        );
        let times: Vec<Instant> = viewer.pictures.iter().map(|(at, _)| *at).collect();
        let frozen = Frozen::of(&times);
        println!(
            "{:.0} % lost each way ({lost} of {}): {} pictures, {} freezes, {:?} of {watched:?}, the longest {:?}, {} gaps",
            loss * 100.0,
            lost + carried,
            times.len(),
            frozen.count,
            frozen.sum,
            frozen.longest,
            viewer.gaps
        );
        assert!(loss == 0.0 || lost > 0);
        // A stream that does not recover gets half of its pictures or less.
        let expected = watched.as_millis() as usize / 33;
        assert!(times.len() > expected * 3 / 5, "{} of {expected} pictures at {loss}", times.len());
        assert!(frozen.longest < Duration::from_secs(2), "{frozen:?} at {loss}");
    }
}

#[test]
fn a_network_that_is_gone_for_a_while_freezes_pictures_no_longer_than_that() {
    let server = Server::start(&[], false);
    let clip = clip(150, 30);
    let _live = publish(&server, "cam", &clip, Way::default());
    let delay = (Duration::from_millis(20), Duration::from_millis(30));
    let (_page, mut viewer, relay) = watch(&server, "m", Faults { seed: 3, loss: 0.0, delay });
    let clock = Clock::real();
    for outage in [Duration::from_millis(300), Duration::from_millis(2500)] {
        viewer.run_until(Duration::from_secs(1), |_| false);
        relay.cut(true);
        viewer.run_until(outage, |_| false);
        relay.cut(false);
        let (began, before) = (clock.now(), viewer.pictures.len());
        assert!(viewer.run_until(LIMIT, |viewer| viewer.pictures.len() > before + 20), "it does not go on");
        let back = viewer.pictures[before].0 - began;
        println!("{outage:?} without a network: the next picture {back:?} after its return");
        assert!(back < Duration::from_secs(5), "{back:?}");
    }
}
