//! Mutexes with a rank: locks are taken in rising order only, which debug builds check.

use std::ops::{Deref, DerefMut};

/// Ranks in use. A thread that holds a lock may take only locks of a higher rank.
pub mod rank {
    /// What one door to the server owns, held while its streams are looked at.
    pub const DOOR: u8 = 0;
    /// Whoever begins a recording, while its file is made.
    pub const RECORDING_BEGINS: u8 = 0;
    /// The list of recordings.
    pub const RECORDINGS: u8 = 1;
    /// The map of published streams.
    pub const REGISTRY: u8 = 2;
    /// One stream.
    pub const STREAM: u8 = 3;
    /// The desk of snapshot requests.
    pub const DESK: u8 = 4;
    /// Small leaf locks that are held for a few instructions and take nothing else.
    pub const LEAF: u8 = 9;
}

/// A mutex of rank `RANK`. It is never poisoned.
#[derive(Debug, Default)]
pub struct Mutex<T, const RANK: u8>(parking_lot::Mutex<T>);

/// The lock, held.
#[derive(Debug)]
pub struct Guard<'a, T, const RANK: u8> {
    inner: parking_lot::MutexGuard<'a, T>,
    _held: Held<RANK>,
}

#[derive(Debug)]
struct Held<const RANK: u8>;

#[cfg(debug_assertions)]
thread_local! {
    static HELD: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl<const RANK: u8> Held<RANK> {
    fn take() -> Self {
        #[cfg(debug_assertions)]
        HELD.with_borrow_mut(|held| {
            if let Some(highest) = held.iter().max() {
                assert!(*highest < RANK, "lock of rank {RANK} taken while one of rank {highest} is held");
            }
            held.push(RANK);
        });
        Self
    }
}

impl<const RANK: u8> Drop for Held<RANK> {
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        HELD.with_borrow_mut(|held| {
            if let Some(position) = held.iter().rposition(|rank| *rank == RANK) {
                held.remove(position);
            }
        });
    }
}

impl<T, const RANK: u8> Mutex<T, RANK> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Self {
        Self(parking_lot::Mutex::new(value))
    }

    /// Waits for the lock. Debug builds panic when a lock of the same or a higher rank is already held.
    pub fn lock(&self) -> Guard<'_, T, RANK> {
        let held = Held::take();
        Guard { inner: self.0.lock(), _held: held }
    }
}

impl<T, const RANK: u8> Deref for Guard<'_, T, RANK> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T, const RANK: u8> DerefMut for Guard<'_, T, RANK> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rising_ranks_are_accepted_and_released() {
        let (low, high) = (Mutex::<_, 1>::new(1), Mutex::<_, 2>::new(2));
        {
            let one = low.lock();
            let two = high.lock();
            assert_eq!(*one + *two, 3);
        }
        let _two = high.lock();
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "rank 1 taken while one of rank 2 is held")]
    fn a_falling_rank_is_a_bug() {
        let (low, high) = (Mutex::<_, 1>::new(1), Mutex::<_, 2>::new(2));
        let _two = high.lock();
        let _one = low.lock();
    }
}
