//! Pictures that a client asked for: what it is told, and in which order.

use super::{NO_SNAPSHOT, PendingSnapshot, Session};
use crate::base::id::{MediaSessionId, without_password};
use crate::proto::signal::action::Action;
use crate::proto::signal::message::{
    NamedRequest, SharedText, Status, StreamEvent, StreamEventKind, StreamStatusEvent, ToClient,
};

impl Session {
    pub(super) fn snapshot(&mut self, request: NamedRequest) {
        let NamedRequest { name, media_session_id } = request;
        let of_stream = self.is_stream(&media_session_id);
        let pending = PendingSnapshot { media_session_id, name, of_stream };
        if pending.media_session_id.is_empty() {
            return self.answer_snapshot(pending, Err("MediaSessionId is null".into()));
        }
        let Ok(media_session_id) = MediaSessionId::new(&pending.media_session_id) else {
            self.act(Action::CountBadInput("media_session_id"));
            return self.answer_snapshot(pending, Err(NO_SNAPSHOT.into()));
        };
        if self.snapshots.len() >= self.settings.snapshots_max {
            self.act(Action::CountBadInput("snapshots_per_connection"));
            self.answer_snapshot(pending, Err(NO_SNAPSHOT.into()));
        } else {
            let ticket = self.next_ticket;
            self.next_ticket += 1;
            self.act(Action::TakeSnapshot { ticket, name: pending.name.clone(), media_session_id });
            self.snapshots.insert(ticket, pending);
        }
    }

    /// Both generations of clients understand one of the two frames (section 4.2).
    pub(super) fn answer_snapshot(&mut self, pending: PendingSnapshot, result: Result<SharedText, String>) {
        let PendingSnapshot { media_session_id, name, of_stream } = pending;
        let name = without_password(&name);
        let is_stream = self.is_stream(&media_session_id);
        if of_stream && !is_stream {
            // Its terminal status is out, which is the last frame of its id.
            return;
        }
        let event_id = (!media_session_id.is_empty()).then(|| media_session_id.clone());
        let event =
            |kind| ToClient::NotifyStreamEvent([StreamEvent { media_session_id: event_id.clone(), kind }]);
        let [audio_state, video_state] = self.muted_states(&media_session_id);
        let status = |status, info| {
            let info = Some(info);
            ToClient::NotifyStreamStatusEvent([StreamStatusEvent {
                info,
                audio_state,
                video_state,
                ..StreamStatusEvent::new(&media_session_id, &name, status)
            }])
        };
        match result {
            Ok(snapshot) => {
                self.send(status(Status::SnapshotComplete, snapshot.clone()));
                self.send(event(StreamEventKind::SnapshotCompleted { snapshot }));
            }
            Err(info) => {
                // First the event: on FAILED the client forgets who listens to it.
                self.send(event(StreamEventKind::SnapshotFailed { info: info.clone() }));
                if !is_stream {
                    self.send(status(Status::Failed, info.as_str().into()));
                }
            }
        }
    }
}
