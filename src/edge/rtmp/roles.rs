//! What a connection is to the hub: a publisher, or a player.

use std::collections::VecDeque;
use std::time::SystemTime;

use crossbeam_channel::{Receiver, TryRecvError};

use crate::base::id::{MediaSessionId, StreamName, random_id};
use crate::base::metrics::Metrics;
use crate::base::wait::Waker;
use crate::hub::{
    Bell, EndReason, Live, Publication, Publisher, Registry, SourceProtocol, ViewerPlace, Viewing,
};
use crate::media::unit::MediaUnit;
use crate::proto::rtmp::server::Request;
use crate::proto::rtmp::url::percent_decoded;

/// The application of RTMP clients in a backend (protocol document, section 7.3).
const APP_KEY: &str = "flashStreamingApp";

/// Units that may wait for a player: some three seconds of pictures and sound. Full: it goes on with a keyframe.
const LIVE_MAX: usize = 256;

/// What a connection does.
#[derive(Debug)]
pub(super) enum Role {
    None,
    Publishing(Publishing),
    Playing(Box<Playing>),
}

impl Role {
    /// Ends what it does. A publication's name is free then.
    pub(super) fn end(&mut self, reason: EndReason) {
        if let Self::Publishing(publishing) = self {
            publishing.reason = reason;
        }
        *self = Self::None;
    }
}

/// With what a publication or a play begins.
pub(super) struct Start<'a> {
    pub(super) registry: &'a Registry,
    pub(super) metrics: &'a Metrics,
    pub(super) request: Request,
    pub(super) session_id: &'a str,
    pub(super) created: SystemTime,
    pub(super) waker: Waker,
}

/// A publication. Dropping it ends it, counts it and frees its name.
#[derive(Debug)]
pub(super) struct Publishing {
    /// There until it is dropped.
    pub(super) publisher: Option<Publisher>,
    /// Where the ring of its bell lies. There is nobody to ask for keyframes: the ring only wakes this thread, which then
    /// looks whether it has to end.
    rung: Receiver<()>,
    reason: EndReason,
    metrics: Metrics,
}

fn media_session() -> Result<MediaSessionId, String> {
    MediaSessionId::new(&random_id()).map_err(|error| error.to_string())
}

impl Publishing {
    /// Takes the name; an error is for the client.
    pub(super) fn start(start: Start<'_>) -> Result<Self, String> {
        let name = StreamName::new(&start.request.name).map_err(|error| error.to_string())?;
        let publication = Publication {
            app_key: APP_KEY.to_owned(),
            session_id: start.session_id.to_owned(),
            custom: start.request.custom,
            ..Publication::new(name, media_session()?, SourceProtocol::Rtmp, start.created)
        };
        let (bell, rung) = Bell::without_keyframes(Some(start.waker));
        let publisher = start.registry.publish(publication, Some(bell)).map_err(|error| error.to_string())?;
        publisher.set_publishing();
        let metrics = start.metrics.clone();
        Ok(Self { publisher: Some(publisher), rung, reason: EndReason::Internal, metrics })
    }

    pub(super) fn asked_to_end(&self) -> Option<EndReason> {
        let _ = self.rung.try_recv();
        self.publisher.as_ref()?.asked_to_end()
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        if let Some(publisher) = self.publisher.take() {
            tracing::info!("{} ended: {}", publisher.stream().publication().name, self.reason);
            publisher.end(self.reason.clone());
        }
        self.metrics.publications_ended_total.with_label_values(&[self.reason.label()]).inc();
    }
}

/// A player's place on a stream.
#[derive(Debug)]
pub(super) struct Playing {
    backlog: VecDeque<MediaUnit>,
    live: Live,
    place: ViewerPlace,
}

/// Why a stream is not played.
pub(super) struct PlayRefusal {
    /// There is no such stream.
    pub(super) not_found: bool,
    pub(super) why: String,
}

/// The stream is over.
pub(super) struct Over;

impl Playing {
    /// Joins a stream.
    pub(super) fn start(start: Start<'_>) -> Result<Self, PlayRefusal> {
        let failed = |why: String| PlayRefusal { not_found: false, why };
        let Request { name, custom, .. } = start.request;
        let stream = start.registry.find(&name).or_else(|| {
            // Players write what is not allowed in an address as `%20`.
            let decoded = Some(percent_decoded(&name));
            decoded.filter(|decoded| *decoded != name).and_then(|decoded| start.registry.find(&decoded))
        });
        let Some(stream) = stream else {
            return Err(PlayRefusal { not_found: true, why: format!("{name}: stream not found") });
        };
        let publication = stream.publication();
        let facts = stream.facts();
        let viewing = Viewing {
            name: publication.name.clone(),
            media_session_id: media_session().map_err(failed)?,
            app_key: APP_KEY.to_owned(),
            session_id: start.session_id.to_owned(),
            created: start.created,
            media_provider: SourceProtocol::Rtmp.media_provider(),
            transport: SourceProtocol::Rtmp.transport(),
            video_codec: facts.video_codec().to_owned(),
            audio_codec: facts.audio_codec().to_owned(),
            sdp: String::new(),
            size: [0; 2],
            bitrates_kbps: [0; 3],
            custom,
        };
        // Notices are for pages; nobody takes them out here, and what does not fit is dropped.
        let (place, _) = start
            .registry
            .viewers()
            .enter(viewing, stream.clone(), Some(start.waker.clone()))
            .map_err(|error| failed(error.to_string()))?;
        place.viewer().set_playing();
        let subscription = stream.subscribe(LIVE_MAX, Some(start.waker));
        let backlog = subscription.backlog_units().collect();
        Ok(Self { backlog, live: subscription.live, place })
    }

    /// The next unit; `None` while there is none.
    pub(super) fn next(&mut self) -> Option<Result<MediaUnit, Over>> {
        if let Some(unit) = self.backlog.pop_front() {
            return Some(Ok(unit));
        }
        match self.live.receiver().try_recv() {
            Ok(unit) => Some(Ok(unit)),
            Err(TryRecvError::Disconnected) => Some(Err(Over)),
            Err(TryRecvError::Empty) => None,
        }
    }

    pub(super) fn asked_to_end(&self) -> Option<EndReason> {
        self.place.viewer().asked_to_end()
    }
}
