//! Playing by WebRTC: a published stream sent to one viewer, by a thread and a port of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::choose::choose;
use super::ending::{Ending, ViewEnd};
use super::watch::{Forms, Making, Watch};
use super::{COMMANDS_MAX, Inner, RtcService, addresses, root_cause};
use crate::base::id::StreamName;
use crate::base::queue::{Offer, queue};
use crate::base::stop::StopToken;
use crate::base::threads::{self, STACK_PROTOCOL_BYTES, Thread};
use crate::base::wait::Waiter;
use crate::edge::ports::PortError;
use crate::hub::{ViewerExists, Viewing};
use crate::proto::peer::{Peer, PeerSettings, ViewerStream};
use crate::proto::sdp::{self, NegotiationError, SdpError};
use crate::proto::signal::message::Hidden;
use crate::proto::signal::{Event, StartPlay};
use crate::services::transcode::TranscodeError;

/// Why a stream is not played; the texts are those that clients know (protocol document, section 3.4 and appendix B).
#[derive(Debug, thiserror::Error)]
pub enum PlayRefused {
    /// Nobody publishes under this name.
    #[error("Stream not found")]
    NotFound,
    /// Its publisher has no connection yet, or what it sends is not known yet.
    #[error("Publish stream is not ready")]
    NotReady,
    /// A URL of a kind that is not served.
    #[error("Failed to get agent storage")]
    Scheme,
    /// Another size, rate or codec than the stream has, and it cannot be had.
    #[error(transparent)]
    Transcoding(#[from] TranscodeError),
    /// It would have to be sent in a codec in which nothing is made here.
    #[error("No available transcoders")]
    NoTranscoder,
    /// The offer has no codec that any stream could be sent in.
    #[error("No common codecs")]
    NoCommonCodecs,
    /// The media session is taken.
    #[error(transparent)]
    Taken(#[from] ViewerExists),
    /// No port for it.
    #[error("Failed to add stream to proxy")]
    Port(#[from] PortError),
    /// The offer cannot be used.
    #[error("Failed to add stream to proxy")]
    Offer(#[source] NegotiationError),
    /// The offer cannot be read.
    #[error("Failed to add stream to proxy")]
    Sdp(#[source] SdpError),
    /// The system refuses a thread or a descriptor.
    #[error("Failed to add stream to proxy")]
    System(#[source] std::io::Error),
}

impl From<NegotiationError> for PlayRefused {
    fn from(error: NegotiationError) -> Self {
        match error {
            NegotiationError::TranscodingNeeded => Self::NoTranscoder,
            NegotiationError::NoCommonCodecs => Self::NoCommonCodecs,
            other => Self::Offer(other),
        }
    }
}

/// What a viewer's thread is told.
#[derive(Debug)]
pub(super) enum Command {
    /// End for this reason.
    Stop(ViewEnd),
}

/// Numbers of viewers; their threads are named by them.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// A running player, owned by its client's connection. Dropping it ends the player.
#[derive(Debug)]
pub struct Playing {
    commands: Offer<Command>,
    thread: Thread,
}

impl Playing {
    /// Ends it, without waiting: [`Event::Ended`] follows when its port is free.
    pub fn stop(&self, reason: ViewEnd) {
        // Full or closed: it is ending already.
        let _ = self.commands.offer(Command::Stop(reason));
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.thread.is_ended()
    }

    /// Waits for its thread up to `limit`; returns whether it ended.
    pub fn join(self, limit: Duration) -> bool {
        let Self { commands, thread } = self;
        drop(commands);
        thread.join(limit)
    }
}

impl RtcService {
    /// Begins to play: takes a port and a thread, and returns what the client's session is to be told first, the answer
    /// last. What happens later is told through `events`, [`Event::Ended`] last.
    ///
    /// # Errors
    /// When it cannot be; nothing is kept of it then.
    pub fn play(
        &self,
        request: &StartPlay,
        app_key: &str,
        session_id: &str,
        events: Offer<Event>,
        stop: StopToken,
    ) -> Result<(Playing, [Event; 2]), PlayRefused> {
        self.begin_play(request, app_key, session_id, events, stop).inspect_err(|refused| {
            // A name may be a URL with a password.
            let (name, cause) = (loggable(&request.name), root_cause(refused));
            match refused {
                // What an operator can do something about.
                PlayRefused::Port(_) | PlayRefused::System(_) => {
                    tracing::warn!("{name} is not played: {cause}");
                }
                _ => tracing::info!("{name} is not played: {cause}"),
            }
            if let PlayRefused::Sdp(_) | PlayRefused::Offer(_) = refused {
                self.0.metrics.bad_input("sdp");
            }
        })
    }

    fn begin_play(
        &self,
        request: &StartPlay,
        app_key: &str,
        session_id: &str,
        events: Offer<Event>,
        stop: StopToken,
    ) -> Result<(Playing, [Event; 2]), PlayRefused> {
        let Inner { settings, ports, certificate, registry, transcoders, renditions, metrics, clock } =
            &*self.0;
        let stream = registry.find(&request.name).ok_or_else(|| match request.name.contains("://") {
            true => PlayRefused::Scheme,
            false => PlayRefused::NotFound,
        })?;
        let now = clock.now();
        let offer = sdp::Offer::parse(&request.sdp.0).map_err(PlayRefused::Sdp)?;
        let choice = choose(request, &stream, &offer)?;
        // Made while the connection comes up.
        let rendition = choice.form.map(|form| renditions.watch(&stream, form)).transpose()?;
        let media = ports.take()?;
        let candidates = addresses::candidates(&settings.external_addresses, media.local())
            .map_err(PlayRefused::System)?;
        let peer_settings = PeerSettings {
            candidates,
            codecs: Vec::new(),
            certificate: certificate.clone(),
            ice_timeout: settings.ice_timeout,
            handshake_timeout: settings.handshake_timeout,
            consent_timeout: settings.consent_timeout,
            rtp_activity: None,
            pixels_max: settings.pixels_max,
            bitrate_max_bps: settings.bitrate_max_bps,
            bitrate_start_kbps: 0,
            session_name: settings.session_name.clone(),
        };
        let viewer_stream = ViewerStream { name: &request.name, sendable: &choice.sendable };
        let (peer, answer) =
            Peer::answer_viewer(peer_settings, &offer, viewer_stream, &mut rand::rng(), now)?;

        let waiter = Waiter::new().map_err(PlayRefused::System)?;
        stop.wakes(&waiter.waker());
        let (commands, inbox) = queue(COMMANDS_MAX, Some(waiter.waker()));
        let codec = |codec: Option<&'static str>| codec.unwrap_or_default().to_owned();
        let viewing = Viewing {
            name: stream.publication().name.clone(),
            media_session_id: request.media_session_id.clone(),
            app_key: app_key.to_owned(),
            session_id: session_id.to_owned(),
            created: clock.wall(),
            media_provider: "WebRTC",
            transport: "UDP",
            video_codec: codec(answer.video_codec),
            audio_codec: codec(answer.audio_codec),
            sdp: request.sdp.0.clone(),
            size: request.size,
            bitrates_kbps: request.bitrates_kbps,
            custom: request.custom.clone(),
        };
        let (place, notices) = registry.viewers().enter(viewing, stream.clone(), Some(waiter.waker()))?;
        let name = format!("play-{}", NUMBERS.fetch_add(1, Ordering::Relaxed));
        let port = media.local().port();
        tracing::info!("{} is played by {name}, media on port {port}", stream.publication().name);
        let ending = Ending::new(place, events.clone(), metrics.clone());
        let forms = Forms { turns: answer.cvo, audio: answer.audio_codec };
        let making = Making { transcoders: transcoders.clone(), renditions: renditions.clone(), rendition };
        let watch = Watch::new(media, waiter, peer, forms, ending, events, making);
        let clock = clock.clone();
        let thread = threads::spawn(name, STACK_PROTOCOL_BYTES, move || {
            watch.run(&inbox, &notices, &stop, &clock);
        })
        .map_err(PlayRefused::System)?;
        // Read after the viewer has its place: a change in between comes as a notice too.
        let facts = stream.facts();
        let media_session_id = request.media_session_id.clone();
        let muted = Event::Muted {
            media_session_id: media_session_id.clone(),
            audio: Some(facts.audio_muted),
            video: Some(facts.video_muted),
        };
        let answered = Event::Answered {
            media_session_id,
            sdp: Hidden(answer.sdp),
            video_codec: answer.video_codec.map(str::to_owned),
            audio_codec: answer.audio_codec.map(str::to_owned),
        };
        Ok((Playing { commands, thread }, [muted, answered]))
    }
}

/// A name as it may stand in a log: what comes before the host of a URL may be a password, and nothing else of it says more.
fn loggable(name: &str) -> String {
    match name.split_once("://") {
        Some((scheme, _)) => format!("{}://…", scheme.chars().take(16).collect::<String>().escape_debug()),
        None => StreamName::new(name)
            .map_or_else(|_| "a stream without a usable name".into(), |name| name.to_string()),
    }
}
