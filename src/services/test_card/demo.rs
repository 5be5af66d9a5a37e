//! The card as a live stream.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};

use super::{CardEncoder, CardError, CardSettings};
use crate::base::clock::Clock;
use crate::base::id::{MediaSessionId, StreamName, random_id};
use crate::base::stop::{StopSource, StopToken};
use crate::base::tally::Tally;
use crate::base::threads::{STACK_CODEC_BYTES, Thread, spawn};
use crate::hub::{Bell, EndReason, Publication, Publisher, Registry, SourceProtocol};

/// What is shown, and under which name.
#[derive(Clone, Debug)]
pub struct DemoSettings {
    /// The published name.
    pub stream_name: String,
    /// Backend application key, as REST shows it.
    pub app_key: String,
    /// Size, rate and keyframes.
    pub card: CardSettings,
}

impl DemoSettings {
    /// The stream `test`: 1280×720, 30 pictures a second, a keyframe every two seconds and on request.
    #[must_use]
    pub fn standard() -> Self {
        let card = CardSettings { keyframe_interval: 60, ..CardSettings::sized(1280, 720) };
        Self { stream_name: "test".into(), app_key: "defaultApp".into(), card }
    }
}

/// A thread that publishes the card in real time. Dropping it ends the stream.
#[derive(Debug)]
pub struct DemoPublisher {
    stop: StopSource,
    thread: Option<Thread>,
}

/// How long an end may take: one picture, and the machine's mood.
const END_LIMIT: Duration = Duration::from_secs(2);

impl DemoPublisher {
    /// Takes the name and starts. Frame n is made n / `frames_per_second` after the start, by `clock` (which has to
    /// run); a machine that is too slow leaves numbers out rather than fall behind.
    ///
    /// # Errors
    /// When the name is taken, the size is not usable, or the system refuses a thread.
    pub fn start(settings: DemoSettings, registry: &Registry, clock: Clock) -> Result<Self, CardError> {
        let encoder = CardEncoder::new(settings.card)?;
        let (bell, rung) = Bell::new(None);
        let publisher = registry.publish(publication(&settings, &clock)?, Some(bell))?;
        let stop = StopSource::new();
        let token = stop.token();
        let name = format!("card-{}", publisher.stream().publication().media_session_id);
        let thread = spawn(name, STACK_CODEC_BYTES, move || {
            let pace = Pace::new(clock.now(), settings.card.frames_per_second);
            run(publisher, encoder, pace, &clock, &token, &rung);
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends the stream and waits for its thread, at most two seconds; returns whether it ended.
    pub fn stop(mut self) -> bool {
        self.end()
    }

    fn end(&mut self) -> bool {
        self.stop.set();
        self.thread.take().is_none_or(|thread| thread.join(END_LIMIT))
    }
}

impl Drop for DemoPublisher {
    fn drop(&mut self) {
        self.end();
    }
}

fn publication(settings: &DemoSettings, clock: &Clock) -> Result<Publication, CardError> {
    Ok(Publication {
        app_key: settings.app_key.clone(),
        ..Publication::new(
            StreamName::new(&settings.stream_name)?,
            MediaSessionId::new(&random_id())?,
            SourceProtocol::TestCard,
            clock.wall(),
        )
    })
}

fn run(
    publisher: Publisher,
    mut encoder: CardEncoder,
    pace: Pace,
    clock: &Clock,
    stop: &StopToken,
    bell: &Receiver<()>,
) {
    publisher.set_publishing();
    let mut failures = Tally::new("test cards not encoded");
    let mut number = 0;
    loop {
        let wait = pace.due(number).saturating_duration_since(clock.now());
        select! {
            recv(stop.channel()) -> _ => break,
            recv(bell) -> rung => {
                // The bell lives in the stream, which our publisher holds: it cannot be gone.
                if let Some(reason) = publisher.asked_to_end() {
                    publisher.end(reason);
                    return;
                }
                if rung.is_ok() {
                    encoder.request_keyframe();
                }
                continue;
            }
            default(wait) => {}
        }
        match encoder.encode(number, clock.now(), clock.wall()) {
            Ok(unit) => publisher.push_video(unit),
            Err(error) => failures.add(clock.now(), 1, || error.to_string()),
        }
        number = pace.next(number, clock.now());
    }
    publisher.end(EndReason::Shutdown);
}

/// When each frame is due: always counted from the start, so that no error adds up.
#[derive(Clone, Copy, Debug)]
struct Pace {
    start: Instant,
    frames_per_second: u32,
}

impl Pace {
    fn new(start: Instant, frames_per_second: u32) -> Self {
        Self { start, frames_per_second: frames_per_second.max(1) }
    }

    fn due(self, number: u32) -> Instant {
        let nanos = u64::from(number) * 1_000_000_000 / u64::from(self.frames_per_second);
        self.start + Duration::from_nanos(nanos)
    }

    /// The frame after `number`, or the latest one that is due already.
    fn next(self, number: u32, now: Instant) -> u32 {
        let passed = now.saturating_duration_since(self.start).as_nanos();
        let due = passed * u128::from(self.frames_per_second) / 1_000_000_000;
        u32::try_from(due).unwrap_or(u32::MAX).max(number.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::GopLimits;
    use crate::media::unit::MediaUnit;

    #[test]
    fn the_card_flows_answers_the_bell_and_ends_with_its_owner() {
        let clock = Clock::real();
        let registry = Registry::new(GopLimits { units: 600, bytes: 1 << 24 }, 2);
        let card = CardSettings { keyframe_interval: 0, ..CardSettings::sized(160, 90) };
        let settings = DemoSettings { card, ..DemoSettings::standard() };
        let demo = DemoPublisher::start(settings.clone(), &registry, clock.clone()).unwrap();
        assert!(DemoPublisher::start(settings, &registry, clock).is_err(), "the name is taken");
        let stream = registry.find("test").unwrap();
        let live = stream.subscribe(64, None).live;
        let next = || match live.receiver().recv_timeout(Duration::from_secs(20)).unwrap() {
            MediaUnit::Video(unit) => unit,
            MediaUnit::Audio(_) => panic!("it has no sound"),
        };
        while next().key {}
        stream.request_keyframe();
        let mut after = next();
        while !after.key {
            after = next();
        }
        assert!(after.seq > 0);
        assert!(demo.stop());
        assert_eq!(stream.ended(), Some(EndReason::Shutdown));
        assert!(registry.is_empty());
    }

    #[test]
    fn pace_does_not_drift_and_leaves_out_what_is_late() {
        let start = Clock::manual().now();
        let pace = Pace::new(start, 30);
        assert_eq!(pace.due(108_000) - start, Duration::from_secs(3600));
        assert_eq!(pace.next(29, start + Duration::from_millis(970)), 30, "in time");
        assert_eq!(pace.next(29, start + Duration::from_millis(1250)), 37, "37.5 frames have passed");
    }
}
