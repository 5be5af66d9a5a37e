//! Requests one by one: what is allowed when, and what is answered.

use std::time::Instant;

use super::super::address::{Address, path_of};
use super::super::media::MediaReceiver;
use super::super::message::{Method, Request, Response, StatusCode};
use super::super::sdp::{Description, control_url};
use super::super::transport::{Lower, Mode, Transport};
use super::{
    Answer, Asked, FirstPacket, Publication, Question, Refusal, Role, Server, ServerOutput, Session, State,
    Way,
};

/// What we do (RFC 2326 section 10).
const METHODS: &str =
    "OPTIONS, DESCRIBE, ANNOUNCE, SETUP, PLAY, PAUSE, RECORD, GET_PARAMETER, SET_PARAMETER, TEARDOWN";
const SDP: &str = "application/sdp";
/// Most tracks of a session that travel by datagram. Two are taken; what else is announced is passed over, and each costs two
/// ports and two sockets all the same.
const DATAGRAM_TRACKS_MAX: usize = 6;

impl Server {
    /// A response to `request`, or to something that could not be read.
    pub(super) fn out_response(&mut self, request: Option<&Request>, response: Response) {
        let mut response = response;
        if let Some(cseq) = request.and_then(|request| request.header("CSeq")) {
            response = response.with_header("CSeq", cseq);
        }
        if !self.settings.product.is_empty() {
            response = response.with_header("Server", &self.settings.product);
        }
        response.write(&mut self.out);
    }

    fn refuse(&mut self, request: &Request, refusal: impl Into<Refusal>) {
        let Refusal { status, reason } = refusal.into();
        self.out_response(Some(request), Response::new(status).with_reason(&reason));
    }

    fn ok(&mut self, request: &Request) {
        let response = self.with_session(Response::new(StatusCode::Ok));
        self.out_response(Some(request), response);
    }

    fn with_session(&self, response: Response) -> Response {
        match &self.session {
            Some(session) if !session.ways.iter().all(Option::is_none) => {
                let seconds = self.settings.session_timeout.as_secs();
                response.with_header("Session", &format!("{};timeout={seconds}", session.id))
            }
            _ => response,
        }
    }

    fn ask(&mut self, request: Request, question: Question, output: ServerOutput) {
        self.asked = Some(Asked { request, question });
        self.outputs.push_back(output);
    }

    pub(super) fn take_request(&mut self, now: Instant, request: Request) {
        if let Err(refusal) = self.check(&request) {
            let unsupported =
                request.header("Require").filter(|_| refusal.status == StatusCode::OptionNotSupported);
            let mut response = Response::new(refusal.status).with_reason(&refusal.reason);
            if let Some(options) = unsupported {
                response = response.with_header("Unsupported", options);
            }
            self.out_response(Some(&request), response);
            return;
        }
        match request.method() {
            Method::Options => {
                let response =
                    self.with_session(Response::new(StatusCode::Ok).with_header("Public", METHODS));
                self.out_response(Some(&request), response);
            }
            Method::Announce => self.announce(request),
            Method::Describe => self.describe(request),
            Method::Setup => self.setup(request),
            Method::Record => self.record(now, &request),
            Method::Play => self.play(request),
            Method::Pause => self.pause(&request),
            // Without a body they only keep the session alive; we have no parameters (RFC 2326 sections 10.8, 10.9).
            Method::GetParameter | Method::SetParameter if request.body().is_empty() => self.ok(&request),
            Method::GetParameter | Method::SetParameter => {
                self.refuse(&request, StatusCode::ParameterNotUnderstood);
            }
            Method::Teardown => self.teardown(&request),
            _ => self.refuse(&request, StatusCode::NotImplemented),
        }
    }

    /// What holds for every request.
    fn check(&self, request: &Request) -> Result<(), Refusal> {
        if !request.is_version_1() {
            return Err(StatusCode::RTSPVersionNotSupported.into());
        }
        if request.cseq().is_none() {
            return Err(Refusal::new(StatusCode::BadRequest, "CSeq is missing"));
        }
        if request.header("Require").is_some() || request.header("Proxy-Require").is_some() {
            return Err(StatusCode::OptionNotSupported.into());
        }
        let is_ours = |id: &str| self.session.as_ref().is_some_and(|session| session.id == id);
        // A connection has one session, so that a client which forgets to name it is understood.
        if request.session().is_some_and(|id| !is_ours(id)) {
            return Err(StatusCode::SessionNotFound.into());
        }
        Ok(())
    }

    fn announce(&mut self, request: Request) {
        if self.session.is_some() {
            return self.refuse(&request, StatusCode::MethodNotValidInThisState);
        }
        if request.header("Content-Type").is_some_and(|kind| !is_sdp(kind)) {
            return self.refuse(&request, StatusCode::UnsupportedMediaType);
        }
        let description = match Description::parse(request.body()) {
            Ok(description) => description,
            Err(error) => return self.refuse(&request, Refusal::new(StatusCode::BadRequest, error)),
        };
        if !description.tracks.iter().any(|track| track.is_known()) {
            let codecs: Vec<_> = description.tracks.iter().map(|track| track.codec_name()).collect();
            let reason = format!("No supported codec among: {}", codecs.join(", "));
            return self.refuse(&request, Refusal::new(StatusCode::UnsupportedMediaType, reason));
        }
        let Address { name, query, .. } = Address::of(request.uri());
        let sdp = String::from_utf8_lossy(request.body()).into_owned();
        let publication = Publication { name: name.clone(), description: description.clone() };
        let output = ServerOutput::Announce { name, query, description, sdp };
        self.ask(request, Question::Announce(Box::new(publication)), output);
    }

    fn describe(&mut self, request: Request) {
        let accepts =
            |kinds: &str| kinds.split(',').any(|kind| is_sdp(kind) || kind.trim().starts_with("*/*"));
        if request.header("Accept").is_some_and(|kinds| !accepts(kinds)) {
            return self.refuse(&request, StatusCode::NotAcceptable);
        }
        let name = Address::of(request.uri()).name;
        self.ask(request, Question::Describe, ServerOutput::Find { name });
    }

    fn setup(&mut self, request: Request) {
        if self.session.as_ref().is_some_and(|session| session.state == State::Active) {
            return self.refuse(&request, StatusCode::MethodNotValidInThisState);
        }
        if self.session.is_none() {
            let address = Address::of(request.uri());
            match self.described.take() {
                Some((name, base, description)) if name == address.name => {
                    self.session = Some(self.new_session(Role::Player, name, base, description));
                }
                // Allowed by the standard: the client knows the tracks from elsewhere.
                _ => {
                    return self.ask(request, Question::SetupFind, ServerOutput::Find { name: address.name });
                }
            }
        }
        if let Err(refusal) = self.choose_way(&request) {
            self.drop_unused_session();
            self.refuse(&request, refusal);
        }
    }

    fn new_session(&mut self, role: Role, name: String, base: String, description: Description) -> Session {
        self.sessions += 1;
        let ways = vec![None; description.tracks.len()];
        let id = format!("{}{:02x}", self.session_id, self.sessions & 0xFF);
        Session { id, role, name, base, description, ways, state: State::Ready }
    }

    /// A playback whose first `SETUP` failed leaves nothing behind; a publication waits for a better one.
    fn drop_unused_session(&mut self) {
        let is_unused =
            |session: &Session| session.role == Role::Player && session.ways.iter().all(Option::is_none);
        if let Some(session) = self.session.take_if(|session| is_unused(session)) {
            self.described = Some((session.name, session.base, session.description));
        }
    }

    /// Finds the track that a `SETUP` names and a way for it. Either the response is written, or ports are asked for.
    fn choose_way(&mut self, request: &Request) -> Result<(), Refusal> {
        let session = self.session.as_ref().ok_or(StatusCode::SessionNotFound)?;
        let track = session.track_of(request.uri()).ok_or(StatusCode::NotFound)?;
        if session.ways.get(track).copied().flatten().is_some() {
            // Another way for a track that has one (RFC 2326 section 10.4 leaves it to us).
            return Err(StatusCode::MethodNotValidInThisState.into());
        }
        let offered = Transport::parse(request.header("Transport").unwrap_or_default());
        let mode = match session.role {
            Role::Publisher => Mode::Record,
            Role::Player => Mode::Play,
        };
        // A sender that says nothing means what it announced; "record" to a player's stream cannot be meant.
        let fits =
            |offer: &&Transport| offer.mode.is_none_or(|wanted| wanted == mode || mode == Mode::Record);
        let chosen = offered.iter().filter(fits).find_map(|offer| session.way_for(track, offer));
        match chosen.ok_or(StatusCode::UnsupportedTransport)? {
            way @ Way::Interleaved(rtp, rtcp) => {
                let transport = Transport { interleaved: Some((rtp, rtcp)), ..Transport::new(Lower::Tcp) };
                self.set_way(request, track, way, transport);
            }
            Way::Datagrams(..) if session.ways.iter().flatten().count() >= DATAGRAM_TRACKS_MAX => {
                return Err(StatusCode::NotEnoughBandwidth.into());
            }
            Way::Datagrams(rtp, rtcp) => {
                let client = (rtp, rtcp);
                let question = Question::SetupPorts { track, client };
                self.ask(request.clone(), question, ServerOutput::OpenPorts { track, client });
            }
        }
        Ok(())
    }

    fn set_way(&mut self, request: &Request, track: usize, way: Way, transport: Transport) {
        let Some(session) = &mut self.session else { return };
        let is_record = session.role == Role::Publisher;
        if let Some(place) = session.ways.get_mut(track) {
            *place = Some(way);
        }
        let mode = is_record.then_some(Mode::Record);
        let header = Transport { mode, ..transport }.to_string();
        let response = self.with_session(Response::new(StatusCode::Ok).with_header("Transport", &header));
        self.out_response(Some(request), response);
    }

    fn record(&mut self, now: Instant, request: &Request) {
        let Some(session) = self.session.as_mut().filter(|session| session.role == Role::Publisher) else {
            return self.refuse(request, StatusCode::MethodNotValidInThisState);
        };
        let known_is_set = session
            .description
            .tracks
            .iter()
            .zip(&session.ways)
            .any(|(track, way)| track.is_known() && way.is_some());
        if !known_is_set {
            return self.refuse(request, StatusCode::MethodNotValidInThisState);
        }
        if session.state == State::Ready {
            session.state = State::Active;
            let hold_back = (!session.is_interleaved()).then_some(self.settings.hold_back);
            let settings = super::MediaSettings { hold_back, ..self.media_settings.clone() };
            let tracks = &session.description.tracks;
            self.media.get_or_insert_with(|| MediaReceiver::new(settings, tracks, now));
            self.last_media = now;
            self.outputs.push_back(ServerOutput::Record);
        }
        self.ok(request);
    }

    fn play(&mut self, request: Request) {
        match &self.session {
            Some(session) if session.role == Role::Player && session.ways.iter().any(Option::is_some) => {
                if session.state == State::Active {
                    // Live has no other place to go to.
                    return self.ok(&request);
                }
                self.ask(request, Question::Play, ServerOutput::Play);
            }
            _ => self.refuse(&request, StatusCode::MethodNotValidInThisState),
        }
    }

    /// Live goes on meanwhile: a player that plays again begins at the newest group of pictures, and what a publisher
    /// sends during its pause is not taken.
    fn pause(&mut self, request: &Request) {
        let Some(session) = &mut self.session else {
            return self.refuse(request, StatusCode::MethodNotValidInThisState);
        };
        if session.state == State::Active {
            session.state = State::Ready;
            self.outputs.push_back(ServerOutput::Pause);
        }
        self.ok(request);
    }

    fn teardown(&mut self, request: &Request) {
        if self.session.is_none() {
            return self.refuse(request, StatusCode::SessionNotFound);
        }
        self.ok(request);
        self.session = None;
        self.media = None;
        self.described = None;
        self.outputs.push_back(ServerOutput::Teardown);
    }

    pub(super) fn take_answer(&mut self, _now: Instant, asked: Asked, answer: Answer) {
        let Asked { request, question } = asked;
        match (question, answer) {
            (_, Answer::Refused(refusal)) => self.refuse(&request, refusal),
            (Question::Announce(publication), Answer::Done) => {
                let Publication { name, description } = *publication;
                let base = request.uri().to_owned();
                self.session = Some(self.new_session(Role::Publisher, name, base, description));
                self.ok(&request);
            }
            (Question::Describe, Answer::Found(description, title)) => {
                self.send_description(&request, description, &title);
            }
            (Question::SetupFind, Answer::Found(description, _)) => {
                let address = Address::of(request.uri());
                let base = base_of(request.uri(), address.track);
                self.session = Some(self.new_session(Role::Player, address.name, base, description));
                self.setup(request);
            }
            (Question::SetupPorts { track, client }, Answer::Ports(rtp, rtcp)) => {
                let way = Way::Datagrams(client.0, client.1);
                let ports = (Some(client), Some((rtp, rtcp)));
                let transport =
                    Transport { client_ports: ports.0, server_ports: ports.1, ..Transport::new(Lower::Udp) };
                self.set_way(&request, track, way, transport);
            }
            (Question::Play, Answer::Playing(first)) => self.send_playing(&request, &first),
            // An answer to something else than what was asked.
            _ => self.refuse(&request, StatusCode::InternalServerError),
        }
        if self.asked.is_none() {
            self.drop_unused_session();
        }
    }

    fn send_description(&mut self, request: &Request, description: Description, title: &str) {
        let base = format!("{}/", request.uri().trim_end_matches('/'));
        let session_id = u64::from_str_radix(&self.session_id, 16).unwrap_or_default();
        let body = description.write(title, session_id, std::net::Ipv4Addr::UNSPECIFIED.into());
        let response = Response::new(StatusCode::Ok)
            .with_header("Content-Base", &base)
            .with_header("Cache-Control", "no-cache")
            .with_body(SDP, body);
        self.out_response(Some(request), response);
        self.described = Some((Address::of(request.uri()).name, base, description));
    }

    fn send_playing(&mut self, request: &Request, first: &[FirstPacket]) {
        let Some(session) = &mut self.session else { return };
        session.state = State::Active;
        let infos: Vec<String> = first
            .iter()
            .filter_map(|packet| {
                let control = &session.description.tracks.get(packet.track)?.control;
                let url = control_url(&session.base, control);
                let time = packet.rtp_time.map(|time| format!(";rtptime={time}")).unwrap_or_default();
                Some(format!("url={url};seq={}{time}", packet.sequence))
            })
            .collect();
        let mut response = Response::new(StatusCode::Ok).with_header("Range", "npt=now-");
        if !infos.is_empty() {
            response = response.with_header("RTP-Info", &infos.join(","));
        }
        let response = self.with_session(response);
        self.out_response(Some(request), response);
    }
}

impl Session {
    /// The track that a URL names; the whole presentation, where there is but one.
    fn track_of(&self, uri: &str) -> Option<usize> {
        let plain = |uri: &str| path_of(uri).trim_end_matches('/').to_owned();
        let wanted = plain(uri);
        let tracks = &self.description.tracks;
        let named = tracks.iter().position(|track| {
            !track.control.is_empty() && plain(&self.description.track_url(&self.base, track)) == wanted
        });
        let by_end = || {
            tracks.iter().position(|track| {
                !track.control.is_empty()
                    && wanted.ends_with(&format!("/{}", track.control.trim_start_matches('/')))
            })
        };
        let only = || (tracks.len() == 1 && wanted == plain(&self.base)).then_some(0);
        named.or_else(by_end).or_else(only)
    }

    /// How a track can travel as offered; `None` where it cannot.
    fn way_for(&self, track: usize, offer: &Transport) -> Option<Way> {
        if offer.multicast || self.lower().is_some_and(|lower| lower != offer.lower) {
            return None;
        }
        match offer.lower {
            Lower::Tcp => {
                let usual = u8::try_from(track * 2).ok()?;
                let (rtp, rtcp) = offer.interleaved.unwrap_or((usual, usual.checked_add(1)?));
                let is_free = |channel| self.track_of_channel(channel).is_none();
                (rtp != rtcp && is_free(rtp) && is_free(rtcp)).then_some(Way::Interleaved(rtp, rtcp))
            }
            Lower::Udp => {
                let (rtp, rtcp) = offer.client_ports?;
                // Ports below 1024 belong to services of the machine, which are not to be sent to.
                (rtp != rtcp && rtp >= 1024 && rtcp >= 1024).then_some(Way::Datagrams(rtp, rtcp))
            }
        }
    }
}

fn is_sdp(kind: &str) -> bool {
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(SDP)
}

/// The URL of a presentation out of that of one of our tracks.
fn base_of(uri: &str, track: Option<usize>) -> String {
    let trimmed = uri.trim_end_matches('/');
    match (track, trimmed.rsplit_once('/')) {
        (Some(_), Some((base, _))) => format!("{base}/"),
        _ => format!("{trimmed}/"),
    }
}
