//! Old automatic pictures: what is older or more than is kept goes, in all folders, those of streams that are over too.
//!
//! How many are kept in each folder is the writer's work, picture by picture ([`super::store`]); here is what concerns all of them.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::Naming;
use super::store::{folder_name, is_folder_name, is_leftover, is_picture};
use crate::base::clock::Clock;
use crate::base::stop::StopToken;
use crate::hub::Registry;
use crate::services::retention::{Below, Keep, free_bytes_of, prune_below};

/// From one removal to the next.
const INTERVAL: Duration = Duration::from_secs(60);
/// From one look at the free space to the next, where there is to be some.
const SPACE_INTERVAL: Duration = Duration::from_secs(5);

/// What the thread needs.
#[derive(Debug)]
pub(super) struct Pruner {
    pub(super) dir: PathBuf,
    pub(super) naming: Naming,
    pub(super) keep: Keep,
    pub(super) registry: Registry,
    pub(super) clock: Clock,
}

impl Pruner {
    /// The body of the thread `auto-old`.
    pub(super) fn run(&self, stop: &StopToken) {
        let (mut prune_at, mut helps) = (self.clock.now(), true);
        loop {
            let now = self.clock.now();
            let floor = self.keep.free_bytes;
            let is_short = || free_bytes_of(&self.dir).is_ok_and(|free| free < floor);
            // Where nothing of ours is left to go, looking for it more often does not help.
            if now >= prune_at || (floor > 0 && helps && is_short()) {
                prune_at = now + INTERVAL;
                helps = self.prune();
            }
            if stop.wait(if floor > 0 { SPACE_INTERVAL } else { INTERVAL }) {
                return;
            }
        }
    }

    /// Removes what is not kept; returns whether anything went.
    pub(super) fn prune(&self) -> bool {
        let streams = self.registry.list();
        let live: HashSet<String> = streams
            .iter()
            .map(|stream| self.naming.name_of(stream.publication()))
            .flat_map(|name| [folder_name(name, true), folder_name(name, false)])
            .collect();
        let below = Below {
            is_folder: &is_folder_name,
            is_busy: &|name| live.contains(name),
            is_file: &is_picture,
            is_leftover: &is_leftover,
        };
        match prune_below(&self.dir, &self.keep, self.clock.wall(), &below) {
            Ok((0, 0)) => return false,
            Ok((pictures, folders)) => {
                tracing::info!("{pictures} old automatic pictures and {folders} empty folders were removed");
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!("old automatic pictures cannot be removed: {error}"),
        }
        false
    }
}
