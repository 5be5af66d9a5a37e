//! A viewer on a link: what arrives, in which order, how soon, and what is asked for.

use super::*;
use crate::media::time::Timestamp;
use crate::media::track::AudioParams;
use crate::proto::sdp::viewer::{Sendable, SendableAudio, SendableVideo};
use crate::services::test_card::{CardEncoder, CardSettings};

const PICTURE: Duration = Duration::from_nanos(33_333_333);

/// A stream of thirty pictures and fifty frames of sound a second, sent to one viewer.
struct Watch {
    clock: Clock,
    peer: Peer,
    browser: Browser,
    link: Link<(bool, SocketAddr, Vec<u8>)>,
    encoder: CardEncoder,
    sent: Vec<AccessUnit>,
    sounds: u32,
    next_picture: Instant,
    events: Vec<PeerEvent>,
    keyframes_wanted: u32,
    bandwidths: Vec<(u64, u64)>,
    /// Largest number of datagrams that the server sent at one moment.
    burst: usize,
    /// The source makes keyframes when the viewer asks for one.
    obliging: bool,
}

impl Watch {
    fn over(link: Link<(bool, SocketAddr, Vec<u8>)>, rtx: bool, bitrate_bps: u32) -> Self {
        let clock = Clock::manual();
        let now = clock.now();
        let mut browser = Browser::new(clock.clone(), address(HOME));
        let offer = Offer::parse(&browser.offer_to_watch(rtx)).unwrap();
        let sendable =
            Sendable { video: Some(SendableVideo::H264 { profile: None }), audio: vec![SendableAudio::Opus] };
        let stream = ViewerStream { name: "cam", sendable: &sendable };
        let mut random = StdRng::seed_from_u64(3);
        let (peer, answer) =
            Peer::answer_viewer_with(settings(), &offer, stream, &mut random, now, |_| FakeSession::server())
                .unwrap();
        assert_eq!((answer.video_codec, answer.audio_codec), (Some("H264"), Some("opus")));
        browser.take_answer(&answer.sdp, Some(FakeSession::client()));
        browser.watch(&answer.sdp);
        let settings = CardSettings {
            keyframe_interval: 0,
            bitrate_bps: Some(bitrate_bps),
            ..CardSettings::sized(320, 180)
        };
        Self {
            clock,
            peer,
            browser,
            link,
            encoder: CardEncoder::new(settings).unwrap(),
            sent: vec![],
            sounds: 0,
            next_picture: now,
            events: vec![],
            keyframes_wanted: 0,
            bandwidths: vec![],
            burst: 0,
            obliging: true,
        }
    }

    fn drain(&mut self) -> Instant {
        let now = self.clock.now();
        let mut burst = 0;
        loop {
            match self.peer.poll_output() {
                Output::Transmit { to, bytes } => {
                    burst += 1;
                    self.link.send(now, (false, to, bytes.to_vec()));
                }
                Output::KeyframeWanted => {
                    self.keyframes_wanted += 1;
                    if self.obliging {
                        self.encoder.request_keyframe();
                    }
                }
                Output::NotEnoughBandwidth { stream_bps, available_bps } => {
                    self.bandwidths.push((stream_bps, available_bps));
                }
                Output::Event(event) => self.events.push(event),
                Output::Timeout(at) => {
                    self.burst = self.burst.max(burst);
                    return at;
                }
                Output::Video(_) | Output::Audio(_) | Output::Gap => panic!("a viewer sends nothing"),
            }
        }
    }

    fn send_picture(&mut self) {
        let now = self.clock.now();
        let number = u32::try_from(self.sent.len()).unwrap();
        let mut unit = self.encoder.encode(number, now, self.clock.wall()).unwrap();
        unit.pts = Timestamp::video(i64::from(number) * 3000);
        unit.arrived = now;
        self.peer.send_video(now, &unit);
        self.sent.push(unit);
        let rate = NonZeroU32::new(48_000).unwrap();
        let params = Arc::new(AudioParams { codec: AudioCodec::Opus, sample_rate: rate, channels: 2 });
        let pts = Timestamp { ticks: i64::from(self.sounds) * 960, timescale: rate };
        let data = Bytes::copy_from_slice(&self.sounds.to_be_bytes());
        self.peer.send_audio(now, &AudioFrame { arrived: now, pts, params, data });
        self.sounds += 1;
    }

    fn run_until(&mut self, limit: Duration, holds: impl Fn(&Self) -> bool) -> bool {
        let end = self.clock.now() + limit;
        loop {
            let deadline = self.drain();
            let now = self.clock.now();
            for datagram in self.browser.sent.drain(..) {
                self.link.send(now, (true, self.browser.address, datagram));
            }
            if holds(self) {
                return true;
            }
            let is_up = self.events.contains(&PeerEvent::Connected);
            let picture = is_up.then_some(self.next_picture);
            let next = [Some(deadline), self.browser.deadline(), self.link.next_at(), picture];
            let next = next.into_iter().flatten().min().unwrap();
            if next > end {
                self.clock.advance(end - now);
                return false;
            }
            self.clock.advance(next.saturating_duration_since(now).max(Duration::from_micros(100)));
            let now = self.clock.now();
            while let Some((to_server, party, datagram)) = self.link.receive(now) {
                if to_server {
                    self.peer.handle_datagram(now, party, &datagram);
                    self.drain();
                } else {
                    self.browser.handle_datagram(&datagram);
                }
            }
            self.peer.handle_timeout(now);
            self.browser.handle_timeout();
            if is_up && now >= self.next_picture {
                self.next_picture = now + PICTURE;
                self.send_picture();
            }
        }
    }

    fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Longest time without a new picture, from the first one on.
    fn frozen(&self) -> Duration {
        let times: Vec<Instant> = self.browser.watched.iter().map(|(at, _)| *at).collect();
        let tail = self.clock.now() - *times.last().unwrap();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default().max(tail)
    }

    /// Every picture received is one that was sent, in order; says how many of those in between are missing.
    fn check_order(&self) -> usize {
        let mut at = 0;
        let mut missing = 0;
        for (_, unit) in &self.browser.watched {
            let place = self.sent[at..].iter().position(|sent| sent.data == unit.data);
            let place = place.unwrap_or_else(|| panic!("a picture that was not sent, or twice"));
            if at > 0 {
                missing += place;
            }
            at += place + 1;
        }
        missing
    }
}

#[test]
fn pictures_and_sound_arrive_whole_in_order_and_soon() {
    let mut watch = Watch::over(Link::new(1, 0.0, (5, 5)), true, 1_000_000);
    watch.run(Duration::from_secs(4));
    assert_eq!(watch.check_order(), 0);
    assert!(watch.browser.watched.len() + 2 >= watch.sent.len());
    assert!(watch.frozen() < Duration::from_millis(60), "{:?}", watch.frozen());
    let heard: Vec<u32> =
        watch.browser.heard.iter().map(|f| u32::from_be_bytes(f.data[..].try_into().unwrap())).collect();
    assert!(heard.len() > 100 && heard.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    // One keyframe at the beginning was all that was needed.
    assert_eq!(watch.browser.watched.iter().filter(|(_, unit)| unit.key).count(), 1);
    let stats = watch.peer.stats().sender;
    assert!(stats.rtt.is_some_and(|rtt| rtt < Duration::from_millis(20)), "{stats:?}");
    assert_eq!((stats.dropped, stats.repeated, stats.unusable), (0, 0, 0));
    // Time stamps go on as the stream's do.
    let times: Vec<i64> = watch.browser.watched.iter().map(|(_, unit)| unit.pts.ticks).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 3000));
}

#[test]
fn what_a_link_loses_is_repeated_and_pictures_hardly_freeze() {
    for rtx in [true, false] {
        let mut frozen = Vec::new();
        let mut missing = 0;
        for seed in 1..=7 {
            let mut watch = Watch::over(Link::new(seed, 0.08, (20, 30)), rtx, 2_000_000);
            watch.run(Duration::from_secs(10));
            let stats = watch.peer.stats().sender;
            missing += watch.check_order();
            frozen.push(watch.frozen());
            assert!(watch.link.lost > 40 && stats.repeated > 15, "{stats:?}");
            assert_eq!(watch.browser.repetitions > 0, rtx);
            // A repetition that is lost is asked for again, but none is sent twice within a round trip.
            assert!(stats.repeated < watch.link.lost * 2, "{stats:?}, {} lost", watch.link.lost);
            assert!(watch.browser.watched.len() > 270, "{}", watch.browser.watched.len());
        }
        frozen.sort();
        println!("rtx {rtx}: frozen {frozen:?}, {missing} pictures missing");
        assert!(frozen[3] < Duration::from_millis(250), "rtx {rtx}: {frozen:?}");
        assert!(missing < 20, "{missing} of 2100 pictures never came");
    }
}

#[test]
fn after_a_break_in_the_link_one_keyframe_is_asked_for_and_pictures_go_on() {
    let mut watch = Watch::over(Link::new(2, 0.0, (10, 10)), true, 1_000_000);
    watch.run(Duration::from_secs(2));
    let before = watch.keyframes_wanted;
    watch.link.loss = 1.0;
    watch.run(Duration::from_secs(3));
    watch.link.loss = 0.0;
    let seen = watch.browser.watched.len();
    let again = watch.run_until(Duration::from_secs(2), |watch| watch.browser.watched.len() > seen + 10);
    assert!(again, "{:?}", watch.peer.stats().sender);
    watch.check_order();
    let wanted = watch.keyframes_wanted - before;
    assert!((1..=8).contains(&wanted), "{wanted} were asked for");
}

#[test]
fn a_backlog_arrives_at_once_and_the_stream_goes_on_behind_it() {
    let mut watch = Watch::over(Link::new(1, 0.0, (5, 5)), true, 1_000_000);
    // Two seconds of a source that makes no keyframes, before anybody watched.
    let start = watch.clock.now();
    let mut backlog = Vec::new();
    for number in 0..60 {
        if number % 2 == 1 {
            watch.encoder.request_keyframe();
        }
        let mut unit = watch.encoder.encode(number, start, watch.clock.wall()).unwrap();
        unit.pts = Timestamp::video(i64::from(number) * 3000);
        backlog.push(unit);
    }
    watch.next_picture = start + Duration::from_secs(3600);
    assert!(watch.run_until(Duration::from_secs(5), |watch| watch.browser.connected()));
    let now = watch.clock.now();
    watch.peer.send_backlog(now, &backlog);
    watch.sent = backlog;
    watch.next_picture = now + PICTURE;
    let begun = watch.clock.now();
    assert!(watch.run_until(Duration::from_secs(1), |watch| watch.browser.watched.len() >= 60));
    assert!(watch.clock.now() - begun < Duration::from_millis(150));
    watch.run(Duration::from_secs(1));
    assert_eq!(watch.check_order(), 0);
    let ticks: Vec<i64> = watch.browser.watched.iter().map(|(_, unit)| unit.pts.ticks).collect();
    assert!(ticks[59] - ticks[0] < 9000, "two seconds take less than a tenth of one");
    assert!(ticks[60..].windows(2).all(|pair| pair[1] - pair[0] == 3000));
    // A large amount is not poured out at once.
    let bytes: usize = watch.sent[..60].iter().map(|unit| unit.data.len()).sum();
    assert!(bytes > 100_000 && watch.burst < 60, "{bytes} bytes, {} datagrams at once", watch.burst);
}

#[test]
fn a_viewer_that_is_silent_or_gone_ends_and_one_that_sends_media_is_not_heard() {
    let mut watch = Watch::over(Link::new(1, 0.0, (5, 5)), true, 500_000);
    watch.run(Duration::from_secs(1));
    let rtp = watch.browser.audio(b"hello");
    let now = watch.clock.now();
    watch.peer.handle_datagram(now, address(HOME), &rtp);
    assert_eq!(watch.peer.stats().refused.get(Refused::RtpUnbound), 1);
    watch.link.loss = 1.0;
    let closed = |watch: &Watch| watch.events.contains(&PeerEvent::Closed(CloseCause::ConsentLost));
    assert!(watch.run_until(Duration::from_secs(40), closed), "{:?}", watch.events);
}
