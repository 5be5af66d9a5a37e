//! WebRTC by plain HTTP: a standard encoder publishes with one POST (WHIP, RFC 9725), a standard player watches with
//! one (WHEP, draft-ietf-wish-whep).
//!
//! ```text
//! POST   /whip/<name>, /whep/<name>   an offer; 201, the answer, and where the session is
//! PATCH  /whip/<name>/<id>, …         more candidates: taken and not needed, as we answer checks and send none (ICE lite)
//! DELETE /whip/<name>/<id>, …         the end
//! ```
//!
//! A thin door: the peer, its thread and the hub are those of the WebSocket's clients. A session is known by the random end of
//! its address. It lives until it is deleted, its media stops, or the server does.

use std::collections::HashMap;
use std::io::Read as _;
use std::time::Duration;

use rouille::percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use rouille::{Request, Response};
use sha2::{Digest as _, Sha256};

use super::rest::access::CorsSettings;
use super::rest::error::ApiError;
use super::rest::path_of;
use super::rtc::{PlayRefused, Playing, PublishRefused, Publishing, RtcService};
use crate::base::clock::Clock;
use crate::base::id::{MediaSessionId, StreamName, random_id};
use crate::base::lock::{Mutex, rank};
use crate::base::metrics::Metrics;
use crate::base::queue::queue;
use crate::base::stop::{StopSource, StopToken};
use crate::hub::{DEFAULT_APP, EndReason};
use crate::proto::signal::message::Hidden;
use crate::proto::signal::{Event, StartPlay, StartPublish};
use crate::services::transcode::TranscodeError;

/// What the paths begin with under which streams are published.
const PUBLISH: &str = "/whip/";
/// Likewise played.
const PLAY: &str = "/whep/";
const SDP_TYPE: &str = "application/sdp";
const FRAGMENT_TYPE: &str = "application/trickle-ice-sdpfrag";
/// How long a deletion waits for the name to be free again, so that the next POST finds it so.
const END_LIMIT: Duration = Duration::from_millis(500);
/// What pages of other origins may do here, where pages of other origins may do anything.
const METHODS: &str = "POST, PATCH, DELETE, OPTIONS";

/// What the door needs to know of the configuration.
#[derive(Clone)]
pub struct WhipSettings {
    /// SHA-256 of the bearer token (RFC 6750) that is demanded of encoders; `None`: everybody may publish.
    publish_token: Option<[u8; 32]>,
    /// Likewise of players.
    play_token: Option<[u8; 32]>,
    /// Pages of which origins may use it.
    cors: CorsSettings,
}

impl WhipSettings {
    /// The bearer tokens to be demanded of encoders and of players; empty: none. The tokens themselves are not kept.
    #[must_use]
    pub fn new(publish_token: &str, play_token: &str, cors: CorsSettings) -> Self {
        let digest = |token: &str| (!token.is_empty()).then(|| Sha256::digest(token).into());
        Self { publish_token: digest(publish_token), play_token: digest(play_token), cors }
    }
}

impl std::fmt::Debug for WhipSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WhipSettings")
            .field("demands_tokens", &(self.publish_token.is_some(), self.play_token.is_some()))
            .finish_non_exhaustive()
    }
}

/// Somebody who came through the door.
#[derive(Debug)]
struct Session {
    kind: Kind,
    /// ICE user names of the offer.
    ice_usernames: Vec<String>,
}

#[derive(Debug)]
enum Kind {
    Publishes(Publishing),
    Plays(Playing),
}

impl Session {
    fn is_over(&self) -> bool {
        match &self.kind {
            Kind::Publishes(publishing) => publishing.stream().ended().is_some(),
            Kind::Plays(playing) => playing.is_over(),
        }
    }

    fn stop(&self) {
        match &self.kind {
            Kind::Publishes(publishing) => publishing.stop(EndReason::ByUser),
            Kind::Plays(playing) => playing.stop(EndReason::ByUser.into()),
        }
    }

    fn join(self, limit: Duration) -> bool {
        match self.kind {
            Kind::Publishes(publishing) => publishing.join(limit),
            Kind::Plays(playing) => playing.join(limit),
        }
    }
}

/// The door, and the owner of what is published and played through it.
#[derive(Debug)]
pub struct Whip {
    settings: WhipSettings,
    rtc: RtcService,
    sessions: Mutex<HashMap<String, Session>, { rank::DOOR }>,
    stop: Mutex<Option<StopSource>, { rank::LEAF }>,
    metrics: Metrics,
    clock: Clock,
}

impl Whip {
    /// A door to `rtc`.
    #[must_use]
    pub fn new(settings: WhipSettings, rtc: RtcService, metrics: Metrics, clock: Clock) -> Self {
        let stop = Mutex::new(Some(StopSource::new()));
        Self { settings, rtc, sessions: Mutex::default(), stop, metrics, clock }
    }

    /// Whether a request of this path is meant for the door.
    #[must_use]
    pub fn serves(path: &str) -> bool {
        path.starts_with(PUBLISH) || path.starts_with(PLAY)
    }

    /// Answers a request.
    #[must_use]
    pub fn handle(&self, request: &Request) -> Response {
        let path = path_of(request);
        let response = self.route(request, path).unwrap_or_else(|error| {
            if error.status() == 400 {
                self.metrics.bad_input("whip");
            }
            error.into_response(path, self.clock.wall())
        });
        self.settings.cors.apply(request, response)
    }

    /// Ends every session and waits up to `limit` for each; returns whether all ended. Nothing is published afterwards.
    pub fn stop(&self, limit: Duration) -> bool {
        drop(self.stop.lock().take());
        let sessions = std::mem::take(&mut *self.sessions.lock());
        let deadline = self.clock.now() + limit;
        let left = || deadline.saturating_duration_since(self.clock.now());
        let mut all_ended = true;
        for session in sessions.into_values() {
            all_ended &= session.join(left());
        }
        all_ended
    }

    fn route(&self, request: &Request, path: &str) -> Result<Response, ApiError> {
        if request.method() == "OPTIONS" {
            return Ok(preflight());
        }
        let publishes = path.starts_with(PUBLISH);
        self.admit(request, publishes)?;
        let prefix = if publishes { PUBLISH } else { PLAY };
        let mut parts = path.strip_prefix(prefix).unwrap_or_default().split('/');
        match (parts.next().filter(|name| !name.is_empty()), parts.next(), parts.next()) {
            (Some(name), None, None) => match request.method() {
                "POST" => self.begin(request, prefix, name),
                _ => Err(ApiError::method_not_allowed("POST, OPTIONS")),
            },
            (Some(_), Some(id), None) => match request.method() {
                "DELETE" => self.end(id),
                "PATCH" => self.patch(request, id),
                _ => Err(ApiError::method_not_allowed("PATCH, DELETE, OPTIONS")),
            },
            _ => Err(ApiError::not_found(
                "Streams are published at /whip/<stream name> and played at /whep/<stream name>",
            )),
        }
    }

    fn admit(&self, request: &Request, publishes: bool) -> Result<(), ApiError> {
        let settings = &self.settings;
        let digest = if publishes { settings.publish_token } else { settings.play_token };
        let Some(digest) = digest else { return Ok(()) };
        let token = request.header("Authorization").and_then(|value| {
            let (scheme, token) = value.trim().split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let given: [u8; 32] = Sha256::digest(token.unwrap_or_default()).into();
        // Compared as digests and to the end: neither length nor place of a difference shows in time.
        let difference = digest.iter().zip(given).fold(0, |all, (ours, theirs)| all | (ours ^ theirs));
        if token.is_some() && std::hint::black_box(difference) == 0 {
            return Ok(());
        }
        self.metrics.bad_input("whip_token");
        Err(ApiError::bearer_wanted())
    }

    /// Answers an offer and keeps the session.
    fn begin(&self, request: &Request, prefix: &str, name: &str) -> Result<Response, ApiError> {
        demand_type(request, SDP_TYPE)?;
        let mut sdp = String::new();
        let read = request.data().map(|mut body| body.read_to_string(&mut sdp));
        if !matches!(read, Some(Ok(_))) {
            return Err(ApiError::bad_request("Offer is not UTF-8"));
        }
        let name = percent_decode_str(name)
            .decode_utf8()
            .ok()
            .and_then(|name| StreamName::new(&name).ok())
            .ok_or_else(|| ApiError::bad_request("Stream name cannot be used"))?;
        let Some(stop) = self.stop.lock().as_ref().map(StopSource::token) else {
            return Err(ApiError::unavailable("Requested stream shutdown"));
        };
        let id = random_id();
        let ice_usernames = ice_usernames(&sdp).map(str::to_owned).collect();
        let (kind, answer) = if prefix == PUBLISH {
            self.publish(&name, &id, sdp, stop)?
        } else {
            self.play(&name, &id, sdp, stop)?
        };
        let mut sessions = self.sessions.lock();
        // What ended by itself since the last POST.
        let ended: Vec<_> = sessions.extract_if(|_, session| session.is_over()).collect();
        sessions.insert(id.clone(), Session { kind, ice_usernames });
        drop(sessions);
        drop(ended);
        let location = format!("{prefix}{}/{id}", utf8_percent_encode(name.as_str(), NON_ALPHANUMERIC));
        Ok(Response::from_data(SDP_TYPE, answer)
            .with_status_code(201)
            .with_additional_header("Location", location))
    }

    fn publish(
        &self,
        name: &StreamName,
        id: &str,
        sdp: String,
        stop: StopToken,
    ) -> Result<(Kind, String), ApiError> {
        let start = StartPublish {
            media_session_id: media_session_id(id)?,
            name: name.clone(),
            sdp: Hidden(sdp),
            record: false,
            bitrates_kbps: [0; 3],
            custom: serde_json::Value::Null,
        };
        // Nobody is told of events: who publishes so learns of the end by its transport.
        let (events, _) = queue(1, None);
        let begun = self.rtc.publish(start, DEFAULT_APP, id, events, stop);
        let (publishing, answered) = begun.map_err(|refused| refuse_publishing(&refused))?;
        Ok((Kind::Publishes(publishing), answer_in([answered])?))
    }

    fn play(
        &self,
        name: &StreamName,
        id: &str,
        sdp: String,
        stop: StopToken,
    ) -> Result<(Kind, String), ApiError> {
        let start = StartPlay {
            media_session_id: media_session_id(id)?,
            name: name.to_string(),
            sdp: Hidden(sdp),
            size: [0; 2],
            bitrates_kbps: [0; 3],
            custom: serde_json::Value::Null,
        };
        let (events, _) = queue(1, None);
        let begun = self.rtc.play(&start, DEFAULT_APP, id, events, stop);
        let (playing, told) = begun.map_err(|refused| refuse_playing(&refused))?;
        Ok((Kind::Plays(playing), answer_in(told)?))
    }

    fn end(&self, id: &str) -> Result<Response, ApiError> {
        let session = self.sessions.lock().remove(id).ok_or_else(no_session)?;
        session.stop();
        session.join(END_LIMIT);
        Ok(Response::text(""))
    }

    fn patch(&self, request: &Request, id: &str) -> Result<Response, ApiError> {
        demand_type(request, FRAGMENT_TYPE)?;
        let mut fragment = String::new();
        let read = request.data().map(|mut body| body.read_to_string(&mut fragment));
        if !matches!(read, Some(Ok(_))) {
            return Err(ApiError::bad_request("Fragment is not UTF-8"));
        }
        let sessions = self.sessions.lock();
        let session = sessions.get(id).filter(|session| !session.is_over()).ok_or_else(no_session)?;
        // New credentials mean that ICE starts again, which is not served (RFC 9725 section 4.3.3).
        if ice_usernames(&fragment).any(|new| !session.ice_usernames.iter().any(|known| known == new)) {
            return Err(ApiError::unprocessable("ICE restarts are not supported"));
        }
        Ok(Response::empty_204())
    }
}

fn preflight() -> Response {
    Response::empty_204()
        .with_additional_header("Access-Control-Allow-Headers", "authorization, content-type, if-match")
        .with_additional_header("Access-Control-Allow-Methods", METHODS)
        .with_additional_header("Access-Control-Max-Age", "600")
        .with_additional_header("Accept-Post", SDP_TYPE)
}

fn demand_type(request: &Request, wanted: &'static str) -> Result<(), ApiError> {
    let given = request.header("Content-Type").and_then(|value| value.split(';').next()).unwrap_or_default();
    if given.trim().eq_ignore_ascii_case(wanted) {
        return Ok(());
    }
    Err(ApiError::unsupported_media_type(format!("Content-Type must be {wanted}")))
}

fn no_session() -> ApiError {
    ApiError::not_found("Session does not exist")
}

fn media_session_id(id: &str) -> Result<MediaSessionId, ApiError> {
    MediaSessionId::new(id).map_err(|_| ApiError::unavailable("Failed to add stream to proxy"))
}

/// The user names in a session description or a fragment of one (RFC 8839 section 5.4).
fn ice_usernames(sdp: &str) -> impl Iterator<Item = &str> {
    sdp.lines().filter_map(|line| line.trim().strip_prefix("a=ice-ufrag:"))
}

fn answer_in(told: impl IntoIterator<Item = Event>) -> Result<String, ApiError> {
    let answer = told.into_iter().find_map(|event| match event {
        Event::Answered { sdp: Hidden(answer), .. } => Some(answer),
        _ => None,
    });
    answer.ok_or_else(|| ApiError::unavailable("Failed to add stream to proxy"))
}

fn refuse_publishing(refused: &PublishRefused) -> ApiError {
    let message = refused.to_string();
    match refused {
        PublishRefused::Taken(_) => ApiError::conflict(message),
        PublishRefused::NoCommonCodecs => ApiError::not_acceptable(message),
        PublishRefused::Sdp(cause) => ApiError::bad_request(format!("{message}: {cause}")),
        PublishRefused::Offer(cause) => ApiError::bad_request(format!("{message}: {cause}")),
        PublishRefused::TooMany(_) | PublishRefused::Port(_) | PublishRefused::System(_) => {
            ApiError::unavailable(message)
        }
    }
}

fn refuse_playing(refused: &PlayRefused) -> ApiError {
    let message = refused.to_string();
    match refused {
        PlayRefused::NotFound | PlayRefused::Scheme => ApiError::not_found(message),
        PlayRefused::Taken(_) => ApiError::conflict(message),
        PlayRefused::NoCommonCodecs
        | PlayRefused::NoTranscoder
        | PlayRefused::Transcoding(TranscodeError::Disabled) => ApiError::not_acceptable(message),
        PlayRefused::Sdp(cause) => ApiError::bad_request(format!("{message}: {cause}")),
        PlayRefused::Offer(cause) => ApiError::bad_request(format!("{message}: {cause}")),
        PlayRefused::NotReady
        | PlayRefused::Port(_)
        | PlayRefused::System(_)
        | PlayRefused::Transcoding(TranscodeError::Busy | TranscodeError::System(_)) => {
            ApiError::unavailable(message)
        }
    }
}
