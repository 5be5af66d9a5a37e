//! From which of our addresses each sender expects answers.

use std::net::{IpAddr, SocketAddr};

/// Senders of which the address that they use for us is known. A browser has one for each of its interfaces.
const WAYS_MAX: usize = 16;

/// To which of our addresses each sender sends, the latest last: that is where it expects answers from. Strangers can push
/// others out; the next datagram of the one pushed out brings it back.
#[derive(Debug, Default)]
pub(super) struct Ways(Vec<(SocketAddr, IpAddr)>);

impl Ways {
    pub(super) fn note(&mut self, sender: SocketAddr, ours: Option<IpAddr>) {
        let Some(ours) = ours else { return };
        if self.0.last() == Some(&(sender, ours)) {
            return;
        }
        self.0.retain(|(known, _)| *known != sender);
        if self.0.len() >= WAYS_MAX {
            self.0.remove(0);
        }
        self.0.push((sender, ours));
    }

    pub(super) fn to(&self, sender: SocketAddr) -> Option<IpAddr> {
        self.0.iter().rev().find(|(known, _)| *known == sender).map(|(_, ours)| *ours)
    }
}
