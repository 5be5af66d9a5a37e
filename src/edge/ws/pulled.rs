//! Players of one connection whose stream is the address of a source: it is pulled first, and let go when they leave.

use std::collections::HashMap;
use std::sync::Arc;

use crossbeam_channel::Receiver;

use crate::base::id::{MediaSessionId, without_password};
use crate::base::queue::{Offer, queue};
use crate::base::wait::Waker;
use crate::edge::pull::{PullError, Pulls, Watching, is_uri};
use crate::hub::Stream;
use crate::proto::signal::StartPlay;

/// What came of a wish to watch a source.
type Told = (MediaSessionId, u64, Result<Arc<Stream>, PullError>);

/// The players of sources that one connection has.
pub(super) struct Pulled {
    pulls: Option<Pulls>,
    players: HashMap<MediaSessionId, Player>,
    offer: Offer<Told>,
    told: Receiver<Told>,
    /// Number of the next wish: an id may be used again after its player was stopped.
    next: u64,
}

/// One of them. The pull is held as long as it is here.
struct Player {
    wish: u64,
    _watching: Watching,
    /// What to play once the source is there; `None` once it is played.
    request: Option<Box<StartPlay>>,
}

impl Pulled {
    /// `most` is how many players the connection may have.
    pub(super) fn new(pulls: Option<Pulls>, most: usize, waker: Waker) -> Self {
        // A player that was stopped and one with its id may both be answered before we look.
        let (offer, told) = queue(most.saturating_mul(2).max(1), Some(waker));
        Self { pulls, players: HashMap::new(), offer, told, next: 0 }
    }

    /// Begins to watch the source that the request names. The request is given back when it names none, or when its stream is
    /// there without a pull.
    ///
    /// # Errors
    /// When the source is not pulled.
    pub(super) fn watch(
        &mut self,
        request: Box<StartPlay>,
    ) -> Result<Option<Box<StartPlay>>, (Box<StartPlay>, PullError)> {
        let Some(pulls) = self.pulls.as_ref().filter(|_| is_uri(&request.name)) else {
            return Ok(Some(request));
        };
        let (wish, offer, id) = (self.next, self.offer.clone(), request.media_session_id.clone());
        self.next += 1;
        let told = id.clone();
        let ready = move |result| {
            // Closed: the connection is gone. Full: one that is so far behind is closed for its other events.
            let _ = offer.offer((told, wish, result));
        };
        match pulls.watch(&request.name, ready) {
            Ok(watching) => {
                self.players.insert(id, Player { wish, _watching: watching, request: Some(request) });
                Ok(None)
            }
            // Somebody publishes under this very name.
            Err(PullError::NameInUse) => {
                let name = without_password(&request.name).into_owned();
                Ok(Some(Box::new(StartPlay { name, ..*request })))
            }
            Err(error) => Err((request, error)),
        }
    }

    /// The next player whose source is there, with the name of its stream; or which has none, with the reason.
    pub(super) fn next(&mut self) -> Option<Result<Box<StartPlay>, (MediaSessionId, PullError)>> {
        loop {
            let (id, wish, result) = self.told.try_recv().ok()?;
            let player = self.players.get_mut(&id).filter(|player| player.wish == wish);
            let Some(mut request) = player.and_then(|player| player.request.take()) else { continue };
            return Some(match result {
                Ok(stream) => {
                    request.name = stream.publication().name.to_string();
                    Ok(request)
                }
                Err(error) => {
                    self.players.remove(&id);
                    Err((id, error))
                }
            });
        }
    }

    /// Lets go of a player's source; returns whether the player was still waiting for it.
    pub(super) fn leave(&mut self, id: &MediaSessionId) -> bool {
        self.players.remove(id).is_some_and(|player| player.request.is_some())
    }
}
