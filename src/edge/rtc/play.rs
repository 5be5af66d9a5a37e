//! Playing by WebRTC: a published stream sent to one viewer, by a thread and a port of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::feed::is_in_order;
use super::watch::{Ending, Forms, ViewEnd, Watch};
use super::{COMMANDS_MAX, Inner, RtcService, addresses, root_cause};
use crate::base::id::StreamName;
use crate::base::queue::{Offer, queue};
use crate::base::stop::StopToken;
use crate::base::threads::{self, STACK_PROTOCOL_BYTES, Thread};
use crate::base::wait::Waiter;
use crate::edge::ports::PortError;
use crate::hub::{Stream, StreamFacts, StreamStatus, ViewerExists, Viewing};
use crate::proto::peer::{Peer, PeerSettings, ViewerStream};
use crate::proto::sdp::viewer::{Sendable, SendableAudio, SendableVideo};
use crate::proto::sdp::{self, NegotiationError, SdpError};
use crate::proto::signal::message::Hidden;
use crate::proto::signal::{Event, StartPlay};

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
    /// Another size, rate or codec than the stream has: it would have to be coded anew.
    #[error("Transcoding required, but disabled")]
    Transcoding,
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
            NegotiationError::TranscodingNeeded => Self::Transcoding,
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
        let Inner { settings, ports, certificate, registry, transcoders, metrics, clock } = &*self.0;
        let stream = registry.find(&request.name).ok_or_else(|| match request.name.contains("://") {
            true => PlayRefused::Scheme,
            false => PlayRefused::NotFound,
        })?;
        let facts = stream.facts();
        let sendable = sendable(&stream, &facts)?;
        demand_as_published(request, &stream, &facts)?;
        let now = clock.now();
        let offer = sdp::Offer::parse(&request.sdp.0).map_err(PlayRefused::Sdp)?;
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
        let viewer_stream = ViewerStream { name: &request.name, sendable: &sendable };
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
        let sends_audio = answer.audio_codec;
        let transcoders = transcoders.clone();
        let watch = Watch::new(
            media,
            waiter,
            peer,
            Forms { turns: answer.cvo, audio: sends_audio },
            ending,
            events,
            transcoders,
        );
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

/// What of a stream can be sent, by what comes or, while nothing came yet, by what was negotiated.
fn sendable(stream: &Stream, facts: &StreamFacts) -> Result<Sendable, PlayRefused> {
    let publication = stream.publication();
    if facts.status != StreamStatus::Publishing {
        return Err(PlayRefused::NotReady);
    }
    let video = match (&facts.video, publication.video_codec.as_str()) {
        (Some(params), _) => Some(SendableVideo::of(&params.codec)),
        (None, "H264") => Some(SendableVideo::H264 { profile: None }),
        (None, "VP8") => Some(SendableVideo::Vp8),
        // Announced, and nobody knows as what.
        (None, _) if facts.has_video => return Err(PlayRefused::NotReady),
        (None, _) => None,
    };
    let audio_codec =
        facts.audio.as_ref().map_or(publication.audio_codec.as_str(), |params| params.codec.name());
    let audio = match SendableAudio::named(audio_codec) {
        Some(SendableAudio::Opus) => vec![SendableAudio::Opus],
        // As it is where the viewer takes it; all take Opus, which is made of it.
        Some(form) => vec![form, SendableAudio::Opus],
        None if facts.has_audio => vec![SendableAudio::Opus],
        None => Vec::new(),
    };
    if video.is_none() && audio.is_empty() {
        return Err(PlayRefused::NotReady);
    }
    if !is_in_order(&stream.gop().units) {
        return Err(PlayRefused::Transcoding);
    }
    Ok(Sendable { video, audio })
}

/// Another size or rate than the published one would have to be made.
fn demand_as_published(
    request: &StartPlay,
    stream: &Arc<Stream>,
    facts: &StreamFacts,
) -> Result<(), PlayRefused> {
    let [bitrate, ..] = request.bitrates_kbps;
    let size = facts.video.as_ref().map(|params| params.display_size());
    let [width, height] = request.size;
    let fits = size.is_none_or(|size| (width == 0 || width == size.0) && (height == 0 || height == size.1));
    if fits && bitrate == 0 {
        return Ok(());
    }
    tracing::debug!("{} was asked for as {width}x{height}, {bitrate} kbit/s", stream.publication().name);
    Err(PlayRefused::Transcoding)
}

/// A name as it may stand in a log: what comes before the host of a URL may be a password, and nothing else of it says more.
fn loggable(name: &str) -> String {
    match name.split_once("://") {
        Some((scheme, _)) => format!("{}://…", scheme.chars().take(16).collect::<String>().escape_debug()),
        None => StreamName::new(name)
            .map_or_else(|_| "a stream without a usable name".into(), |name| name.to_string()),
    }
}
