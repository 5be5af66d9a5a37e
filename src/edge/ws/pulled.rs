//! Players of one connection whose stream is the address of a source or of a file: it is begun first, and let go when they leave.

use std::collections::HashMap;
use std::sync::Arc;

use crossbeam_channel::Receiver;

use crate::base::id::{MediaSessionId, StreamName, without_password};
use crate::base::queue::{Offer, queue};
use crate::base::wait::Waker;
use crate::edge::pull::{PullError, Pulls, Watching, is_uri};
use crate::hub::Stream;
use crate::proto::signal::StartPlay;
use crate::services::vod::{VodKind, VodWatching, Vods};

/// What came of a wish to watch a source: its stream, or what the client is told.
type Told = (MediaSessionId, u64, Result<Arc<Stream>, String>);

/// The players of sources that one connection has.
pub(super) struct Pulled {
    pulls: Option<Pulls>,
    vods: Option<Vods>,
    players: HashMap<MediaSessionId, Player>,
    offer: Offer<Told>,
    told: Receiver<Told>,
    /// Number of the next wish: an id may be used again after its player was stopped.
    next: u64,
}

/// One of them. Its source is held as long as it is here.
struct Player {
    wish: u64,
    _held: Held,
    /// What to play once the source is there; `None` once it is played.
    request: Option<Box<StartPlay>>,
    /// What the client calls its stream, and what the stream is called.
    names: (String, Option<StreamName>),
}

/// What is held for a player.
enum Held {
    Pull { _watching: Watching },
    File { _watching: VodWatching },
}

impl Pulled {
    /// `most` is how many players the connection may have.
    pub(super) fn new(pulls: Option<Pulls>, vods: Option<Vods>, most: usize, waker: Waker) -> Self {
        // A player that was stopped and one with its id may both be answered before we look.
        let (offer, told) = queue(most.saturating_mul(2).max(1), Some(waker));
        Self { pulls, vods, players: HashMap::new(), offer, told, next: 0 }
    }

    /// Begins to watch the source that the request names. The request is given back when it names none, or when its stream is
    /// there without a pull.
    ///
    /// # Errors
    /// When the source is not watched: whose, and what the client is told.
    pub(super) fn watch(
        &mut self,
        request: Box<StartPlay>,
    ) -> Result<Option<Box<StartPlay>>, (MediaSessionId, String)> {
        let id = request.media_session_id.clone();
        let held = if let Some(vods) = self.vods.as_ref().filter(|_| VodKind::of(&request.name).is_some()) {
            let ready = self.ready(&id);
            match vods.watch(&request.name, move |result| ready(result.map_err(|error| error.to_string()))) {
                Ok(watching) => Held::File { _watching: watching },
                Err(error) => return Err((id, error.to_string())),
            }
        } else if let Some(pulls) = self.pulls.as_ref().filter(|_| is_uri(&request.name)) {
            let ready = self.ready(&id);
            match pulls.watch(&request.name, move |result| ready(result.map_err(|error| error.to_string()))) {
                Ok(watching) => Held::Pull { _watching: watching },
                // Somebody publishes under this very name.
                Err(PullError::NameInUse) => {
                    let name = without_password(&request.name).into_owned();
                    return Ok(Some(Box::new(StartPlay { name, ..*request })));
                }
                Err(error) => return Err((id, error.to_string())),
            }
        } else {
            return Ok(Some(request));
        };
        let names = (request.name.clone(), None);
        let player = Player { wish: self.next, _held: held, request: Some(request), names };
        self.next += 1;
        self.players.insert(id, player);
        Ok(None)
    }

    /// Tells this connection what came of the next wish.
    fn ready(&self, id: &MediaSessionId) -> impl FnOnce(Result<Arc<Stream>, String>) + Send + use<> {
        let (wish, offer, id) = (self.next, self.offer.clone(), id.clone());
        move |result| {
            // Closed: the connection is gone. Full: one that is so far behind is closed for its other events.
            let _ = offer.offer((id, wish, result));
        }
    }

    /// The next player whose source is there, with the name of its stream; or which has none, with what the client is told.
    pub(super) fn next(&mut self) -> Option<Result<Box<StartPlay>, (MediaSessionId, String)>> {
        loop {
            let (id, wish, result) = self.told.try_recv().ok()?;
            let player = self.players.get_mut(&id).filter(|player| player.wish == wish);
            let Some(player) = player else { continue };
            let Some(mut request) = player.request.take() else { continue };
            return Some(match result {
                Ok(stream) => {
                    let name = &stream.publication().name;
                    player.names.1 = Some(name.clone());
                    request.name = name.to_string();
                    Ok(request)
                }
                Err(info) => {
                    self.players.remove(&id);
                    Err((id, info))
                }
            });
        }
    }

    /// The name of the stream that a player of this connection has of its own, where nobody else knows it: a file of
    /// `vod://`. `name` is what the client calls it; where another media session than the player's asks, and only one player
    /// is meant by the name, it is that one.
    pub(super) fn own_stream(&self, id: &MediaSessionId, name: &str) -> Option<&str> {
        if !VodKind::of(name).is_some_and(|(kind, _)| kind == VodKind::Personal) {
            return None;
        }
        let of_name = |player: &&Player| player.names.0 == name;
        let mut others = self.players.values().filter(of_name);
        let player = self.players.get(id).filter(of_name).or_else(|| {
            let only = others.next()?;
            others.next().is_none().then_some(only)
        });
        Some(player?.names.1.as_ref()?.as_str())
    }

    /// Lets go of a player's source; returns whether the player was still waiting for it.
    pub(super) fn leave(&mut self, id: &MediaSessionId) -> bool {
        self.players.remove(id).is_some_and(|player| player.request.is_some())
    }
}
