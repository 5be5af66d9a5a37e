//! One WebRTC endpoint: ICE-lite, DTLS, SRTP and a bundle of tracks on one socket, without the socket.
//!
//! What belongs here: which datagram goes to which machine, who may send what when, and when it is over. What does
//! not: sockets and threads (`edge::rtc`), and what becomes of the media (`hub`).

mod refused;
mod viewer;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::Rng as _;

pub use self::refused::{Refused, RefusedCounts};
pub use self::viewer::ViewerStream;
use super::demux::{self, Kind};
use super::dtls::{Certificate, Dtls, DtlsFailure, DtlsSettings, Fingerprint, Session, SessionOutput, Side};
use super::ice::{Credentials, IceFailure, IceLite, IceRefusal, IceSettings};
use super::rtp::receiver::{
    HOLD_BACK_DEFAULT, KEYFRAME_INTERVAL_DEFAULT, Receiver, ReceiverOutput, ReceiverSettings, ReceiverStats,
    TrackKind, TrackSettings, VideoPayload,
};
use super::rtp::sender::{Sender, SenderOutput, SenderStats};
use super::sdp::answer::{ABS_SEND_TIME, Accepted, KnownCodec, Local, MID, VIDEO_ORIENTATION};
use super::sdp::{Negotiated, NegotiationError, Offer};
use super::srtp::{Keys, Srtp};
use crate::media::track::AudioCodec;
use crate::media::unit::{AccessUnit, AudioFrame};

/// Largest datagram that is looked at. Nothing in WebRTC is larger than one Ethernet frame.
pub const DATAGRAM_MAX_BYTES: usize = 2048;
/// The next deadline of a peer that is closed, which has nothing left to do.
const AFTERWARDS: Duration = Duration::from_secs(3600);

/// What a [`Peer`] must know beside the offer.
#[derive(Clone, Debug)]
pub struct PeerSettings {
    /// Addresses that its socket is reachable at, best first; at least one.
    pub candidates: Vec<SocketAddr>,
    /// Names of codecs that may be used, in the order of preference (`codecs` of the configuration). Names of others
    /// than `opus`, `h264` and `vp8` are passed over.
    pub codecs: Vec<String>,
    /// What is shown in the DTLS handshake.
    pub certificate: Arc<Certificate>,
    /// How long the first good connectivity check may take.
    pub ice_timeout: Duration,
    /// How long the peer may stay without a connectivity check (RFC 7675: 30 s).
    pub consent_timeout: Duration,
    /// How long the DTLS handshake may take after the first good check.
    pub handshake_timeout: Duration,
    /// How long a connected peer may stay without RTP; `None` for ever.
    pub rtp_activity: Option<Duration>,
    /// Most pixels of a picture.
    pub pixels_max: u64,
    /// Most that the peer is allowed to send, in bits a second.
    pub bitrate_max_bps: u64,
    /// With how many kbit/s of video the peer may begin; 0 leaves it to the peer.
    pub bitrate_start_kbps: u64,
    /// `s=` of the answer.
    pub session_name: String,
}

/// What goes back to the offerer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The session description.
    pub sdp: String,
    /// The codec of the pictures, "H264" or "VP8"; `None` without pictures.
    pub video_codec: Option<&'static str>,
    /// The codec of the sound, "opus"; `None` without sound.
    pub audio_codec: Option<&'static str>,
    /// The orientation of the camera comes beside the pictures.
    pub cvo: bool,
}

/// What comes out of a [`Peer`].
#[derive(Clone, Debug)]
pub enum Output {
    /// A datagram to send.
    Transmit {
        /// Where to.
        to: SocketAddr,
        /// What.
        bytes: Bytes,
    },
    /// A whole picture.
    Video(AccessUnit),
    /// A frame of sound.
    Audio(AudioFrame),
    /// Video was lost: nothing is decodable before the next unit with `key`.
    Gap,
    /// A viewer needs a keyframe.
    KeyframeWanted,
    /// A viewer's network carries less than the stream needs, in bits a second.
    NotEnoughBandwidth {
        /// What the stream needs.
        stream_bps: u64,
        /// What there is.
        available_bps: u64,
    },
    /// Something happened to the connection.
    Event(PeerEvent),
    /// Nothing more; call [`Peer::handle_timeout`] then.
    Timeout(Instant),
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// Keys are agreed on with the holder of the announced certificate: media may come.
    Connected,
    /// It is over. The last event.
    Closed(CloseCause),
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCause {
    /// [`Peer::close`].
    Local,
    /// No good connectivity check came in time.
    IceTimeout,
    /// Connectivity checks stopped.
    ConsentLost,
    /// The DTLS handshake failed or took too long.
    Dtls,
    /// The certificate is not the one that the offer announced.
    Fingerprint,
    /// No RTP came for [`PeerSettings::rtp_activity`].
    RtpActivity,
    /// The peer closed (DTLS `close_notify`).
    PeerClosed,
}

/// Counts of one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// Datagrams that were not used.
    pub refused: RefusedCounts,
    /// What was received of a publisher.
    pub receiver: ReceiverStats,
    /// What was sent to a viewer.
    pub sender: SenderStats,
    /// Where the peer is now.
    pub remote: Option<SocketAddr>,
}

#[derive(Debug)]
enum State {
    /// Nobody proved to know the password.
    Checking,
    /// Somebody did; keys are being agreed on.
    Handshake,
    /// Media may come.
    Connected { srtp: Box<Srtp>, since: Instant },
    /// Over, since then.
    Closed { since: Instant },
}

/// Which way media goes.
#[derive(Debug)]
enum Media {
    /// From a publisher.
    Receives(Box<Receiver>),
    /// To a viewer.
    Sends(Box<Sender>),
}

/// One endpoint.
pub struct Peer {
    state: State,
    ice: IceLite,
    session: Box<dyn Session>,
    /// When the session wants to be called; `None` for never.
    session_deadline: Option<Instant>,
    media: Media,
    media_deadline: Instant,
    rtp_activity: Option<Duration>,
    outputs: VecDeque<Output>,
    refused: RefusedCounts,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("state", &self.state).field("ice", &self.ice).finish_non_exhaustive()
    }
}

impl Peer {
    /// Answers a publisher's offer: we receive.
    ///
    /// # Errors
    /// When nothing of the offer can be received, or it lacks what a transport needs.
    pub fn answer_publisher(
        settings: PeerSettings,
        offer: &Offer,
        random: &mut dyn rand::RngCore,
        now: Instant,
    ) -> Result<(Self, Answer), NegotiationError> {
        Self::answer_publisher_with(settings, offer, random, now, |settings| Box::new(Dtls::new(settings)))
    }

    /// The same with another key agreement, for tests in virtual time.
    pub(crate) fn answer_publisher_with(
        settings: PeerSettings,
        offer: &Offer,
        random: &mut dyn rand::RngCore,
        now: Instant,
        session: impl FnOnce(DtlsSettings) -> Box<dyn Session>,
    ) -> Result<(Self, Answer), NegotiationError> {
        let negotiated = Negotiated::publisher(offer, &settings.codecs)?;
        let credentials = Credentials::generate(random);
        let local = Local {
            session_name: &settings.session_name,
            // RFC 8866 section 5.2 wants it numeric; readers take 63 bits (RFC 9429 section 5.2.1).
            session_id: random.random::<u64>() >> 1,
            candidates: &settings.candidates,
            ice_ufrag: &credentials.ufrag,
            ice_pwd: &credentials.pwd,
            fingerprint: settings.certificate.fingerprint_sha256(),
            bitrate_start_kbps: settings.bitrate_start_kbps.min(settings.bitrate_max_bps / 1000),
        };
        let answer = Answer {
            sdp: negotiated.answer(offer, &local)?,
            video_codec: negotiated.video.as_ref().map(|taken| taken.known.name()),
            audio_codec: negotiated.audio.as_ref().map(|taken| taken.known.name()),
            cvo: negotiated.video.as_ref().is_some_and(|taken| extension(taken, VIDEO_ORIENTATION).is_some()),
        };
        let receiver = Receiver::new(receiver_settings(&settings, offer, &negotiated, random), now);
        let media = Media::Receives(Box::new(receiver));
        let peer = Self::new(settings, credentials, negotiated.fingerprints, media, now, session);
        Ok((peer, answer))
    }

    /// A peer whose offer was answered.
    fn new(
        settings: PeerSettings,
        credentials: Credentials,
        fingerprints: Vec<Fingerprint>,
        media: Media,
        now: Instant,
        session: impl FnOnce(DtlsSettings) -> Box<dyn Session>,
    ) -> Self {
        let session = session(DtlsSettings {
            side: Side::Server,
            certificate: settings.certificate,
            fingerprints,
            handshake_timeout: settings.handshake_timeout,
        });
        let ice_settings =
            IceSettings { timeout: settings.ice_timeout, consent_timeout: settings.consent_timeout };
        Self {
            state: State::Checking,
            ice: IceLite::new(credentials, ice_settings, now),
            session,
            session_deadline: None,
            media,
            media_deadline: now,
            rtp_activity: settings.rtp_activity,
            outputs: VecDeque::new(),
            refused: RefusedCounts::default(),
        }
    }

    /// Takes a datagram that came to the peer's socket.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        if self.is_closed() {
            return;
        }
        if datagram.len() > DATAGRAM_MAX_BYTES {
            self.refused.add(Refused::Oversize, 1);
            return;
        }
        match demux::kind(datagram) {
            Some(Kind::Stun) => self.handle_stun(now, from, datagram),
            Some(Kind::Dtls) if self.ice.allows(now, from) => {
                let useless = self.session.handle_datagram(now, datagram);
                self.refused.add(Refused::DtlsMalformed, useless as u64);
            }
            Some(Kind::Dtls) => self.refused.add(Refused::DtlsStranger, 1),
            Some(kind @ (Kind::Rtp | Kind::Rtcp)) if self.ice.allows(now, from) => {
                if let Err(refused) = self.handle_media(now, kind, datagram) {
                    self.refused.add(refused, 1);
                }
            }
            Some(Kind::Rtp | Kind::Rtcp) => self.refused.add(Refused::RtpStranger, 1),
            None => self.refused.add(Refused::Unknown, 1),
        }
        self.drain(now);
    }

    fn handle_stun(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        let outcome = self.ice.handle_datagram(now, from, datagram);
        if let Some(answer) = outcome.answer {
            self.outputs.push_back(Output::Transmit { to: from, bytes: answer.into() });
        }
        match outcome.refusal {
            None if matches!(self.state, State::Checking) => {
                self.state = State::Handshake;
                self.session.start(now);
            }
            None => {}
            Some(refusal) => {
                let kind = match refusal {
                    IceRefusal::Message(_) | IceRefusal::NotRequest => Refused::StunMalformed,
                    IceRefusal::NoCredentials | IceRefusal::WrongCredentials => Refused::StunCredentials,
                    IceRefusal::RoleConflict | IceRefusal::UnknownAttribute => Refused::StunRefused,
                };
                self.refused.add(kind, 1);
            }
        }
    }

    fn handle_media(&mut self, now: Instant, kind: Kind, datagram: &[u8]) -> Result<(), Refused> {
        let State::Connected { srtp, .. } = &mut self.state else { return Err(Refused::RtpEarly) };
        if kind == Kind::Rtcp {
            let plain = srtp.unprotect_rtcp(datagram)?;
            let handled = match &mut self.media {
                Media::Receives(receiver) => receiver.handle_rtcp(now, &plain),
                Media::Sends(sender) => sender.handle_rtcp(now, &plain),
            };
            return handled.map_err(|_| Refused::RtcpUnusable);
        }
        // A viewer has nothing to send.
        let Media::Receives(receiver) = &mut self.media else { return Err(Refused::RtpUnbound) };
        if !receiver.accepts(datagram) {
            return Err(Refused::RtpUnbound);
        }
        let plain = srtp.unprotect_rtp(datagram)?;
        receiver.handle_rtp(now, &plain).map_err(|_| Refused::RtpUnusable)
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.is_closed() {
            return;
        }
        match self.ice.handle_timeout(now) {
            Some(IceFailure::Timeout) => self.finish(now, CloseCause::IceTimeout),
            Some(IceFailure::ConsentLost) => self.finish(now, CloseCause::ConsentLost),
            None if self.activity_deadline().is_some_and(|deadline| now >= deadline) => {
                self.finish(now, CloseCause::RtpActivity);
            }
            None => {
                if self.session_deadline.is_some_and(|deadline| now >= deadline) {
                    self.session.handle_timeout(now);
                }
                if matches!(self.state, State::Connected { .. }) && now >= self.media_deadline {
                    match &mut self.media {
                        Media::Receives(receiver) => receiver.handle_timeout(now),
                        Media::Sends(sender) => sender.handle_timeout(now),
                    }
                }
                self.drain(now);
            }
        }
    }

    /// Asks the publisher for a keyframe; many who ask at once cost one request.
    pub fn request_keyframe(&mut self, now: Instant) {
        if let (false, Media::Receives(receiver)) = (self.is_closed(), &mut self.media) {
            receiver.request_keyframe(now);
            self.drain(now);
        }
    }

    /// Ends the connection and tells the peer.
    pub fn close(&mut self, now: Instant) {
        if !self.is_closed() {
            self.finish(now, CloseCause::Local);
        }
    }

    /// The next output; call until it is [`Output::Timeout`].
    pub fn poll_output(&mut self) -> Output {
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        if let State::Closed { since } = self.state {
            return Output::Timeout(since + AFTERWARDS);
        }
        let mut deadline = self.ice.deadline();
        let media = matches!(self.state, State::Connected { .. }).then_some(self.media_deadline);
        for other in [self.session_deadline, media, self.activity_deadline()].into_iter().flatten() {
            deadline = deadline.min(other);
        }
        Output::Timeout(deadline)
    }

    /// Whether it is over; outputs may be left.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// Counts so far.
    #[must_use]
    pub fn stats(&self) -> PeerStats {
        let (receiver, sender) = match &self.media {
            Media::Receives(receiver) => (receiver.stats(), SenderStats::default()),
            Media::Sends(sender) => (ReceiverStats::default(), sender.stats()),
        };
        PeerStats { refused: self.refused, receiver, sender, remote: self.ice.target() }
    }

    /// When the silence has lasted too long.
    fn activity_deadline(&self) -> Option<Instant> {
        let State::Connected { since, .. } = &self.state else { return None };
        let Media::Receives(receiver) = &self.media else { return None };
        let last = receiver.stats().last_rtp.map_or(*since, |last| last.max(*since));
        Some(last + self.rtp_activity?)
    }

    /// Moves what the parts have to say to the outputs.
    fn drain(&mut self, now: Instant) {
        if let Some(cause) = self.drain_session(now) {
            self.finish(now, cause);
            return;
        }
        match &self.media {
            Media::Receives(_) => self.drain_receiver(),
            Media::Sends(_) => self.drain_sender(),
        }
    }

    fn drain_receiver(&mut self) {
        let Media::Receives(receiver) = &mut self.media else { return };
        loop {
            match receiver.poll_output() {
                ReceiverOutput::Rtcp(compound) => {
                    let State::Connected { srtp, .. } = &mut self.state else { continue };
                    let (Some(to), Ok(bytes)) = (self.ice.target(), srtp.protect_rtcp(&compound)) else {
                        continue;
                    };
                    self.outputs.push_back(Output::Transmit { to, bytes });
                }
                ReceiverOutput::Video(unit) => self.outputs.push_back(Output::Video(unit)),
                ReceiverOutput::Audio(frame) => self.outputs.push_back(Output::Audio(frame)),
                ReceiverOutput::Gap => self.outputs.push_back(Output::Gap),
                ReceiverOutput::Timeout(at) => {
                    self.media_deadline = at;
                    return;
                }
            }
        }
    }

    /// The same for the session; tells what ended it.
    fn drain_session(&mut self, now: Instant) -> Option<CloseCause> {
        loop {
            match self.session.poll_output() {
                SessionOutput::Transmit(datagram) => {
                    if let Some(to) = self.ice.target() {
                        self.outputs.push_back(Output::Transmit { to, bytes: datagram.into() });
                    }
                }
                SessionOutput::Connected(keys) => {
                    if !self.connect(keys, now) {
                        return Some(CloseCause::Dtls);
                    }
                }
                SessionOutput::Failed(DtlsFailure::Fingerprint) => return Some(CloseCause::Fingerprint),
                SessionOutput::Failed(_) => return Some(CloseCause::Dtls),
                SessionOutput::Closed => return Some(CloseCause::PeerClosed),
                SessionOutput::Timeout(at) => {
                    self.session_deadline = at;
                    return None;
                }
            }
        }
    }

    fn connect(&mut self, keys: Keys, now: Instant) -> bool {
        let Ok(srtp) = Srtp::new(keys) else { return false };
        self.state = State::Connected { srtp: Box::new(srtp), since: now };
        self.media_deadline = now;
        self.outputs.push_back(Output::Event(PeerEvent::Connected));
        true
    }

    fn finish(&mut self, now: Instant, cause: CloseCause) {
        self.session.close();
        let to = self.ice.target();
        while let SessionOutput::Transmit(datagram) = self.session.poll_output() {
            let bytes = Bytes::from(datagram);
            self.outputs.extend(to.map(|to| Output::Transmit { to, bytes }));
        }
        self.session_deadline = None;
        self.state = State::Closed { since: now };
        self.outputs.push_back(Output::Event(PeerEvent::Closed(cause)));
    }
}

fn extension(taken: &Accepted, uri: &str) -> Option<u8> {
    taken.extensions.iter().find(|(_, known)| *known == uri).map(|(id, _)| *id)
}

fn receiver_settings(
    settings: &PeerSettings,
    offer: &Offer,
    negotiated: &Negotiated,
    random: &mut dyn rand::RngCore,
) -> ReceiverSettings {
    let taken = [&negotiated.video, &negotiated.audio].into_iter().flatten();
    let tracks: Vec<TrackSettings> = taken.clone().map(|taken| track_settings(offer, taken)).collect();
    let shared = |uri| taken.clone().find_map(|taken| extension(taken, uri));
    let used = |ssrc| tracks.iter().any(|track| track.ssrcs.contains(&ssrc));
    let mut local_ssrc = random.random_range(1..=u32::MAX);
    while used(local_ssrc) {
        local_ssrc = local_ssrc.wrapping_add(1);
    }
    ReceiverSettings {
        local_ssrc,
        // A name for this session alone (RFC 7022 section 4.2).
        cname: Credentials::generate(random).pwd,
        mid_extension: shared(MID),
        abs_send_time_extension: shared(ABS_SEND_TIME),
        tracks,
        pixels_max: settings.pixels_max,
        bitrate_max_bps: settings.bitrate_max_bps,
        hold_back: HOLD_BACK_DEFAULT,
        keyframe_interval: KEYFRAME_INTERVAL_DEFAULT,
    }
}

fn track_settings(offer: &Offer, taken: &Accepted) -> TrackSettings {
    let section = offer.sections.get(taken.index);
    let agreed = |kind: &str| taken.feedback.contains(&kind);
    let (pli, fir) = (agreed("nack pli"), agreed("ccm fir"));
    TrackSettings {
        kind: match taken.known {
            KnownCodec::H264 => TrackKind::Video { codec: VideoPayload::H264 },
            KnownCodec::Vp8 => TrackKind::Video { codec: VideoPayload::Vp8 },
            KnownCodec::Opus => TrackKind::Audio {
                codec: AudioCodec::Opus,
                clock_rate: NonZeroU32::new(taken.codec.clock_rate).unwrap_or(NonZeroU32::MIN),
                channels: taken.codec.channels,
            },
        },
        payload_types: vec![taken.codec.payload_type],
        ssrcs: section.map(|section| section.ssrcs.clone()).unwrap_or_default(),
        mid: section.and_then(|section| section.mid.clone()).unwrap_or_default(),
        nack: agreed("nack"),
        // Offers that lost their `rtcp-fb` lines on the way come from browsers that know PLI all the same; without
        // any request for a keyframe no loss would ever be healed.
        pli: pli || !fir,
        fir,
        remb: agreed("goog-remb"),
        cvo_extension: extension(taken, VIDEO_ORIENTATION),
    }
}

#[cfg(test)]
mod tests;
