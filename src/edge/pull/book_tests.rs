//! What the book decides, by a clock that is moved by hand.

use crossbeam_channel::{Receiver, bounded};

use super::*;
use crate::base::clock::Clock;
use crate::base::wait::Waiter;
use crate::hub::{GopLimits, Publication, Publisher, Registry, SourceProtocol};

const IDLE: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(20);
const URI: &str = "rtsp://cam.example/1";

struct Desk {
    book: Book,
    clock: Clock,
    publisher: Publisher,
    waiter: Waiter,
}

type Told = Receiver<Result<Arc<Stream>, PullError>>;

fn told() -> (Ready, Told) {
    let (sender, receiver) = bounded(2);
    (Box::new(move |result| sender.send(result).unwrap()), receiver)
}

impl Desk {
    fn new() -> Self {
        let clock = Clock::manual();
        let registry = Registry::new(GopLimits { units: 10, bytes: 1000 }, 10);
        let (name, id) = (StreamName::new("x").unwrap(), MediaSessionId::new("m").unwrap());
        let publication = Publication::new(name, id, SourceProtocol::RtspPull, clock.wall());
        let publisher = registry.publish(publication, None).unwrap();
        Self { book: Book::new(2, IDLE, PATIENCE), clock, publisher, waiter: Waiter::new().unwrap() }
    }

    /// A pull of number 1.
    fn with(kept: bool) -> Self {
        let mut desk = Self::new();
        let now = desk.clock.now();
        desk.book.enter(desk.new_pull(1, URI, kept), now);
        desk
    }

    fn new_pull(&self, number: u64, uri: &str, kept: bool) -> NewPull {
        let source = Arc::new(Source::parse(uri).unwrap());
        NewPull {
            number,
            name: source.name().clone(),
            source,
            media_session_id: MediaSessionId::new("m").unwrap(),
            remote_session_id: "r".into(),
            kept,
            waker: self.waiter.waker(),
        }
    }

    fn join(&mut self) -> Told {
        let (ready, told) = told();
        let now = self.clock.now();
        self.book.join(1, now, ready).give();
        told
    }

    fn up(&mut self) {
        let (stream, now) = (self.publisher.stream().clone(), self.clock.now());
        self.book.up(1, &stream, now).give();
    }

    fn leave(&mut self) {
        let now = self.clock.now();
        self.book.leave(1, now);
    }

    fn after(&mut self, outcome: Outcome) -> Next {
        let (next, answers) = self.book.after(1, outcome, self.clock.now(), 0.5);
        answers.give();
        next
    }

    /// Seconds of the rest after a loss of a stream that was up for so long.
    fn rest_after(&mut self, up: Duration) -> f64 {
        self.up();
        self.clock.advance(up);
        let Next::Rest(until) = self.after(Outcome::Lost) else { panic!("no rest") };
        let rest = until - self.clock.now();
        self.clock.advance(rest);
        let now = self.clock.now();
        assert_eq!(self.book.resting(1, now).0, Next::Again);
        rest.as_secs_f64()
    }

    fn is_idle(&mut self, watched: bool, asked: Option<Instant>) -> bool {
        let now = self.clock.now();
        self.book.is_idle(1, now, watched, asked)
    }
}

#[test]
fn rests_double_up_to_half_a_minute_and_begin_anew_after_a_good_time() {
    let mut desk = Desk::with(true);
    let bad = Duration::from_secs(1);
    let rests: Vec<_> = (0..7).map(|_| desk.rest_after(bad)).collect();
    assert_eq!(rests, [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
    assert_eq!(desk.rest_after(Duration::from_secs(10)), 1.0);
    assert_eq!(desk.after(Outcome::Failed(PullError::RtspConnect)), Next::Rest(desk.clock.now() + 2 * bad));
    let Next::Rest(most) = desk.book.after(1, Outcome::Lost, desk.clock.now(), 1.0).0 else { panic!() };
    let Next::Rest(least) = desk.book.after(1, Outcome::Lost, desk.clock.now(), 0.0).0 else { panic!() };
    assert_eq!((most - desk.clock.now()).as_secs_f64(), 4.0 * 1.2);
    assert_eq!((least - desk.clock.now()).as_secs_f64(), 8.0 * 0.8);
}

#[test]
fn one_that_never_came_up_is_not_tried_again_and_everybody_hears_why() {
    for kept in [false, true] {
        let mut desk = Desk::with(kept);
        let (first, second) = (desk.join(), desk.join());
        assert_eq!(desk.after(Outcome::Failed(PullError::RtspNotFound)), Next::Over);
        for told in [first, second] {
            assert_eq!(told.try_recv().unwrap().unwrap_err(), PullError::RtspNotFound);
        }
        assert!(desk.book.by_uri(URI).is_none());
        let late = desk.join();
        assert_eq!(late.try_recv().unwrap().unwrap_err(), PullError::Gone);
    }
}

#[test]
fn all_who_wait_are_told_when_it_is_up_and_later_ones_at_once() {
    let mut desk = Desk::with(false);
    let (first, second) = (desk.join(), desk.join());
    assert!(first.try_recv().is_err());
    desk.up();
    let third = desk.join();
    for told in [&first, &second, &third] {
        assert_eq!(told.try_recv().unwrap().unwrap().publication().name.as_str(), "x");
        assert!(told.try_recv().is_err(), "told once");
    }
    assert_eq!(desk.book.by_uri(URI).unwrap().watchers, 3);
}

#[test]
fn nobody_watching_for_long_enough_ends_it_unless_an_operator_keeps_it() {
    let mut desk = Desk::with(false);
    let _first = desk.join();
    desk.up();
    desk.clock.advance(IDLE * 2);
    assert!(!desk.is_idle(false, None), "somebody watches");
    desk.leave();
    desk.clock.advance(IDLE / 2);
    assert!(!desk.is_idle(false, None));
    desk.clock.advance(IDLE / 2);
    let now = desk.clock.now();
    assert!(desk.is_idle(false, None));
    assert!(!desk.is_idle(false, Some(now - IDLE / 2)), "a picture was asked for");
    assert!(!desk.is_idle(true, None), "somebody watches who is not in the book");
    assert!(!desk.is_idle(false, None), "and left just now");
    desk.clock.advance(IDLE);
    assert!(desk.is_idle(false, None));
    let mut kept = Desk::with(true);
    kept.up();
    kept.clock.advance(IDLE * 100);
    assert!(!kept.is_idle(false, None));
}

#[test]
fn whoever_comes_while_it_is_let_go_gets_it_again() {
    let mut desk = Desk::with(false);
    desk.up();
    desk.clock.advance(IDLE);
    assert!(desk.is_idle(false, None));
    let late = desk.join();
    assert_eq!(desk.after(Outcome::Idle), Next::Again);
    assert!(late.try_recv().is_err(), "it waits for the next stream");
    desk.up();
    assert!(late.try_recv().unwrap().is_ok());
    desk.leave();
    assert_eq!(desk.after(Outcome::Idle), Next::Over);
    assert!(desk.book.by_uri(URI).is_none());
}

#[test]
fn at_rest_those_wait_whose_patience_reaches_the_next_attempt() {
    let mut desk = Desk::with(true);
    for _ in 0..4 {
        desk.rest_after(Duration::ZERO);
    }
    desk.up();
    // Sixteen seconds now, thirty next time.
    assert!(matches!(desk.after(Outcome::Lost), Next::Rest(_)));
    let patient = desk.join();
    assert!(patient.try_recv().is_err());
    desk.clock.advance(Duration::from_secs(16));
    assert_eq!(desk.book.resting(1, desk.clock.now()).0, Next::Again);
    assert!(matches!(desk.after(Outcome::Failed(PullError::RtspConnect)), Next::Rest(_)));
    assert_eq!(
        patient.try_recv().unwrap().unwrap_err(),
        PullError::RtspConnect,
        "thirty seconds are too long"
    );
    let another = desk.join();
    assert_eq!(another.try_recv().unwrap().unwrap_err(), PullError::RtspConnect);
    desk.clock.advance(Duration::from_secs(15));
    let third = desk.join();
    assert!(third.try_recv().is_err());
    desk.clock.advance(Duration::from_secs(15));
    assert_eq!(desk.book.resting(1, desk.clock.now()).0, Next::Again);
    desk.clock.advance(PATIENCE);
    let now = desk.clock.now();
    desk.book.expire(1, now).give();
    assert_eq!(third.try_recv().unwrap().unwrap_err(), PullError::NotReady);
}

#[test]
fn at_rest_without_anybody_it_is_over_after_the_idle_time() {
    let mut desk = Desk::with(false);
    let _viewer = desk.join();
    desk.up();
    desk.leave();
    let begun = desk.clock.now();
    loop {
        match desk.after(Outcome::Failed(PullError::RtspConnect)) {
            Next::Rest(until) => desk.clock.advance(until - desk.clock.now()),
            other => panic!("{other:?}"),
        }
        let now = desk.clock.now();
        match desk.book.resting(1, now).0 {
            Next::Again => assert!(now - begun < IDLE),
            Next::Over => break,
            Next::Rest(at) => desk.clock.advance(at - now),
        }
    }
    assert!(desk.clock.now() - begun >= IDLE && desk.book.by_uri(URI).is_none());
}

#[test]
fn an_end_that_was_asked_for_is_an_end_at_rest_and_on_the_way() {
    let mut desk = Desk::with(true);
    desk.rest_after(Duration::ZERO);
    let waiting = desk.join();
    desk.book.by_uri(URI).unwrap().asked_to_end = Some(EndReason::Terminated);
    let now = desk.clock.now();
    let (next, answers) = desk.book.resting(1, now);
    answers.give();
    assert_eq!((next, waiting.try_recv().unwrap().unwrap_err()), (Next::Over, PullError::Gone));

    let mut desk = Desk::with(true);
    desk.rest_after(Duration::ZERO);
    let waiting = desk.join();
    desk.book.close();
    assert_eq!(desk.after(Outcome::Failed(PullError::RtspConnect)), Next::Over);
    assert_eq!(waiting.try_recv().unwrap().unwrap_err(), PullError::Stopping);
    assert_eq!(desk.book.admit(), Err(PullError::Stopping));
}

#[test]
fn there_are_only_so_many() {
    let mut desk = Desk::new();
    let now = desk.clock.now();
    for (number, uri) in [(1, "rtsp://a.example/"), (2, "rtsp://b.example/")] {
        assert_eq!(desk.book.admit(), Ok(()));
        desk.book.enter(desk.new_pull(number, uri, false), now);
    }
    assert_eq!(desk.book.admit(), Err(PullError::TooMany));
    desk.book.remove(2, &PullError::Gone).give();
    assert_eq!(desk.book.admit(), Ok(()));
}
