//! Publishing by WebRTC: a thread a peer, which drives a [`Peer`] over one UDP socket and pushes its units into the hub.
//!
//! What belongs here: the socket, the queues and the order of things at beginning and end. ICE, DTLS, SRTP and RTP
//! are the peer's business, and the client is told of it by its session.

mod addresses;
mod counted;
mod drive;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use self::drive::{Command, Drive};
use super::ports::{MediaPorts, PortError};
use crate::base::clock::Clock;
use crate::base::metrics::Metrics;
use crate::base::queue::{Offer, queue};
use crate::base::stop::StopToken;
use crate::base::threads::{self, STACK_PROTOCOL_BYTES, Thread};
use crate::base::wait::Waiter;
use crate::hub::{Bell, EndReason, Publication, PublishError, Registry, SourceProtocol, Stream};
use crate::proto::dtls::Certificate;
use crate::proto::peer::{Peer, PeerSettings};
use crate::proto::sdp::{self, NegotiationError, SdpError};
use crate::proto::signal::message::Hidden;
use crate::proto::signal::{Event, StartPublish};

/// How peers are reached and how long they are waited for.
#[derive(Clone, Debug)]
pub struct RtcSettings {
    /// Addresses that clients are told (`ip`): what a firewall or a cloud shows to the world. Empty: the addresses of
    /// all local interfaces, loopback included, so that a browser on the same machine connects too.
    pub external_addresses: Vec<IpAddr>,
    /// Codec names in order of preference (`codecs`).
    pub codecs: Vec<String>,
    /// From the answer to the client's first good connectivity check.
    pub ice_timeout: Duration,
    /// For the DTLS handshake after it.
    pub handshake_timeout: Duration,
    /// Without consent checks of the client for so long, it is gone (RFC 7675 section 5.1: 30 seconds).
    pub consent_timeout: Duration,
    /// Without RTP for so long, the publication ends (`rtp_activity_detecting`); `None` never ends it.
    pub rtp_activity: Option<Duration>,
    /// Largest picture that is taken, in pixels.
    pub pixels_max: u64,
    /// Highest rate that publishers are allowed, in bit/s.
    pub bitrate_max_bps: u64,
    /// Session name in our answers (`s=`).
    pub session_name: String,
}

/// Why a publication does not begin; the texts are those that clients know (protocol document, section 2.5).
#[derive(Debug, thiserror::Error)]
pub enum PublishRefused {
    /// The name or the media session is taken, or there are too many streams.
    #[error(transparent)]
    Hub(#[from] PublishError),
    /// No port for it.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The offer has no codec that we take.
    #[error("No common codecs")]
    NoCommonCodecs,
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

/// What publications are made with; clones share it.
#[derive(Clone, Debug)]
pub struct RtcService(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: RtcSettings,
    ports: MediaPorts,
    certificate: Arc<Certificate>,
    registry: Registry,
    metrics: Metrics,
    clock: Clock,
}

/// Commands on their way to a peer. There is one kind, sent at most twice.
const COMMANDS_MAX: usize = 16;

/// Numbers of peers; their threads are named by them.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// A running publication, owned by its client's connection. Dropping it ends the publication.
#[derive(Debug)]
pub struct Publishing {
    stream: Arc<Stream>,
    commands: Offer<Command>,
    thread: Thread,
}

impl Publishing {
    /// The stream in the hub.
    #[must_use]
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// Ends it, without waiting: [`Event::Ended`] follows when the name is free.
    pub fn stop(&self, reason: EndReason) {
        // Full or closed: it is ending already.
        let _ = self.commands.offer(Command::Stop(reason));
    }

    /// Waits for its thread up to `limit`; returns whether it ended.
    pub fn join(self, limit: Duration) -> bool {
        let Self { commands, thread, .. } = self;
        drop(commands);
        thread.join(limit)
    }
}

impl RtcService {
    /// A service that publishes into `registry`.
    #[must_use]
    pub fn new(
        settings: RtcSettings,
        ports: MediaPorts,
        certificate: Arc<Certificate>,
        registry: Registry,
        metrics: Metrics,
        clock: Clock,
    ) -> Self {
        Self(Arc::new(Inner { settings, ports, certificate, registry, metrics, clock }))
    }

    /// Begins a publication: takes the name, a port and a thread, and returns the answer for the client
    /// ([`Event::Answered`]). What happens later is told through `events`, [`Event::Ended`] last.
    ///
    /// # Errors
    /// When it cannot be; nothing is kept of it then.
    pub fn publish(
        &self,
        request: StartPublish,
        app_key: &str,
        session_id: &str,
        events: Offer<Event>,
        stop: StopToken,
    ) -> Result<(Publishing, Event), PublishRefused> {
        let refused = |refused: PublishRefused| {
            if let PublishRefused::Sdp(_) | PublishRefused::Offer(_) = refused {
                self.0.metrics.bad_input("sdp");
            }
            tracing::info!("{} is not published: {}", request.name, root_cause(&refused));
            refused
        };
        self.begin(&request, app_key, session_id, events, stop).map_err(refused)
    }

    fn begin(
        &self,
        request: &StartPublish,
        app_key: &str,
        session_id: &str,
        events: Offer<Event>,
        stop: StopToken,
    ) -> Result<(Publishing, Event), PublishRefused> {
        let Inner { settings, ports, certificate, registry, metrics, clock } = &*self.0;
        // Before the work of an answer; the name is taken below, after which nothing can fail but the system.
        if registry.find(request.name.as_str()).is_some() {
            return Err(PublishError::NameInUse.into());
        }
        let now = clock.now();
        let offer = sdp::Offer::parse(&request.sdp.0).map_err(PublishRefused::Sdp)?;
        let media = ports.take()?;
        let candidates = addresses::candidates(&settings.external_addresses, media.local())
            .map_err(PublishRefused::System)?;
        let peer_settings = PeerSettings {
            candidates,
            codecs: settings.codecs.clone(),
            certificate: certificate.clone(),
            ice_timeout: settings.ice_timeout,
            handshake_timeout: settings.handshake_timeout,
            consent_timeout: settings.consent_timeout,
            rtp_activity: settings.rtp_activity,
            pixels_max: settings.pixels_max,
            bitrate_max_bps: bitrate_max_bps(settings.bitrate_max_bps, request.bitrates_kbps[2]),
            session_name: settings.session_name.clone(),
        };
        let (peer, answer) = Peer::answer_publisher(peer_settings, &offer, &mut rand::rng(), now).map_err(
            |error| match error {
                NegotiationError::NoCommonCodecs => PublishRefused::NoCommonCodecs,
                other => PublishRefused::Offer(other),
            },
        )?;

        let waiter = Waiter::new().map_err(PublishRefused::System)?;
        stop.wakes(&waiter.waker());
        let (bell, rung) = Bell::new(Some(waiter.waker()));
        let (commands, inbox) = queue(COMMANDS_MAX, Some(waiter.waker()));
        let codec = |codec: Option<&'static str>| codec.unwrap_or_default().to_owned();
        let publication = Publication {
            name: request.name.clone(),
            media_session_id: request.media_session_id.clone(),
            protocol: SourceProtocol::WebRtc,
            app_key: app_key.to_owned(),
            session_id: session_id.to_owned(),
            created: clock.wall(),
            has_video: answer.video_codec.is_some(),
            has_audio: answer.audio_codec.is_some(),
            video_codec: codec(answer.video_codec),
            audio_codec: codec(answer.audio_codec),
            keyframes_on_request: true,
            record: request.record,
            sdp: request.sdp.0.clone(),
            bitrates_kbps: request.bitrates_kbps,
            cvo_extension: answer.cvo,
            custom: request.custom.clone(),
        };
        let publisher = registry.publish(publication, Some(bell))?;
        let stream = publisher.stream().clone();
        let name = format!("rtc-{}", NUMBERS.fetch_add(1, Ordering::Relaxed));
        tracing::info!("{} is published by {name}, media on port {}", request.name, media.local().port());
        let drive = Drive {
            media,
            waiter,
            peer,
            publisher,
            bell: rung,
            commands: inbox,
            events,
            stop,
            metrics: metrics.clone(),
            clock: clock.clone(),
        };
        let thread = threads::spawn(name, STACK_PROTOCOL_BYTES, move || drive.run())
            .map_err(PublishRefused::System)?;
        let answered = Event::Answered {
            media_session_id: request.media_session_id.clone(),
            sdp: Hidden(answer.sdp),
            video_codec: answer.video_codec.map(str::to_owned),
            audio_codec: answer.audio_codec.map(str::to_owned),
        };
        Ok((Publishing { stream, commands, thread }, answered))
    }
}

/// Ours, or the client's own where that is lower; the client's is in kbit/s, and 0 is unset.
fn bitrate_max_bps(ours: u64, of_client_kbps: u32) -> u64 {
    match of_client_kbps {
        0 => ours,
        kbps => ours.min(u64::from(kbps) * 1000),
    }
}

/// The last cause in the chain: the text of a refusal itself is made for clients.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_can_lower_its_bitrate_and_not_raise_it() {
        assert_eq!(bitrate_max_bps(5_000_000, 0), 5_000_000);
        assert_eq!(bitrate_max_bps(5_000_000, 700), 700_000);
        assert_eq!(bitrate_max_bps(5_000_000, u32::MAX), 5_000_000);
    }

    #[test]
    fn the_log_gets_the_cause_and_the_client_the_words_it_knows() {
        let refused = PublishRefused::Sdp(SdpError::NotSdp);
        assert_eq!(refused.to_string(), "Failed to add stream to proxy");
        assert_eq!(root_cause(&refused), "not a session description");
        assert_eq!(
            PublishRefused::from(PublishError::NameInUse).to_string(),
            "Stream name is already in use"
        );
    }
}
