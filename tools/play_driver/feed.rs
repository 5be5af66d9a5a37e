//! The clip as plain RTP, paced as the browser of the tests paces it: what Janus's mountpoints take.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use stillcast::base::clock::Clock;
use stillcast::base::stop::{StopSource, StopToken};
use stillcast::base::threads::{STACK_CODEC_BYTES, Thread, spawn};
use stillcast::proto::rtp::pack_h264::packet;

use crate::support::clip::{Clip, Playback};
use crate::support::watcher::{Departure, Departures};

/// The payload type that the mountpoint is set up for.
const PAYLOAD_TYPE: u8 = 96;
/// As `support::browser` sends.
const BURST_PACKETS: usize = 10;
const BURST_INTERVAL: Duration = Duration::from_millis(5);

/// A running feed; dropping it ends it.
pub(super) struct Feed {
    stop: StopSource,
    thread: Option<Thread>,
}

impl Feed {
    /// Starts to send.
    pub(super) fn start(
        to: SocketAddr,
        clip: Arc<Clip>,
        departures: Option<Arc<Departures>>,
        clock: &Clock,
    ) -> io::Result<Self> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(to)?;
        let stop = StopSource::new();
        let (token, clock) = (stop.token(), clock.clone());
        let thread = spawn("feed", STACK_CODEC_BYTES, move || {
            run(&socket, clip, departures.as_deref(), &clock, &token);
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            thread.join(Duration::from_secs(5));
        }
    }
}

/// A packet that waits, and of the last one of a picture, when that was due and the payload.
struct Waiting {
    packet: Vec<u8>,
    last_of: Option<(Instant, Vec<u8>)>,
}

fn run(
    socket: &UdpSocket,
    clip: Arc<Clip>,
    departures: Option<&Departures>,
    clock: &Clock,
    stop: &StopToken,
) {
    let began = clock.now();
    let mut playback = Playback::new(clip, false);
    let mut waiting = VecDeque::new();
    let mut next_burst = began;
    let mut sequence = 0_u16;
    loop {
        let now = clock.now();
        while began + playback.due() <= now {
            let due = began + playback.due();
            let (picture, ticks) = playback.next();
            for (position, payload) in picture.payloads.iter().enumerate() {
                let is_last = position + 1 == picture.payloads.len();
                let packet = packet(PAYLOAD_TYPE, is_last, sequence, ticks as u32, 7, payload);
                sequence = sequence.wrapping_add(1);
                waiting.push_back(Waiting { packet, last_of: is_last.then(|| (due, payload.clone())) });
            }
        }
        if next_burst <= now && !waiting.is_empty() {
            for Waiting { packet, last_of } in waiting.drain(..waiting.len().min(BURST_PACKETS)) {
                if let (Some((captured, payload)), Some(departures)) = (last_of, departures) {
                    departures.note(&payload, Departure { captured, sent: clock.now() });
                }
                // A lost datagram is a lost datagram.
                let _ = socket.send(&packet);
            }
            next_burst = now + BURST_INTERVAL;
        }
        let next = began + playback.due();
        let next = if waiting.is_empty() { next } else { next.min(next_burst) };
        if stop.wait(next.saturating_duration_since(clock.now())) {
            return;
        }
    }
}
