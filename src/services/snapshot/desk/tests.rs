use super::*;
use crate::base::clock::Clock;
use crate::hub::GroupSpan;
use crate::media::track::{Colour, Rotation, VideoCodec, VideoParams};

const SETTINGS: DeskSettings = DeskSettings {
    watch: Duration::from_secs(5),
    watched_max: 2,
    keyframe_units: 60,
    slice: Duration::from_millis(100),
};

/// A desk whose streams are their epochs and whose replies are numbers.
struct Scene {
    clock: Clock,
    desk: Desk<u64, u32>,
}

impl Scene {
    fn new() -> Self {
        Self { clock: Clock::manual(), desk: Desk::new(SETTINGS) }
    }

    fn span(&self, first_seq: u64, newest_seq: u64) -> Span {
        let group = GroupSpan { first_seq, newest_seq, newest_arrived: self.clock.now() };
        Span { group: Some(group), next_seq: newest_seq + 1 }
    }

    fn ask(&mut self, epoch: u64, span: Span, limit_ms: u64, reply: u32) -> Actions<u64, u32> {
        let now = self.clock.now();
        let deadline = now + Duration::from_millis(limit_ms);
        let request = Request { scale: None, max_age: None, asked: now, deadline, reply };
        self.desk.request(now, (epoch, &epoch), span, request)
    }

    /// Asks for and decodes unit 0 of a stream; returns the watch that follows.
    fn decode(&mut self, epoch: u64) -> (Option<u64>, Actions<u64, u32>) {
        let span = self.span(0, 0);
        self.ask(epoch, span, 1000, 0);
        self.desk.begin(epoch).unwrap();
        self.desk.decoded(self.clock.now(), epoch, picture(&self.clock), 0)
    }
}

fn picture(clock: &Clock) -> Arc<YuvPicture> {
    let params = VideoParams {
        codec: VideoCodec::H264 { sps: vec![], pps: vec![] },
        width: 0,
        height: 0,
        sample_aspect_ratio: (1, 1),
        colour: Colour::unsaid(0, 0),
        rotation: Rotation::None,
    };
    let arrived = clock.now();
    Arc::new(YuvPicture {
        seq: 0,
        arrived,
        params: params.into(),
        sampling: Default::default(),
        y: vec![],
        u: vec![],
        v: vec![],
    })
}

fn timeouts(actions: &Actions<u64, u32>) -> Vec<u32> {
    let timeout = |action: &Action<u64, u32>| match action {
        Action::Answer { reply, result: Err(SnapshotError::Timeout), .. } => Some(*reply),
        _ => None,
    };
    actions.iter().filter_map(timeout).collect()
}

#[test]
fn the_watch_not_asked_for_longest_makes_room_for_a_new_one() {
    let mut scene = Scene::new();
    let (first, _) = scene.decode(1);
    scene.clock.advance(Duration::from_secs(1));
    let (second, _) = scene.decode(2);
    scene.clock.advance(Duration::from_secs(1));
    // The first is asked for again: now the second is the coldest.
    let span = scene.span(0, 0);
    scene.ask(1, span, 1000, 7);
    let (third, actions) = scene.decode(3);
    let ended: Vec<_> = actions
        .iter()
        .filter_map(|action| match action {
            Action::EndWatch { watch } => Some(*watch),
            _ => None,
        })
        .collect();
    assert_eq!(ended, [second.unwrap()]);
    let now = scene.clock.now();
    assert!(scene.desk.watch_until(now, 1, first.unwrap()).is_some());
    assert!(scene.desk.watch_until(now, 2, second.unwrap()).is_none());
    assert!(scene.desk.watch_until(now, 3, third.unwrap()).is_some());
}

#[test]
fn a_watch_ends_some_time_after_the_last_request_and_who_still_waits_gets_a_job() {
    let mut scene = Scene::new();
    let watch = scene.decode(1).0.unwrap();
    let until = scene.desk.watch_until(scene.clock.now(), 1, watch).unwrap();
    assert_eq!(until, scene.clock.now() + SETTINGS.watch);
    scene.clock.advance(Duration::from_secs(4));
    let span = scene.span(0, 9);
    let actions = scene.ask(1, span, 60_000, 7);
    assert!(!actions.iter().any(|action| matches!(action, Action::Decode { .. })), "the watch will bring it");
    scene.clock.advance(Duration::from_secs(4));
    assert!(scene.desk.watch_until(scene.clock.now(), 1, watch).is_some(), "asked for four seconds ago");
    scene.clock.advance(Duration::from_secs(1));
    assert!(scene.desk.watch_until(scene.clock.now(), 1, watch).is_none());
    let actions = scene.desk.watch_ended(scene.clock.now(), 1, watch);
    assert!(matches!(actions[..], [Action::Decode { epoch: 1 }, Action::Look]), "{actions:?}");
}

#[test]
fn each_waits_to_its_own_deadline_and_the_publisher_is_asked_again_in_each_slice() {
    let mut scene = Scene::new();
    let nothing = Span { group: None, next_seq: 5 };
    let rings = |actions: &Actions<u64, u32>| {
        actions.iter().filter(|action| matches!(action, Action::Ring { .. })).count()
    };
    let first = scene.ask(1, nothing, 250, 1);
    let second = scene.ask(1, nothing, 350, 2);
    assert_eq!((rings(&first), rings(&second)), (1, 0), "once for all who wait");
    let mut asked_again = 0;
    let mut late = Vec::new();
    while let Some(next) = scene.desk.next_look().filter(|_| late.len() < 2) {
        scene.clock.advance(next.saturating_duration_since(scene.clock.now()));
        let actions = scene.desk.look(scene.clock.now());
        asked_again += rings(&actions);
        late.extend(timeouts(&actions));
    }
    assert_eq!((asked_again, late), (3, vec![1, 2]));
    assert!(scene.desk.awaiting().is_empty(), "nobody waits: the stream is left alone");
}

#[test]
fn what_nobody_asks_for_is_forgotten() {
    let mut scene = Scene::new();
    let watch = scene.decode(1).0.unwrap();
    scene.desk.encoded(scene.clock.now(), 1, None, &Err(SnapshotError::Internal));
    scene.clock.advance(SETTINGS.watch);
    scene.desk.watch_ended(scene.clock.now(), 1, watch);
    while let Some(next) = scene.desk.next_look() {
        scene.clock.advance(next.saturating_duration_since(scene.clock.now()));
        scene.desk.look(scene.clock.now());
    }
    assert!(scene.desk.streams.is_empty() && scene.desk.waiting == 0);
}

#[test]
fn requests_beyond_the_bound_are_busy_and_a_job_that_serves_nobody_is_not_done() {
    let mut scene = Scene::new();
    let span = scene.span(0, 3);
    for reply in 0..WAITING_MAX as u32 {
        scene.ask(1, span, 10, reply);
    }
    let actions = scene.ask(1, span, 10, u32::MAX);
    let busy = |action: &Action<u64, u32>| {
        matches!(action, Action::Answer { reply: u32::MAX, result: Err(SnapshotError::Busy), .. })
    };
    assert!(actions.iter().any(busy));
    scene.clock.advance(Duration::from_millis(10));
    assert_eq!(timeouts(&scene.desk.look(scene.clock.now())).len(), WAITING_MAX);
    assert!(scene.desk.begin(1).is_none(), "all have gone");
    let again = scene.ask(1, span, 10, 1);
    assert!(again.iter().any(|action| matches!(action, Action::Decode { epoch: 1 })));
}

#[test]
fn a_stream_is_forgotten_some_time_after_its_watch_ended() {
    let mut scene = Scene::new();
    let (watch, _) = scene.decode(1);
    let now = scene.clock.now();
    scene.desk.encoded(now, 1, None, &Err(SnapshotError::Internal));
    scene.desk.look(now);
    assert_eq!(scene.desk.next_look(), None, "a watched stream is kept");
    let actions = scene.desk.watch_ended(now, 1, watch.unwrap());
    assert!(actions.iter().any(|action| matches!(action, Action::Look)), "{actions:?}");
    scene.clock.advance(KEPT);
    assert!(scene.desk.next_look().is_some_and(|at| at <= scene.clock.now()));
    scene.desk.look(scene.clock.now());
    assert!(scene.desk.streams.is_empty());
}
