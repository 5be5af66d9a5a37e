//! Many publishers on few threads: each browser with a UDP socket of its own, as real ones have.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use stillcast::base::clock::Clock;
use stillcast::base::stop::{StopSource, StopToken};
use stillcast::base::threads::{STACK_CODEC_BYTES, Thread, spawn};
use stillcast::base::wait::{Interest, SOCKETS_MAX, Waiter};
use stillcast::proto::demux::{self, Kind};
use stillcast::proto::rtp::header::RtpPacket;
use stillcast::proto::rtp::pack_h264::PAYLOAD_BYTES_MAX;
use stillcast::proto::rtp::pack_vp8::Vp8Packer;

use super::browser::{Browser, BrowserOutput, BrowserStats};
use super::clip::{Clip, Playback};
use super::watcher::{Departure, Departures};

/// An Opus packet of 20 ms of silence (RFC 6716: CELT, full band, one frame).
const SILENCE: [u8; 3] = [0xF8, 0xFF, 0xFE];
const SOUND_INTERVAL: Duration = Duration::from_millis(20);
const DATAGRAM_BYTES: usize = 2048;

/// A browser that took its answer, and what it will show.
pub struct Publisher {
    browser: Browser,
    socket: UdpSocket,
    server: SocketAddr,
    playback: Playback,
    /// Numbers the frames of VP8, of which a clip has no payloads.
    packer: Option<Vp8Packer>,
    sounds: u64,
    has_audio: bool,
    /// When it was connected: the first picture's time.
    began: Option<Instant>,
    last_key: Option<Instant>,
    closed: Option<&'static str>,
    leaving: Option<Leaving>,
}

/// Pictures that are on their way out.
struct Leaving {
    departures: Arc<Departures>,
    /// When each was due, and its last payload.
    pictures: VecDeque<(Instant, Vec<u8>)>,
    /// RTP time of the last one that left whole.
    newest: Option<u32>,
}

impl Leaving {
    /// Looks at what is sent: the last packet of a picture, which may be sent again, bears the marker.
    fn see(&mut self, now: Instant, datagram: &[u8]) {
        let Ok(packet) = RtpPacket::parse_header(datagram) else { return };
        let is_newer =
            self.newest.is_none_or(|newest| (1..1 << 31).contains(&packet.timestamp.wrapping_sub(newest)));
        if !packet.marker || !is_newer {
            return;
        }
        self.newest = Some(packet.timestamp);
        if let Some((captured, last_payload)) = self.pictures.pop_front() {
            self.departures.note(&last_payload, Departure { captured, sent: now });
        }
    }
}

impl Publisher {
    /// `server` is where to send: the answer's address, or a relay in between.
    pub fn new(
        browser: Browser,
        server: SocketAddr,
        clip: Arc<Clip>,
        rewinds: bool,
        has_audio: bool,
    ) -> io::Result<Self> {
        let socket = UdpSocket::bind((if server.is_ipv4() { "0.0.0.0" } else { "::" }, 0))?;
        socket.set_nonblocking(true)?;
        socket.connect(server)?;
        // Near the end of its range, so that the identifiers begin anew while a test looks.
        let packer = clip.is_vp8().then(|| Vp8Packer::new(0x7FF0));
        let playback = Playback::new(clip, rewinds);
        Ok(Self {
            browser,
            socket,
            server,
            playback,
            packer,
            sounds: 0,
            has_audio,
            began: None,
            last_key: None,
            closed: None,
            leaving: None,
        })
    }

    /// Notes when each picture leaves, so that watchers can tell how long it was on its way.
    pub fn note_departures(&mut self, departures: Arc<Departures>) {
        self.leaving = Some(Leaving { departures, pictures: VecDeque::new(), newest: None });
    }

    fn receive(&mut self, now: Instant) {
        let mut buffer = [0; DATAGRAM_BYTES];
        while let Ok(size) = self.socket.recv(&mut buffer) {
            self.browser.handle_datagram(now, &buffer[..size]);
            self.drain(now);
        }
    }

    /// Sends what is due; returns when something is due next.
    fn advance(&mut self, now: Instant) -> Instant {
        self.browser.handle_timeout(now);
        let mut deadline = self.drain(now);
        let Some(began) = self.began.filter(|_| self.browser.is_connected()) else { return deadline };
        while began + self.playback.due() <= now {
            let due = began + self.playback.due();
            let (picture, ticks) = self.playback.next();
            if let (Some(leaving), Some(last)) = (&mut self.leaving, picture.payloads.last()) {
                leaving.pictures.push_back((due, last.clone()));
            }
            if picture.unit.key {
                self.last_key = Some(now);
            }
            match &mut self.packer {
                None => self.browser.send_video(now, ticks, &picture.payloads),
                Some(packer) => {
                    let payloads = packer.pack(&picture.unit.data, PAYLOAD_BYTES_MAX);
                    self.browser.send_video(now, ticks, &payloads);
                }
            }
            deadline = self.drain(now);
        }
        let mut next = began + self.playback.due();
        if self.has_audio {
            while began + SOUND_INTERVAL * self.sounds as u32 <= now {
                self.browser.send_audio(now, self.sounds * 960, &SILENCE);
                self.sounds += 1;
                deadline = self.drain(now);
            }
            next = next.min(began + SOUND_INTERVAL * self.sounds as u32);
        }
        deadline.min(next)
    }

    fn drain(&mut self, now: Instant) -> Instant {
        loop {
            match self.browser.poll_output() {
                // A lost datagram is a lost datagram.
                BrowserOutput::Transmit(bytes) => {
                    if let (Some(leaving), Some(Kind::Rtp)) = (&mut self.leaving, demux::kind(&bytes)) {
                        leaving.see(now, &bytes);
                    }
                    drop(self.socket.send(&bytes));
                }
                BrowserOutput::Connected => self.began = Some(now),
                BrowserOutput::KeyframeWanted => {
                    // Browsers make at most one in so long.
                    let is_new = |at: Instant| now.duration_since(at) < Duration::from_millis(300);
                    if !self.last_key.is_some_and(is_new) {
                        self.playback.want_keyframe();
                    }
                }
                BrowserOutput::Closed(why) => self.closed = Some(why),
                BrowserOutput::Timeout(at) => return at,
            }
        }
    }
}

/// How one of them is doing.
#[derive(Clone, Copy, Debug, Default)]
pub struct PublisherState {
    /// Its counts.
    pub stats: BrowserStats,
    /// Pictures sent.
    pub pictures: u64,
    /// It agreed on keys.
    pub was_connected: bool,
    /// Why it is over, if it is.
    pub closed: Option<&'static str>,
}

/// Running publishers; dropping it stops them without a word to the server, as a browser that is killed.
pub struct Publishers {
    threads: Vec<Thread>,
    states: Vec<Arc<Mutex<Vec<PublisherState>>>>,
    stop: StopSource,
    farewell: Arc<Mutex<bool>>,
}

impl Publishers {
    /// Starts them, as many a thread as one can wait for.
    pub fn start(mut publishers: Vec<Publisher>, clock: &Clock) -> io::Result<Self> {
        let stop = StopSource::new();
        let farewell = Arc::new(Mutex::new(false));
        let (mut threads, mut states) = (Vec::new(), Vec::new());
        while !publishers.is_empty() {
            let count = publishers.len().min(SOCKETS_MAX);
            let part: Vec<Publisher> = publishers.drain(..count).collect();
            let state = Arc::new(Mutex::new(vec![PublisherState::default(); part.len()]));
            states.push(state.clone());
            let (clock, token, farewell) = (clock.clone(), stop.token(), farewell.clone());
            let waiter = Waiter::new()?;
            let name = format!("publishers-{}", threads.len());
            threads.push(spawn(name, STACK_CODEC_BYTES, move || {
                run(part, waiter, &clock, &token, &state, &farewell);
            })?);
        }
        Ok(Self { threads, states, stop, farewell })
    }

    /// How each is doing, in the order given.
    pub fn states(&self) -> Vec<PublisherState> {
        self.states.iter().flat_map(|part| part.lock().clone()).collect()
    }

    /// Stops them as pages do that are left: each tells the server. Returns how each was doing.
    pub fn close(mut self) -> Vec<PublisherState> {
        *self.farewell.lock() = true;
        self.stop.set();
        for thread in std::mem::take(&mut self.threads) {
            thread.join(Duration::from_secs(5));
        }
        self.states()
    }
}

/// Counts are copied so often.
const SHOW_INTERVAL: Duration = Duration::from_millis(100);

fn run(
    mut publishers: Vec<Publisher>,
    mut waiter: Waiter,
    clock: &Clock,
    stop: &StopToken,
    states: &Mutex<Vec<PublisherState>>,
    farewell: &Mutex<bool>,
) {
    stop.wakes(&waiter.waker());
    let mut shown_at = clock.now();
    let mut ready = u32::MAX;
    while !stop.is_set() {
        let now = clock.now();
        let mut deadline = now + SHOW_INTERVAL;
        for (position, publisher) in publishers.iter_mut().enumerate() {
            if ready >> position & 1 == 1 {
                publisher.receive(now);
            }
            deadline = deadline.min(publisher.advance(now));
        }
        if now >= shown_at {
            shown_at = now + SHOW_INTERVAL;
            show(&publishers, states);
        }
        let sockets: Vec<_> =
            publishers.iter().map(|publisher| (publisher.socket.as_fd(), Interest::Read)).collect();
        let waited = waiter.wait_until(&sockets, clock.now(), Some(deadline));
        ready = waited.map_or(u32::MAX, |ready| ready.readable);
    }
    if *farewell.lock() {
        for publisher in &mut publishers {
            publisher.browser.close();
            publisher.drain(clock.now());
        }
    }
    show(&publishers, states);
}

fn show(publishers: &[Publisher], states: &Mutex<Vec<PublisherState>>) {
    let mut states = states.lock();
    for (publisher, state) in publishers.iter().zip(states.iter_mut()) {
        *state = PublisherState {
            stats: publisher.browser.stats(),
            pictures: publisher.playback.shown(),
            was_connected: publisher.began.is_some(),
            closed: publisher.closed,
        };
    }
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("server", &self.server).finish_non_exhaustive()
    }
}
