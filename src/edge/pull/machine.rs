//! What the machines of both protocols have in common for the thread that drives them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::source::Source;
use super::{PullError, PullKind, PullSettings};
use crate::base::id::random_id;
use crate::media::track::AudioParams;
use crate::media::unit::{AccessUnit, AudioFrame};
use crate::proto::rtmp::client as rtmp;
use crate::proto::rtmp::media_reader::MediaOutput;
use crate::proto::rtmp::url::RtmpUrl;
use crate::proto::rtsp::client::{Client, ClientError, ClientSettings, Output, TRACKS_RECEIVED, Wanted};
use crate::proto::rtsp::media::MediaSettings;

/// What a machine wants done, or says.
#[derive(Debug)]
pub(super) enum Step {
    /// Send on the connection.
    Send(Bytes),
    /// Send to this port of the source, from the socket of this number.
    Datagram { socket: usize, port: u16, bytes: Bytes },
    /// The source begins to send, or says more of it; these tracks are to be expected.
    Begins { video: bool, audio: bool },
    /// A coded picture.
    Video(AccessUnit),
    /// A frame of sound.
    Audio(AudioFrame),
    /// What the sound will be.
    AudioParams(Arc<AudioParams>),
    /// Something could not be used and was left out; the kind under which it is counted, and why.
    Damaged(&'static str, String),
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

/// One reading of an RTMP connection.
const RTMP_BUFFER_BYTES: usize = 32 * 1024;

/// The machine for a source whose connection is open. `ports` are ours for media by UDP, RTP and RTCP of each track; none: inside
/// the connection.
pub(super) fn make(
    settings: &PullSettings,
    target: &Source,
    ports: &[u16],
    now: Instant,
) -> Box<dyn Machine> {
    match target.kind() {
        PullKind::Rtsp => rtsp(settings, target, ports, now),
        PullKind::Rtmp => rtmp(settings, target, now),
    }
}

fn rtmp(settings: &PullSettings, target: &Source, now: Instant) -> Box<dyn Machine> {
    let silence = settings.silence.unwrap_or(settings.answer);
    let client = RtmpUrl::parse(target.url().as_str()).map(|url| {
        let settings = rtmp::ClientSettings {
            url,
            pixels_max: settings.pixels_max,
            answer_limit: settings.answer,
            silence_limit: Some(silence),
        };
        rtmp::Client::new(settings, &mut rand::rng(), now)
    });
    Box::new(Rtmp { client: client.ok(), buffer: vec![0; RTMP_BUFFER_BYTES] })
}

fn rtsp(settings: &PullSettings, target: &Source, ports: &[u16], now: Instant) -> Box<dyn Machine> {
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

/// Another server that speaks RTMP.
struct Rtmp {
    /// `None`: the address names no stream.
    client: Option<rtmp::Client>,
    buffer: Vec<u8>,
}

impl Machine for Rtmp {
    fn room(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    fn filled(&mut self, now: Instant, count: usize) {
        if let (Some(client), Some(bytes)) = (&mut self.client, self.buffer.get(..count)) {
            client.handle_bytes(now, bytes);
        }
    }

    fn datagram(&mut self, _now: Instant, _socket: usize, _bytes: &[u8]) {}

    fn end_of_input(&mut self, _now: Instant) {
        if let Some(client) = &mut self.client {
            client.handle_end();
        }
    }

    fn timeout(&mut self, now: Instant) {
        if let Some(client) = &mut self.client {
            client.handle_timeout(now);
        }
    }

    fn close(&mut self, _now: Instant) {
        if let Some(client) = &mut self.client {
            client.close();
        }
    }

    fn step(&mut self) -> Step {
        let Some(client) = &mut self.client else {
            let text = "its address names no stream".to_owned();
            return Step::Over(Cause { error: PullError::BadUri, text, other_transport: false });
        };
        if !client.output().is_empty() {
            let bytes = Bytes::copy_from_slice(client.output());
            client.sent(bytes.len());
            return Step::Send(bytes);
        }
        match client.poll_output() {
            // What comes is told later.
            rtmp::ClientOutput::Playing => Step::Begins { video: true, audio: false },
            rtmp::ClientOutput::Media(output) => match output {
                MediaOutput::Video(unit) => Step::Video(unit),
                MediaOutput::Audio(frame) => Step::Audio(frame),
                MediaOutput::AudioParams(params) => Step::AudioParams(params),
                MediaOutput::Tracks { video, audio } => Step::Begins { video, audio },
                MediaOutput::Gap => Step::Gap,
                MediaOutput::Damaged(kind, text) => Step::Damaged(kind, text),
                MediaOutput::Unsupported { error, .. } => Step::Damaged("rtmp_codec", error.to_string()),
            },
            rtmp::ClientOutput::Closed(cause) => Step::Over(cause_of_rtmp(&cause)),
            rtmp::ClientOutput::Timeout(at) => Step::Timeout(at),
        }
    }

    fn counts(&mut self) -> (u64, u64) {
        (0, 0)
    }
}

fn cause_of_rtmp(cause: &rtmp::ClientCause) -> Cause {
    let error = match cause {
        rtmp::ClientCause::NotFound => PullError::RtmpNotFound,
        rtmp::ClientCause::Unsupported(_) | rtmp::ClientCause::Protocol(_) => PullError::RtmpFormat,
        rtmp::ClientCause::Refused(_)
        | rtmp::ClientCause::Ended
        | rtmp::ClientCause::Late
        | rtmp::ClientCause::Silent
        | rtmp::ClientCause::Local => PullError::RtmpConnect,
    };
    Cause { error, text: cause.to_string(), other_transport: false }
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
