//! The REST interface (protocol document, section 9) and pictures by GET.
//!
//! A handler here parses, calls a service and hands on the result; [`error`] alone decides what a failure looks like.
//! What the answers are made of belongs to the hub and to the services; pages and statistics to [`super::web`].

pub mod access;
mod connections;
pub mod error;
mod events;
mod list;
mod pictures;
mod pulls;
mod query;
mod recorder;
mod shelves;
mod snapshot;
mod streams;
mod terminate;
mod vod;

use std::io::Read as _;

use rouille::{Request, Response};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use self::access::{CorsSettings, Credentials};
use self::error::ApiError;
use self::query::Query;
use crate::base::clock::Clock;
use crate::base::metrics::Metrics;
use crate::edge::http::RequestError;
use crate::edge::pull::Pulls;
use crate::edge::ws::Connected;
use crate::hub::Registry;
use crate::services::record::Recordings;
use crate::services::snapshot::Snapshots;
use crate::services::vod::{FilePictures, Vods};

/// Where the REST calls begin.
const PREFIX: &str = "/rest-api/";

/// Who may ask, and how we name ourselves.
#[derive(Clone, Debug)]
pub struct RestSettings {
    /// What browsers are told about pages of other origins.
    pub cors: CorsSettings,
    /// The user who may ask; `None`: everybody (`disable_rest_auth`).
    pub credentials: Option<Credentials>,
    /// `nodeId` of stream objects: 32 random characters, `@`, an address; the same as long as the server runs.
    pub node_id: String,
}

/// Answers REST calls and picture requests.
#[derive(Clone, Debug)]
pub struct Rest {
    settings: RestSettings,
    registry: Registry,
    snapshots: Snapshots,
    metrics: Metrics,
    clock: Clock,
    connected: Connected,
    pulls: Option<Pulls>,
    vods: Option<Vods>,
    file_pictures: Option<FilePictures>,
    recordings: Option<Recordings>,
}

impl Rest {
    /// An interface to these streams.
    #[must_use]
    pub fn new(
        settings: RestSettings,
        registry: Registry,
        snapshots: Snapshots,
        metrics: Metrics,
        clock: Clock,
    ) -> Self {
        Self {
            settings,
            registry,
            snapshots,
            metrics,
            clock,
            connected: Connected::default(),
            pulls: None,
            vods: None,
            file_pictures: None,
            recordings: None,
        }
    }

    /// Also answers the calls about pulled sources.
    #[must_use]
    pub fn with_pulls(self, pulls: Pulls) -> Self {
        Self { pulls: Some(pulls), ..self }
    }

    /// Also answers the calls about files that are played.
    #[must_use]
    pub fn with_vods(self, vods: Vods) -> Self {
        Self { vods: Some(vods), ..self }
    }

    /// Also gives pictures of files.
    #[must_use]
    pub fn with_file_pictures(self, pictures: FilePictures) -> Self {
        Self { file_pictures: Some(pictures), ..self }
    }

    /// Also answers the calls about recordings.
    #[must_use]
    pub fn with_recordings(self, recordings: Recordings) -> Self {
        Self { recordings: Some(recordings), ..self }
    }

    /// Also answers the calls about connections.
    #[must_use]
    pub fn with_connections(self, connected: Connected) -> Self {
        Self { connected, ..self }
    }

    /// Whether [`Rest::handle`] answers requests for this path.
    #[must_use]
    pub fn serves(path: &str) -> bool {
        path.starts_with(PREFIX) || pictures::Kind::of(path).is_some()
    }

    /// Answers a REST call or a picture request; waits for the picture.
    #[must_use]
    pub fn handle(&self, request: &Request) -> Response {
        self.guarded(request, |path| {
            if let Some(kind) = pictures::Kind::of(path) {
                return match request.method() {
                    "GET" | "HEAD" => self.picture(kind, request),
                    _ => Err(ApiError::method_not_allowed("GET, HEAD, OPTIONS")),
                };
            }
            let call = path.strip_prefix(PREFIX).unwrap_or_default();
            // What only tells is served by GET too: helpers use it for calls without arguments (section 9.1). What does
            // something is not: any page and any prefetching proxy can make a browser send a GET.
            match request.method() {
                "POST" => {}
                "GET" | "HEAD" if does_something(call) => {
                    return Err(ApiError::method_not_allowed("POST, OPTIONS"));
                }
                "GET" | "HEAD" => {}
                _ => return Err(ApiError::method_not_allowed("GET, HEAD, POST, OPTIONS")),
            }
            match call {
                "stream/snapshot" => snapshot::take(&self.snapshots, read_json(request)?),
                "stream/find" => self.find(&read_json(request)?),
                "stream/list" => Ok(list::list(&self.registry, self.clock.wall())),
                "stream/find_all" => self.find(&Query::default()),
                "connection/find" => self.find_connections(&read_json(request)?),
                "connection/find_all" => self.find_connections(&Map::new()),
                "connection/terminate" => {
                    connections::terminate(&self.connected, &read_json(request)?).map(|()| done())
                }
                "data/send" => connections::send(&self.connected, read_json(request)?).map(|()| done()),
                "stream/event/send" => {
                    events::send(&self.registry, &self.connected, read_json(request)?).map(|()| done())
                }
                "stream/terminate" => self.terminate(&read_json(request)?),
                call if recorder::serves(call) => self.recorded(call, request),
                call if call.starts_with("vod/") => self.played(call, request),
                call => self.pulled(call, request),
            }
        })
    }

    /// Runs `body` for a request that is let in, and dresses the result: preflight, password and errors are the same for all
    /// that is not a page. `body` is given the path without its query.
    #[must_use]
    pub fn guarded(
        &self,
        request: &Request,
        body: impl FnOnce(&str) -> Result<Response, ApiError>,
    ) -> Response {
        let path = path_of(request);
        let credentials = self.settings.credentials.as_ref();
        let result = if request.method() == "OPTIONS" {
            // A browser sends no password with its preflight.
            Ok(self.settings.cors.preflight(credentials.is_some()))
        } else if credentials.is_some_and(|credentials| !credentials.admit(request)) {
            self.metrics.bad_input("http_password");
            Err(ApiError::unauthorized())
        } else {
            body(path)
        };
        let response = result.unwrap_or_else(|error| {
            if error.status() == 400 {
                self.metrics.bad_input("http_bad_request");
            }
            self.fail(error, path)
        });
        self.settings.cors.apply(request, response)
    }

    /// The response for an error, also for paths that are not ours.
    #[must_use]
    pub fn fail(&self, error: ApiError, path: &str) -> Response {
        error.into_response(path, self.clock.wall())
    }

    /// The response to a request that could not be read. Which page sent it is not known, so only a rule for all pages lets
    /// it read the answer.
    #[must_use]
    pub fn refuse(&self, error: RequestError, path: &str) -> Response {
        let unknown = Request::fake_http("GET", path, Vec::new(), Vec::new());
        self.settings.cors.apply(&unknown, self.fail(error.into(), path))
    }

    fn picture(&self, kind: pictures::Kind, request: &Request) -> Result<Response, ApiError> {
        let now = || self.clock.now();
        match kind {
            pictures::Kind::Snapshot => pictures::take(&self.snapshots, request, &now),
            pictures::Kind::Still => pictures::take_still(&self.snapshots, request, &now),
            pictures::Kind::File => {
                let pictures = self.file_pictures.as_ref();
                let pictures = pictures.ok_or_else(|| ApiError::not_found("File not found"))?;
                pictures::take_of_file(pictures, request)
            }
        }
    }

    /// The calls about recordings.
    fn recorded(&self, call: &str, request: &Request) -> Result<Response, ApiError> {
        let recordings = self.recordings.as_ref().ok_or_else(|| ApiError::not_found("No such call"))?;
        // HEAD asks what would be said, and must not do it.
        if request.method() == "HEAD" && !matches!(call, "recorder/find_all" | "recorder/list") {
            return Err(ApiError::method_not_allowed("GET, POST, OPTIONS"));
        }
        if call == "recorder/list" {
            return shelves::recordings(recordings, self.clock.wall());
        }
        recorder::handle(recordings, call, read_json(request)?)
    }

    /// The calls about files that are played.
    fn played(&self, call: &str, request: &Request) -> Result<Response, ApiError> {
        let no_such_call = || ApiError::not_found("No such call");
        let vods = self.vods.as_ref().ok_or_else(no_such_call)?;
        match call {
            "vod/startup" => vod::startup(vods, &read_json(request)?),
            "vod/find" => vod::find(vods, &read_json(request)?),
            "vod/find_all" => vod::find(vods, &vod::Query::default()),
            "vod/list" => shelves::media(vods, self.clock.wall()),
            "vod/terminate" => vod::terminate(vods, &read_json(request)?),
            _ => Err(no_such_call()),
        }
    }

    /// The calls about pulled sources.
    fn pulled(&self, call: &str, request: &Request) -> Result<Response, ApiError> {
        let no_such_call = || ApiError::not_found("No such call");
        let pulls = self.pulls.as_ref().ok_or_else(no_such_call)?;
        let acts =
            matches!(call, "rtsp/startup" | "rtsp/terminate" | "pull/rtmp/pull" | "pull/rtmp/terminate");
        if acts && request.method() == "HEAD" {
            return Err(ApiError::method_not_allowed("GET, POST, OPTIONS"));
        }
        match call {
            "rtsp/startup" => pulls::startup(pulls, &read_json(request)?),
            "rtsp/find" => pulls::find(pulls, &read_json(request)?),
            "rtsp/find_all" => pulls::find(pulls, &pulls::Query::default()),
            "rtsp/terminate" => pulls::terminate(pulls, &read_json(request)?),
            "pull/rtmp/pull" => pulls::pull(pulls, &read_json(request)?),
            "pull/rtmp/find_all" => pulls::find_all_rtmp(pulls),
            "pull/rtmp/terminate" => pulls::terminate_rtmp(pulls, &read_json(request)?),
            _ => Err(no_such_call()),
        }
    }

    fn find_connections(&self, query: &Map<String, Value>) -> Result<Response, ApiError> {
        connections::find(&self.connected, &self.settings.node_id, query).map(|found| Response::json(&found))
    }

    fn terminate(&self, query: &Query) -> Result<Response, ApiError> {
        terminate::streams(&self.registry, &self.settings.node_id, query, &self.clock).map(|()| done())
    }

    fn find(&self, query: &Query) -> Result<Response, ApiError> {
        let recordings = self.recordings.as_ref();
        streams::find(&self.registry, recordings, &self.settings.node_id, query)
            .map(|found| Response::json(&found))
    }
}

/// The answer to a call that was carried out and has nothing to tell (section 9.4: an empty body).
fn done() -> Response {
    Response::from_data("application/json; charset=utf-8", Vec::new())
}

/// Whether a call changes what is published, pulled, recorded or connected; its last word tells.
fn does_something(call: &str) -> bool {
    const WORDS: [&str; 7] =
        ["terminate", "startup", "send", "pull", "push", "startRecording", "stopRecording"];
    call.rsplit('/').next().is_some_and(|word| WORDS.contains(&word))
}

/// The path without its query, as it came.
pub(crate) fn path_of(request: &Request) -> &str {
    request.raw_url().split('?').next().unwrap_or_default()
}

/// Reads the body as a JSON object; a missing or blank one is an empty object. Keys that are not known are passed over,
/// nesting is bounded by the parser (128 levels), the size by the connection.
fn read_json<T: DeserializeOwned>(request: &Request) -> Result<T, ApiError> {
    let mut body = Vec::new();
    if let Some(mut data) = request.data() {
        data.read_to_end(&mut body).map_err(|_| ApiError::bad_request("Body cannot be read"))?;
    }
    let body = if body.trim_ascii().is_empty() { b"{}".to_vec() } else { body };
    let value: Value = serde_json::from_slice(&body)
        .map_err(|error| ApiError::bad_request(format!("Malformed JSON: {error}")))?;
    // An array would be taken too, field by field in their order.
    if !value.is_object() {
        return Err(ApiError::bad_request("Body must be a JSON object"));
    }
    serde_json::from_value(value).map_err(|error| ApiError::bad_request(format!("Bad request: {error}")))
}
