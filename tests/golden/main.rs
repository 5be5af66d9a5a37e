//! Every picture is the right picture: streams of all kinds, made here with ffmpeg from the numbered test card, and each
//! snapshot of them compared with ffmpeg's own decoding of the same frame.
//!
//! ```text
//! test card ──► ffmpeg, encoder ──► units ──► carrier ──► hub ──► snapshot ──┐
//!                    └──────────► ffmpeg, decoder ──► the same frame ────────┴──► number, size, PSNR, mean difference
//! ```
//!
//! `table.rs` has a row for each kind with what must come of it: a right picture or a refusal that names the reason.
//! Which frame a snapshot shows is told by the card's number, and must be the one that is shown last of what was sent.

#[path = "../support/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "a set of tools for all topics, of which each takes some")]
mod support;

mod compare;
mod hub;
mod make;
mod table;
mod wire;

use std::time::Duration;

use stillcast::base::clock::Clock;

use crate::make::Stream;
use crate::support::server::Server;
use crate::table::{Expect, ROWS, Row};

/// Both passes of a row through one carrier; returns what was wrong.
fn run(row: &Row, stream: &Stream, watched: bool) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |text: String| {
        faults.push(format!("{}, {}: {text}", row.name, if watched { "watched" } else { "cold" }))
    };
    let shots = hub::snapshots(row, stream, watched);
    if shots.is_empty() {
        fault("no snapshot was taken".into());
    }
    for shot in shots {
        let sent = shot.sent;
        let refused = row.refused_until > 0 && sent <= row.refused_until;
        match (&row.expect, shot.outcome) {
            (Expect::Refused(text), Err(error)) if error == *text => {}
            (Expect::Right, Err(_)) if refused => {}
            (Expect::Right, Ok(snapshot)) if !refused => {
                let frame = stream.shown_last(sent);
                if let Err(text) = compare::with_frame(&snapshot, stream, frame) {
                    fault(format!("after {sent} units: {text}"));
                }
            }
            (_, Ok(snapshot)) => fault(format!(
                "after {sent} units: a picture of {}x{} where {:?} was due",
                snapshot.width, snapshot.height, row.expect
            )),
            (_, Err(error)) => fault(format!("after {sent} units: {error}")),
        }
    }
    faults
}

#[test]
fn every_picture_is_the_right_picture() {
    if let Err(error) = make::look_for_ffmpeg() {
        panic!("this test needs ffmpeg with libx264 ({error}); tools/install-test-deps installs it");
    }
    let only = std::env::var("GOLDEN").ok();
    let clock = Clock::real();
    let began = clock.now();
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&[], false);
    let (mut faults, mut slowest) = (Vec::new(), (Duration::ZERO, ""));
    for row in ROWS.iter().filter(|row| only.as_deref().is_none_or(|only| row.name.contains(only))) {
        let start = clock.now();
        let stream = make::stream(row, folder.path());
        for watched in [false, true] {
            faults.extend(run(row, &stream, watched));
        }
        for carrier in wire::CARRIERS.into_iter().filter(|_| wire::can_carry(row)) {
            if let Err(text) = wire::run(row, &stream, carrier, &server) {
                faults.push(format!("{}, {carrier:?}: {text}", row.name));
            }
        }
        let took = clock.now() - start;
        println!("{:<28} {:>6.2} s", row.name, took.as_secs_f64());
        if took > slowest.0 {
            slowest = (took, row.name);
        }
    }
    let took = (clock.now() - began).as_secs_f64();
    println!(
        "{} rows in {took:.1} s; the slowest is {} with {:.2} s",
        ROWS.len(),
        slowest.1,
        slowest.0.as_secs_f64()
    );
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
