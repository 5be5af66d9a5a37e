//! Bounded queues whose sender never waits, and which can wake a thread that sleeps on sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::wait::Waker;

/// The sending end of a queue with a size and a rule: what does not fit is handed back and counted.
#[derive(Debug)]
pub struct Offer<T> {
    /// Dropped before `end`: whoever is woken by the end finds the queue closed.
    sender: Sender<T>,
    end: WakeAtEnd,
    refused: Arc<AtomicU64>,
}

/// Wakes when it is dropped: the receiver learns of the end of the queue only when it looks.
#[derive(Clone, Debug)]
struct WakeAtEnd(Option<Waker>);

impl Drop for WakeAtEnd {
    fn drop(&mut self) {
        if let Some(waker) = &self.0 {
            waker.wake();
        }
    }
}

/// Why an item was not taken; the item is handed back.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused<T> {
    /// The queue holds as many as it may.
    Full(T),
    /// Nobody will ever take it out.
    Closed(T),
}

/// A queue of at most `capacity` items. `waker` is used after each accepted item.
#[must_use]
pub fn queue<T>(capacity: usize, waker: Option<Waker>) -> (Offer<T>, Receiver<T>) {
    let (sender, receiver) = bounded(capacity);
    (Offer { sender, end: WakeAtEnd(waker), refused: Arc::default() }, receiver)
}

impl<T> Offer<T> {
    /// Puts an item in if there is room, and wakes the receiver. Never waits.
    ///
    /// # Errors
    /// The item, when the queue is full or closed.
    pub fn offer(&self, item: T) -> Result<(), Refused<T>> {
        match self.sender.try_send(item) {
            Ok(()) => {
                if let Some(waker) = &self.end.0 {
                    waker.wake();
                }
                Ok(())
            }
            Err(TrySendError::Full(item)) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Err(Refused::Full(item))
            }
            Err(TrySendError::Disconnected(item)) => Err(Refused::Closed(item)),
        }
    }

    /// Items refused because the queue was full, over all clones.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether half of the room is taken: time to leave out what may be left out.
    #[must_use]
    pub fn is_half_full(&self) -> bool {
        self.sender.capacity().is_some_and(|capacity| self.sender.len() * 2 >= capacity)
    }

    /// Items waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sender.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sender.is_empty()
    }
}

impl<T> Clone for Offer<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), end: self.end.clone(), refused: self.refused.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::threads;
    use crate::base::wait::Waiter;

    #[test]
    fn a_full_queue_hands_back_and_counts_and_a_closed_one_says_so() {
        let (offer, receiver) = queue(1, None);
        offer.offer(1).unwrap();
        assert_eq!(offer.offer(2), Err(Refused::Full(2)));
        assert_eq!(offer.refused(), 1);
        drop(receiver);
        assert_eq!(offer.offer(3), Err(Refused::Closed(3)));
    }

    #[test]
    fn an_accepted_item_and_the_end_wake_the_waiter() {
        let mut waiter = Waiter::new().unwrap();
        let (offer, receiver) = queue(4, Some(waiter.waker()));
        offer.offer(1).unwrap();
        assert!(waiter.wait(&[], Some(Duration::from_secs(60))).unwrap().woken);
        assert_eq!(receiver.try_recv(), Ok(1));
        drop(offer);
        assert!(waiter.wait(&[], Some(Duration::from_secs(60))).unwrap().woken);
    }

    #[test]
    fn whoever_is_woken_by_the_end_finds_the_queue_closed() {
        for _ in 0..200 {
            let mut waiter = Waiter::new().unwrap();
            let (offer, receiver) = queue::<()>(1, Some(waiter.waker()));
            let sender =
                threads::spawn("test-end", threads::STACK_PROTOCOL_BYTES, move || drop(offer)).unwrap();
            assert!(waiter.wait(&[], Some(Duration::from_secs(60))).unwrap().woken);
            assert_eq!(receiver.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected));
            assert!(sender.join(Duration::from_secs(60)));
        }
    }
}
