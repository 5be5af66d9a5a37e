//! Packets that are to be sent again, and how many of them.

use std::collections::VecDeque;

use crate::proto::rtp::payload::Packet;

/// Repetitions that wait at most; what does not fit is asked for again.
const PACKETS_MAX: usize = 512;
/// Bytes that may be repeated at once. Each byte that is sent adds half a byte: a network that loses more than a third is too
/// narrow, and repetitions without a bound would make it narrower still.
const BYTES_MAX: usize = 128 * 1024;

/// Repetitions of one viewer.
#[derive(Debug)]
pub(super) struct Repeats {
    waiting: VecDeque<Packet>,
    budget_bytes: usize,
}

impl Default for Repeats {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), budget_bytes: BYTES_MAX }
    }
}

impl Repeats {
    /// So many bytes were sent for the first time.
    pub(super) fn earn(&mut self, bytes: usize) {
        self.budget_bytes = (self.budget_bytes + bytes / 2).min(BYTES_MAX);
    }

    /// Whether another one may wait.
    pub(super) fn has_room(&self) -> bool {
        self.budget_bytes > 0 && self.waiting.len() < PACKETS_MAX
    }

    pub(super) fn push(&mut self, packet: Packet) {
        self.budget_bytes = self.budget_bytes.saturating_sub(packet.len());
        self.waiting.push_back(packet);
    }

    pub(super) fn pop(&mut self) -> Option<Packet> {
        self.waiting.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
