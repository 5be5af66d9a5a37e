//! Players and publishers that come and go, as they should and rudely: nothing of them is left.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use stillcast::base::clock::Clock;
use stillcast::base::stop::StopSource;
use stillcast::proto::dtls::Certificate;

use super::publish::{Way, clip, publish_at};
use crate::support::browser::{Browser, BrowserSettings};
use crate::support::page::Page;
use crate::support::process::{PATIENCE, Process};
use crate::support::watcher::{Manner, Watcher};
use crate::support::watchers::Watchers;

/// Threads and open descriptors of a process.
fn held(process: &Process) -> (usize, usize) {
    let entries = |what| std::fs::read_dir(format!("/proc/{}/{what}", process.id())).unwrap().count();
    (entries("task"), entries("fd"))
}

/// Looks again and again until the process holds no more than it did.
fn wait_until_back_at(process: &Process, before: (usize, usize), what: &str) {
    let (clock, pause) = (Clock::real(), StopSource::new());
    let end = clock.now() + PATIENCE;
    loop {
        let now = held(process);
        if now.0 <= before.0 && now.1 <= before.1 {
            return;
        }
        assert!(
            clock.now() < end,
            "{what}: {now:?} threads and descriptors are held, before it was {before:?}"
        );
        let _ = pause.token().wait(Duration::from_millis(20));
    }
}

/// A server that gives up soon, with a stream to play.
fn start() -> (Process, super::publish::Live, std::net::SocketAddr) {
    let soon = ["ice_timeout_ms=1000", "ice_consent_timeout_ms=3000"].map(|setting| ["--set", setting]);
    let process = Process::start(soon.as_flattened());
    let address = process.value("ws").split("//").nth(1).unwrap();
    let address = address.split(['/', ' ']).next().unwrap().parse().unwrap();
    let live = publish_at(address, "cam", &clip(60, 30), Way::default());
    (process, live, address)
}

fn wait_for_picture(watchers: &Watchers) {
    let (clock, pause) = (Clock::real(), StopSource::new());
    let end = clock.now() + PATIENCE;
    while watchers.stats().iter().any(|stats| stats.first_picture.is_none()) {
        assert!(clock.now() < end, "no picture");
        let _ = pause.token().wait(Duration::from_millis(5));
    }
}

#[test]
fn players_leave_nothing_behind_however_they_leave() {
    let (process, _live, address) = start();
    let (clock, certificate) = (Clock::real(), Arc::new(Certificate::generate().unwrap()));
    let mut number = 0_u64;
    let mut play = |manner| {
        number += 1;
        let id = format!("m{number}");
        let mut page = Page::connect(address).unwrap();
        let mut watcher = Watcher::new(number, certificate.clone(), manner, 1, None).unwrap();
        let answer = page.play(&id, "cam", &watcher.offer()).unwrap();
        watcher.take_answer(clock.now(), &answer).unwrap();
        let watchers = Watchers::start(vec![watcher], None, &clock).unwrap();
        if manner == Manner::Watches {
            wait_for_picture(&watchers);
            assert_eq!(watchers.stats()[0].forged, 0);
        }
        (page, watchers, id)
    };
    // The first one sets up what stays.
    let (mut page, watchers, id) = play(Manner::Watches);
    page.stop(&id).unwrap();
    page.leave().unwrap();
    drop(watchers);
    let before = held(&process);
    let mut silent = Vec::new();
    for _ in 0..6 {
        let (mut page, watchers, id) = play(Manner::Watches);
        page.stop(&id).unwrap();
        page.leave().unwrap();
        drop(watchers);
        // Both connections break.
        drop(play(Manner::Watches));
        drop(play(Manner::NeverChecks));
        drop(play(Manner::NeverShakesHands));
        let (mut page, watchers, id) = play(Manner::NeverChecks);
        page.stop(&id).unwrap();
        drop((page, watchers));
        // Those that keep the page open are given up by the server itself.
        silent.push(play(Manner::NeverChecks).0);
        silent.push(play(Manner::NeverShakesHands).0);
        silent.push(play(Manner::Watches).0);
    }
    // A thread with a socket and what it waits on for each page that is still there, and nothing of the players.
    wait_until_back_at(&process, (before.0 + silent.len(), before.1 + 2 * silent.len()), "given up");
    drop(silent);
    wait_until_back_at(&process, before, "all are gone");
}

#[test]
fn publishers_leave_nothing_behind_however_they_leave() {
    let (process, live, address) = start();
    let clip = clip(60, 30);
    let (clock, certificate) = (Clock::real(), Arc::new(Certificate::generate().unwrap()));
    let without_media = |name: &str| {
        let settings =
            BrowserSettings { seed: 9, video: true, audio: true, certificate: certificate.clone() };
        let browser = Browser::new(settings, clock.now());
        let mut page = Page::connect(address).unwrap();
        page.publish(name, &browser.offer(), true).unwrap();
        page
    };
    let before = held(&process);
    let mut silent = Vec::new();
    for number in 0..6 {
        let mut live = publish_at(address, &format!("a{number}"), &clip, Way::default());
        live.page.unpublish().unwrap();
        live.page.leave().unwrap();
        drop(live.publishers);
        drop(publish_at(address, &format!("b{number}"), &clip, Way::default()));
        drop(without_media(&format!("c{number}")));
        silent.push(without_media(&format!("d{number}")));
        // Its media ends, its page stays.
        silent.push(publish_at(address, &format!("e{number}"), &clip, Way::default()).page);
    }
    wait_until_back_at(&process, (before.0 + silent.len(), before.1 + 2 * silent.len()), "given up");
    drop(silent);
    wait_until_back_at(&process, before, "all are gone");
    let mut page = live.page;
    page.say("pong", &json!(null)).unwrap();
    page.unpublish().expect("the stream that was there before is still there");
}
