//! The side of a peer that sends: a viewer's offer answered, units packed, encrypted and repeated.

use super::{
    Answer, Credentials, Dtls, DtlsSettings, Instant, Media, NegotiationError, Offer, Output, Peer,
    PeerSettings, Sender, SenderOutput, Session, State,
};
use std::num::NonZeroU32;

use rand::Rng as _;

use crate::media::unit::{AccessUnit, AudioFrame};
use crate::proto::rtp::sender::{SendExtensions, SendTrack, SenderSettings};
use crate::proto::sdp::answer::{ABS_SEND_TIME, Local, MID, TRANSPORT_WIDE, VIDEO_ORIENTATION};
use crate::proto::sdp::viewer::{Sendable, SendableAudio, SenderLines, Sent, Sources, ViewerNegotiated};

/// What a viewer asks to see.
#[derive(Clone, Copy, Debug)]
pub struct ViewerStream<'a> {
    /// The stream's name, which names the `MediaStream` in the viewer's browser.
    pub name: &'a str,
    /// What of it can be sent.
    pub sendable: &'a Sendable,
}

impl Peer {
    /// Answers a viewer's offer: we send. Of the settings, the codecs and what concerns receiving do not matter.
    ///
    /// # Errors
    /// When nothing of the stream can be sent, or the offer lacks what a transport needs.
    pub fn answer_viewer(
        settings: PeerSettings,
        offer: &Offer,
        stream: ViewerStream<'_>,
        random: &mut dyn rand::RngCore,
        now: Instant,
    ) -> Result<(Self, Answer), NegotiationError> {
        Self::answer_viewer_with(settings, offer, stream, random, now, |settings| {
            Box::new(Dtls::new(settings))
        })
    }

    /// The same with another key agreement, for tests in virtual time.
    pub(crate) fn answer_viewer_with(
        settings: PeerSettings,
        offer: &Offer,
        stream: ViewerStream<'_>,
        random: &mut dyn rand::RngCore,
        now: Instant,
        session: impl FnOnce(DtlsSettings) -> Box<dyn Session>,
    ) -> Result<(Self, Answer), NegotiationError> {
        let negotiated = ViewerNegotiated::new(offer, stream.sendable)?;
        let credentials = Credentials::generate(random);
        let local = Local {
            session_name: &settings.session_name,
            // RFC 8866 section 5.2 wants it numeric; readers take 63 bits (RFC 9429 section 5.2.1).
            session_id: random.random::<u64>() >> 1,
            candidates: &settings.candidates,
            ice_ufrag: &credentials.ufrag,
            ice_pwd: &credentials.pwd,
            fingerprint: settings.certificate.fingerprint_sha256(),
            bitrate_start_kbps: 0,
        };
        // The lowest two bits tell our sources apart.
        let ssrc = random.random::<u32>() & !3;
        let sender = SenderLines {
            stream: stream.name,
            // A name for this session alone (RFC 7022 section 4.2).
            cname: &Credentials::generate(random).ufrag,
            video: Sources { ssrc: ssrc | 1, rtx: ssrc | 2 },
            audio: Sources { ssrc: ssrc | 3, rtx: 0 },
        };
        let answer = Answer {
            sdp: negotiated.answer(offer, &local, &sender)?,
            video_codec: negotiated.video.as_ref().and(stream.sendable.video).map(|video| video.name()),
            audio_codec: negotiated.audio_form.map(SendableAudio::name),
            cvo: negotiated.video.as_ref().is_some_and(|sent| sent.extension(VIDEO_ORIENTATION).is_some()),
        };
        let track = |sent: &Sent, sources: Sources| SendTrack {
            ssrc: sources.ssrc,
            payload_type: sent.codec.payload_type,
            clock_rate: NonZeroU32::new(sent.codec.clock_rate).unwrap_or(NonZeroU32::MIN),
            rtx: sent.rtx.map(|payload_type| (sources.rtx, payload_type)),
            extensions: SendExtensions {
                mid: sent
                    .extension(MID)
                    .and_then(|id| Some((id, offer.sections.get(sent.index)?.mid.clone()?))),
                abs_send_time: sent.extension(ABS_SEND_TIME),
                orientation: sent.extension(VIDEO_ORIENTATION),
                transport_wide: sent.extension(TRANSPORT_WIDE),
            },
        };
        let sender_settings = SenderSettings {
            cname: sender.cname.to_owned(),
            video: negotiated.video.as_ref().map(|sent| track(sent, sender.video)),
            audio: negotiated.audio.as_ref().map(|sent| track(sent, sender.audio)),
        };
        let media = Media::Sends(Box::new(Sender::new(sender_settings, random, now)));
        let peer = Self::new(settings, credentials, negotiated.fingerprints, media, now, session);
        Ok((peer, answer))
    }

    /// Sends a picture to a viewer; nothing happens before [`super::PeerEvent::Connected`].
    pub fn send_video(&mut self, now: Instant, unit: &AccessUnit) {
        self.send(now, |sender| sender.send_video(now, unit));
    }

    /// Sends pictures of the past to which later ones refer: the viewer decodes them at once.
    pub fn send_backlog<'a>(&mut self, now: Instant, units: impl IntoIterator<Item = &'a AccessUnit>) {
        self.send(now, |sender| units.into_iter().for_each(|unit| sender.send_backlog(now, unit)));
    }

    /// Sends a frame of sound to a viewer.
    pub fn send_audio(&mut self, now: Instant, frame: &AudioFrame) {
        self.send(now, |sender| sender.send_audio(now, frame));
    }

    /// Tells how the clocks of sound and pictures stand to each other: see [`Sender::set_sound_offset_ns`].
    pub fn set_sound_offset_ns(&mut self, offset: Option<i64>) {
        if let Media::Sends(sender) = &mut self.media {
            sender.set_sound_offset_ns(offset);
        }
    }

    fn send(&mut self, now: Instant, with: impl FnOnce(&mut Sender)) {
        if let (State::Connected { .. }, Media::Sends(sender)) = (&self.state, &mut self.media) {
            with(sender);
            self.drain(now);
        }
    }

    /// Moves what the sender has to say to the outputs, encrypted.
    pub(super) fn drain_sender(&mut self) {
        let Media::Sends(sender) = &mut self.media else { return };
        loop {
            let protected = match sender.poll_output() {
                SenderOutput::Rtp(packet) => {
                    let State::Connected { srtp, .. } = &mut self.state else { continue };
                    srtp.protect_rtp_parts(&packet.header, &packet.payload.parts())
                }
                SenderOutput::Rtcp(compound) => {
                    let State::Connected { srtp, .. } = &mut self.state else { continue };
                    srtp.protect_rtcp(&compound)
                }
                SenderOutput::KeyframeWanted => {
                    self.outputs.push_back(Output::KeyframeWanted);
                    continue;
                }
                SenderOutput::NotEnoughBandwidth { stream_bps, available_bps } => {
                    self.outputs.push_back(Output::NotEnoughBandwidth { stream_bps, available_bps });
                    continue;
                }
                SenderOutput::Timeout(at) => {
                    self.media_deadline = at;
                    return;
                }
            };
            if let (Some(to), Ok(bytes)) = (self.ice.target(), protected) {
                self.outputs.push_back(Output::Transmit { to, bytes });
            }
        }
    }
}
