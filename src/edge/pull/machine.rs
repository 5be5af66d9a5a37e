//! What the machines of both protocols have in common for the thread that drives them.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::source::Source;
use super::{PullError, PullSettings};
use crate::base::id::random_id;
use crate::media::unit::{AccessUnit, AudioFrame};
use crate::proto::rtsp::client::{Client, ClientError, ClientSettings, Output, TRACKS_RECEIVED, Wanted};
use crate::proto::rtsp::media::MediaSettings;

/// What a machine wants done, or says.
#[derive(Debug)]
pub(super) enum Step {
    /// Send on the connection.
    Send(Bytes),
    /// Send to this port of the source, from the socket of this number.
    Datagram { socket: usize, port: u16, bytes: Bytes },
    /// The source begins to send; these tracks are to be expected.
    Begins { video: bool, audio: bool },
    /// A coded picture.
    Video(AccessUnit),
    /// A frame of sound.
    Audio(AudioFrame),
    /// Something was lost on the way.
    Gap,
    /// The source sends us elsewhere.
    Redirect(String),
    /// It is over.
    Over(Cause),
    /// Nothing more until something happens or it is this time.
    Timeout(Instant),
}

/// Why a machine is through with a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cause {
    /// What clients are told where the stream was not up.
    pub(super) error: PullError,
    /// What the log is told. It holds no password.
    pub(super) text: String,
    /// Media should be asked for in the other way: inside the connection rather than beside it, or the other way round.
    pub(super) other_transport: bool,
}

/// A protocol's client.
pub(super) trait Machine {
    /// Room for bytes from the connection; never empty.
    fn room(&mut self) -> &mut [u8];

    /// So many bytes were read into [`Machine::room`].
    fn filled(&mut self, now: Instant, count: usize);

    /// A datagram from the source came to the socket of this number.
    fn datagram(&mut self, now: Instant, socket: usize, bytes: &[u8]);

    /// The source closed the connection.
    fn end_of_input(&mut self, now: Instant);

    /// It is as late as the last [`Step::Timeout`] said, or later.
    fn timeout(&mut self, now: Instant);

    /// Say goodbye; what is to be sent comes out of [`Machine::step`].
    fn close(&mut self, now: Instant);

    /// The next thing to do.
    fn step(&mut self) -> Step;

    /// Packets taken and packets missing since the last call.
    fn counts(&mut self) -> (u64, u64);
}

/// Tracks for which a pull by UDP opens ports.
pub(super) const UDP_TRACKS: usize = TRACKS_RECEIVED;
/// How long a missing datagram is waited for.
const HOLD_BACK: Duration = Duration::from_millis(200);
/// Without a first datagram for so long, a camera is asked to send inside the connection.
const DATAGRAM_LIMIT: Duration = Duration::from_secs(3);

/// The machine for a source whose connection is open. `ports` are ours for media by UDP, RTP and RTCP of each track; none: inside
/// the connection.
pub(super) fn make(
    settings: &PullSettings,
    target: &Source,
    ports: &[u16],
    now: Instant,
) -> Box<dyn Machine> {
    let pairs = match ports {
        [a, b, c, d] => Some([(*a, *b), (*c, *d)]),
        _ => None,
    };
    let client_settings = ClientSettings {
        user_agent: settings.user_agent.clone(),
        answer_limit: settings.answer,
        silence_limit: settings.silence.unwrap_or(settings.answer),
        datagram_limit: DATAGRAM_LIMIT.min(settings.answer),
        transport: pairs.map_or(Wanted::Interleaved(settings.channels), Wanted::Udp),
        media: MediaSettings {
            pixels_max: settings.pixels_max,
            hold_back: pairs.is_some().then_some(HOLD_BACK),
            ssrc: rand::random(),
            cname: random_id(),
        },
    };
    let client = Client::new(client_settings, target.url().as_str(), target.login().cloned(), now);
    Box::new(Rtsp { client, counted: (0, 0) })
}

/// A camera.
struct Rtsp {
    client: Client,
    /// What was told by [`Machine::counts`].
    counted: (u64, u64),
}

impl Machine for Rtsp {
    fn room(&mut self) -> &mut [u8] {
        self.client.room()
    }

    fn filled(&mut self, now: Instant, count: usize) {
        self.client.filled(now, count);
    }

    fn datagram(&mut self, now: Instant, socket: usize, bytes: &[u8]) {
        self.client.handle_datagram(now, socket / 2, socket % 2 == 1, bytes);
    }

    fn end_of_input(&mut self, _now: Instant) {}

    fn timeout(&mut self, now: Instant) {
        self.client.handle_timeout(now);
    }

    fn close(&mut self, now: Instant) {
        self.client.close(now);
    }

    fn step(&mut self) -> Step {
        match self.client.poll_output() {
            Output::Send(bytes) => Step::Send(bytes),
            Output::Datagram { pair, is_rtcp, port, bytes } => {
                Step::Datagram { socket: pair * 2 + usize::from(is_rtcp), port, bytes }
            }
            Output::Playing { video, audio } => Step::Begins { video, audio },
            Output::Video(unit) => Step::Video(unit),
            Output::Audio(frame) => Step::Audio(frame),
            Output::Gap => Step::Gap,
            Output::Redirect(location) => Step::Redirect(location),
            Output::Over(error) => Step::Over(cause_of_rtsp(&error)),
            Output::Timeout(at) => Step::Timeout(at),
        }
    }

    fn counts(&mut self) -> (u64, u64) {
        let (media, _) = self.client.stats();
        let now = (media.packets, media.lost);
        let since = (now.0.saturating_sub(self.counted.0), now.1.saturating_sub(self.counted.1));
        self.counted = now;
        since
    }
}

fn cause_of_rtsp(error: &ClientError) -> Cause {
    let for_clients = match error {
        ClientError::NotFound => PullError::RtspNotFound,
        ClientError::Description(_) | ClientError::Invalid(_) | ClientError::Transport(_) => {
            PullError::RtspFormat
        }
        ClientError::Password
        | ClientError::Refused { .. }
        | ClientError::NoAnswer(_)
        | ClientError::Silence
        | ClientError::Ended
        | ClientError::Closed => PullError::RtspConnect,
    };
    let other_transport = matches!(error, ClientError::Transport(_));
    Cause { error: for_clients, text: error.to_string(), other_transport }
}
