//! Publishing and playing by WebRTC: a thread a peer, which drives a [`Peer`] over one UDP socket, and moves units between it
//! and the hub.
//!
//! What belongs here: the socket, the queues and the order of things at beginning and end. ICE, DTLS, SRTP and RTP
//! are the peer's business, and the client is told of it by its session.

pub(crate) mod addresses;
mod choose;
mod counted;
mod drive;
mod ending;
mod feed;
mod play;
mod run;
mod watch;
mod ways;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use self::drive::{Command, Drive};
pub use self::ending::ViewEnd;
pub use self::play::{PlayRefused, Playing};
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
use crate::services::audio::Transcoders;
use crate::services::transcode::Renditions;

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
    /// With how many kbit/s of video publishers may begin; 0 leaves it to them.
    pub bitrate_start_kbps: u64,
    /// Session name in our answers (`s=`).
    pub session_name: String,
}

/// Why a publication does not begin; the texts are those that clients know (protocol document, section 2.5).
#[derive(Debug, thiserror::Error)]
pub enum PublishRefused {
    /// The name or the media session is taken.
    #[error(transparent)]
    Taken(PublishError),
    /// There are too many streams.
    #[error("Failed to add stream to proxy")]
    TooMany(#[source] PublishError),
    /// No port for it.
    #[error("Failed to add stream to proxy")]
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

impl From<PublishError> for PublishRefused {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::NameInUse | PublishError::SessionInUse | PublishError::Address => {
                Self::Taken(error)
            }
            PublishError::TooMany => Self::TooMany(error),
        }
    }
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
    transcoders: Arc<Transcoders>,
    renditions: Renditions,
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
        renditions: Renditions,
        metrics: Metrics,
        clock: Clock,
    ) -> Self {
        let transcoders = Arc::new(Transcoders::new(clock.clone()));
        Self(Arc::new(Inner {
            settings,
            ports,
            certificate,
            registry,
            transcoders,
            renditions,
            metrics,
            clock,
        }))
    }

    /// Ends what is made of streams for viewers, after the viewers have ended; returns whether it did within `limit`.
    #[must_use]
    pub fn stop(&self, limit: Duration) -> bool {
        self.0.transcoders.stop(limit) & self.0.renditions.stop(limit)
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
            let (name, cause) = (&request.name, root_cause(&refused));
            match refused {
                // What an operator can do something about.
                PublishRefused::TooMany(_) | PublishRefused::Port(_) | PublishRefused::System(_) => {
                    tracing::warn!("{name} is not published: {cause}");
                }
                _ => tracing::info!("{name} is not published: {cause}"),
            }
            if let PublishRefused::Sdp(_) | PublishRefused::Offer(_) = refused {
                self.0.metrics.bad_input("sdp");
            }
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
        let Inner { settings, ports, certificate, registry, metrics, clock, .. } = &*self.0;
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
            bitrate_start_kbps: settings.bitrate_start_kbps,
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
    use crate::base::id::{MediaSessionId, StreamName};
    use crate::base::stop::StopSource;
    use crate::edge::ports::tests::range;
    use crate::hub::GopLimits;
    use crate::proto::signal::EndStatus;
    use crate::services::transcode::TranscodeSettings;

    const LIMIT: Duration = Duration::from_secs(10);
    const OFFER: &str = include_str!("../../tests/data/sdp/chromium_156_publish_offer.sdp");

    fn service() -> RtcService {
        let settings = RtcSettings {
            external_addresses: vec![IpAddr::from([203, 0, 113, 7])],
            codecs: vec!["opus".into(), "h264".into()],
            ice_timeout: LIMIT,
            handshake_timeout: LIMIT,
            consent_timeout: LIMIT,
            rtp_activity: None,
            pixels_max: 8192 * 4352,
            bitrate_max_bps: 5_000_000,
            bitrate_start_kbps: 0,
            session_name: "test".into(),
        };
        let ports = MediaPorts::new(range(1));
        let registry = Registry::new(GopLimits { units: 10, bytes: 10_000 }, 10);
        let certificate = Arc::new(Certificate::generate().unwrap());
        let none = TranscodeSettings { renditions_max: 0, pixels_max: settings.pixels_max };
        let renditions = Renditions::new(none, registry.clone(), Metrics::new(), Clock::real());
        RtcService::new(settings, ports, certificate, registry, renditions, Metrics::new(), Clock::real())
    }

    fn request(id: &str, name: &str) -> StartPublish {
        StartPublish {
            media_session_id: MediaSessionId::new(id).unwrap(),
            name: StreamName::new(name).unwrap(),
            sdp: Hidden(OFFER.into()),
            record: false,
            bitrates_kbps: [0; 3],
            custom: serde_json::Value::Null,
        }
    }

    #[test]
    fn a_publication_whose_owner_vanishes_ends_and_frees_name_and_port() {
        let service = service();
        let (offer, events) = queue(8, None);
        let stop = StopSource::new();
        let begin = || service.publish(request("m1", "cam1"), "app", "s1", offer.clone(), stop.token());
        let (publishing, answered) = begin().unwrap();
        let Event::Answered { sdp, video_codec, .. } = answered else { panic!("{answered:?}") };
        assert!(sdp.0.contains(" 203.0.113.7 ") && video_codec.as_deref() == Some("H264"));
        let facts = publishing.stream().publication().clone();
        assert_eq!((facts.app_key.as_str(), facts.session_id.as_str()), ("app", "s1"));
        assert!(facts.has_video && facts.has_audio);
        drop(publishing);
        let Event::Ended { status, info, .. } = events.recv_timeout(LIMIT).unwrap() else { panic!() };
        assert_eq!((status, info.as_str()), (EndStatus::Orderly, "Stopped by session disconnect"));
        assert!(service.0.registry.is_empty());
        assert_eq!(service.0.ports.taken(), 0);
        let (again, _) = begin().unwrap();
        drop(stop);
        assert!(again.join(LIMIT), "the stop ends it");
    }

    #[test]
    fn what_cannot_be_published_keeps_neither_port_nor_name() {
        let service = service();
        let (offer, _events) = queue(8, None);
        let stop = StopSource::new();
        let publish = |request| {
            let begun = service.publish(request, "app", "s1", offer.clone(), stop.token());
            begun.map(|(publishing, _)| publishing).map_err(|refused| refused.to_string())
        };
        let mut bad = request("m1", "cam1");
        bad.sdp = Hidden("v=0".into());
        assert_eq!(publish(bad).unwrap_err(), "Failed to add stream to proxy");
        assert_eq!(service.0.ports.taken(), 0);
        let _first = publish(request("m1", "cam1")).unwrap();
        assert_eq!(publish(request("m2", "cam1")).unwrap_err(), "Stream name is already in use");
        let refused = publish(request("m2", "cam2")).unwrap_err();
        assert_eq!(refused, "Failed to add stream to proxy", "one port is all there is");
        assert_eq!(service.0.registry.len(), 1);
    }

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
        let refused = PublishRefused::from(PortError::Exhausted);
        assert_eq!(refused.to_string(), "Failed to add stream to proxy");
        assert_eq!(root_cause(&refused), "every port from media_port_from to media_port_to is taken");
        let refused = PublishRefused::from(PublishError::TooMany);
        assert_eq!(refused.to_string(), "Failed to add stream to proxy");
        assert_eq!(root_cause(&refused), "streams_max streams are published");
        let refused = PublishRefused::from(PublishError::NameInUse);
        assert_eq!(refused.to_string(), "Stream name is already in use");
    }
}
