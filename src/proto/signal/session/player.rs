//! What players are told while they play (protocol document, sections 3.5 and 3.6), in the words of old and new clients.

use super::{ClientStream, Session, Side, Step};
use crate::base::id::MediaSessionId;
use crate::proto::signal::message::{
    Bandwidths, MutedState, Status, StreamEvent, StreamEventKind, StreamStatusEvent, ToClient, VideoRate,
    VideoSize,
};

impl Session {
    /// The client's stream, when its positive status is out and its end is not asked for.
    fn up(&mut self, media_session_id: &MediaSessionId, side: Side) -> Option<&mut ClientStream> {
        let stream = self.streams.get_mut(media_session_id)?;
        (stream.side == side && stream.step == Step::Up).then_some(stream)
    }

    /// Microphone and camera of the publisher that this stream plays, for a status; nothing for other ids.
    pub(super) fn muted_states(&self, media_session_id: &str) -> [Option<MutedState>; 2] {
        let stream = MediaSessionId::new(media_session_id).ok().and_then(|id| self.streams.get(&id));
        stream.filter(|stream| stream.side == Side::Player).map_or([None; 2], |stream| stream.muted.map(Some))
    }

    pub(super) fn muted(
        &mut self,
        media_session_id: &MediaSessionId,
        audio: Option<bool>,
        video: Option<bool>,
    ) {
        let Some(stream) = self.streams.get_mut(media_session_id) else { return };
        let mut changed = Vec::new();
        for ((state, now), kinds) in stream.muted.iter_mut().zip([audio, video]).zip([AUDIO, VIDEO]) {
            if let Some(muted) = now.filter(|muted| *muted != state.muted) {
                state.muted = muted;
                changed.push(kinds(muted));
            }
        }
        for kind in changed {
            self.tell_player(media_session_id, kind, |_| None);
        }
    }

    /// Sends an event to a player, and before it the status by which older clients are told, if there is one.
    pub(super) fn tell_player(
        &mut self,
        media_session_id: &MediaSessionId,
        kind: StreamEventKind,
        older: impl FnOnce(StreamStatusEvent) -> Option<StreamStatusEvent>,
    ) {
        let Some(stream) = self.up(media_session_id, Side::Player) else { return };
        let [audio_state, video_state] = stream.muted.map(Some);
        let status = StreamStatusEvent {
            published: Some(false),
            media_provider: Some("WebRTC"),
            audio_state,
            video_state,
            ..StreamStatusEvent::new(media_session_id.as_str(), &stream.name, Status::Playing)
        };
        if let Some(status) = older(status) {
            self.send(ToClient::NotifyStreamStatusEvent([status]));
        }
        let media_session_id = Some(media_session_id.as_str().to_owned());
        self.send(ToClient::NotifyStreamEvent([StreamEvent { media_session_id, kind }]));
    }

    pub(super) fn resized(&mut self, media_session_id: &MediaSessionId, size: (u32, u32)) {
        let (streamer_video_width, streamer_video_height) = size;
        let kind = StreamEventKind::Resize { streamer_video_width, streamer_video_height };
        self.tell_player(media_session_id, kind, |status| {
            let size = Some(VideoSize::new(size.0, size.1));
            Some(StreamStatusEvent { status: Status::Resize, size, ..status })
        });
    }

    pub(super) fn not_enough_bandwidth(&mut self, media_session_id: &MediaSessionId, rates: Bandwidths) {
        self.tell_player(media_session_id, StreamEventKind::NotEnoughBandwidth { info: rates }, |status| {
            let info = Some(rates.to_string().as_str().into());
            Some(StreamStatusEvent { status: Status::NotEnoughBandwidth, info, ..status })
        });
    }

    pub(super) fn video_rate(&mut self, id: &MediaSessionId, video_rate: u64) {
        let rate = [VideoRate { media_session_id: id.as_str().to_owned(), video_rate }];
        if self.up(id, Side::Player).is_some() {
            self.send(ToClient::OutboundVideoRate(rate));
        } else if self.up(id, Side::Publisher).is_some() {
            self.send(ToClient::InboundVideoRate(rate));
        }
    }
}

const AUDIO: fn(bool) -> StreamEventKind =
    |muted| if muted { StreamEventKind::AudioMuted {} } else { StreamEventKind::AudioUnmuted {} };
const VIDEO: fn(bool) -> StreamEventKind =
    |muted| if muted { StreamEventKind::VideoMuted {} } else { StreamEventKind::VideoUnmuted {} };
