//! Who makes room when there is no place for another connection.
//!
//! ```text
//!             bytes             head complete            answer handed over
//!   Silent ──────────► Head ──────────────────► Busy ──────────────────────► Silent
//!      └───────────────────────────────────────► (a head that came with the one before)
//! ```
//! An HTTP/2 connection has several requests at a time: it is busy while it has any, and silent
//! otherwise, whatever frames come that are no request.
//!
//! Room is made in this order, in each case by the connection that has been so for the longest
//! time: silent ones between requests; those that never said anything and those with half a
//! head, once they have had a little time; at last a busy one, which ends with its answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::limits::{HEAD_GRACE, HEAD_TIMEOUT, MAKE_ROOM_PAUSE};

/// All connections that have a place.
#[derive(Debug, Default)]
pub(crate) struct Places {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    /// Bounded by the number of places.
    taken: BTreeMap<u64, Arc<Occupant>>,
    looked: Option<Instant>,
}

/// One connection, as others need to know it.
#[derive(Debug)]
pub(crate) struct Occupant {
    state: Mutex<State>,
    told: Notify,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    since: Instant,
    /// Heads that were complete and whose answers were not handed over yet.
    requests: usize,
    /// Frames come between requests as well, and do not begin one.
    http2: bool,
    /// Whether any head was ever complete.
    served: bool,
    /// Whether a part of an operation's answer may still wait to be written.
    unwritten: bool,
    told: bool,
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Silent,
    Head,
    Busy,
}

/// How a connection makes room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It finishes what it is answering; between requests it ends at once.
    Gracefully,
    /// It has nothing to finish.
    Now,
}

/// A place, given back when this is dropped.
pub(crate) struct Place<'a> {
    places: &'a Places,
    number: u64,
    pub(crate) occupant: Arc<Occupant>,
}

impl Places {
    /// A new connection.
    pub(crate) fn take(&self) -> Place<'_> {
        let occupant = Arc::new(Occupant::new());
        let mut inner = lock(&self.inner);
        let number = inner.next;
        inner.next += 1;
        inner.taken.insert(number, occupant.clone());
        Place {
            places: self,
            number,
            occupant,
        }
    }

    /// Tells as many connections to end as others wait, less those that are ending.
    pub(crate) fn make_room(&self, waiting: usize) {
        let now = Instant::now();
        let mut inner = lock(&self.inner);
        // Looking takes time for each connection, and all that wait would look.
        if inner
            .looked
            .is_some_and(|looked| now - looked < MAKE_ROOM_PAUSE / 2)
        {
            return;
        }
        inner.looked = Some(now);
        let mut ending = 0;
        let mut candidates = Vec::new();
        for occupant in inner.taken.values() {
            match occupant.rank(now) {
                Rank::Ending => ending += 1,
                Rank::Spared => {}
                Rank::Candidate(order, age) => {
                    candidates.push((order, std::cmp::Reverse(age), occupant));
                }
            }
        }
        let wanted = waiting.saturating_sub(ending);
        candidates.sort_by_key(|(order, age, _)| (*order, *age));
        for (_, _, occupant) in candidates.into_iter().take(wanted) {
            occupant.tell();
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.places.inner).taken.remove(&self.number);
    }
}

/// What a look at a connection says.
enum Rank {
    /// Its place will be free soon.
    Ending,
    /// It is not to be told, or was told already.
    Spared,
    /// It may be told: those of the least number first, then those of the greatest age.
    Candidate(u8, Duration),
}

impl Occupant {
    pub(crate) fn new() -> Occupant {
        Occupant {
            state: Mutex::new(State {
                phase: Phase::Silent,
                since: Instant::now(),
                requests: 0,
                http2: false,
                served: false,
                unwritten: false,
                told: false,
            }),
            told: Notify::new(),
        }
    }

    /// Bytes came from the client.
    pub(crate) fn received(&self) {
        let mut state = lock(&self.state);
        if state.phase == Phase::Silent && !state.http2 {
            state.enter(Phase::Head);
        }
    }

    /// A head is complete.
    pub(crate) fn begun(&self) {
        let mut state = lock(&self.state);
        state.served = true;
        state.unwritten = true;
        state.requests += 1;
        state.enter(Phase::Busy);
    }

    /// Its answer was handed over, or nobody wants it any more.
    pub(crate) fn answered(&self) {
        let mut state = lock(&self.state);
        state.requests = state.requests.saturating_sub(1);
        if state.requests == 0 {
            state.enter(Phase::Silent);
        }
    }

    /// A TLS handshake is complete: its bytes were no request's.
    pub(crate) fn shook_hands(&self) {
        lock(&self.state).enter(Phase::Silent);
    }

    /// The client speaks HTTP/2.
    pub(crate) fn set_http2(&self) {
        let mut state = lock(&self.state);
        state.http2 = true;
        state.enter(Phase::Silent);
    }

    /// Whether the client speaks HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        lock(&self.state).http2
    }

    /// Waits until this connection had no request for this long.
    pub(crate) async fn silent_for(&self, duration: Duration) {
        loop {
            let deadline = {
                let state = lock(&self.state);
                match state.phase {
                    Phase::Silent if state.since.elapsed() >= duration => return,
                    Phase::Silent => state.since + duration,
                    Phase::Head | Phase::Busy => Instant::now() + duration,
                }
            };
            tokio::time::sleep_until(deadline).await;
        }
    }

    /// Nothing waits to be written.
    pub(crate) fn flushed(&self) {
        let mut state = lock(&self.state);
        if state.phase != Phase::Busy {
            state.unwritten = false;
        }
    }

    /// Whether what is sent may be a part of an operation's answer.
    pub(crate) fn is_answering(&self) -> bool {
        lock(&self.state).unwritten
    }

    /// When the head that is coming must be complete.
    pub(crate) fn head_deadline(&self) -> Option<Instant> {
        let state = lock(&self.state);
        (state.phase == Phase::Head).then(|| state.since + HEAD_TIMEOUT)
    }

    /// Waits until this connection is told to end. To be awaited by the task that serves it, so
    /// that what is returned still holds then: a head may have become whole since it was told.
    pub(crate) async fn told(&self) -> End {
        loop {
            if let Some(end) = lock(&self.state).end() {
                return end;
            }
            // Should it be told before this is polled, the permit stays.
            self.told.notified().await;
        }
    }

    fn rank(&self, now: Instant) -> Rank {
        let state = lock(&self.state);
        let age = now - state.since;
        match (state.phase, state.served, state.told) {
            (Phase::Busy, _, true) => Rank::Spared,
            (Phase::Silent | Phase::Head, _, true) => Rank::Ending,
            (Phase::Silent, true, false) => Rank::Candidate(0, age),
            (Phase::Silent | Phase::Head, _, false) if age >= HEAD_GRACE => Rank::Candidate(1, age),
            (Phase::Silent | Phase::Head, _, false) => Rank::Spared,
            (Phase::Busy, _, false) => Rank::Candidate(2, age),
        }
    }

    fn tell(&self) {
        lock(&self.state).told = true;
        self.told.notify_one();
    }
}

impl State {
    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.since = Instant::now();
    }

    fn end(&self) -> Option<End> {
        self.told.then_some(match (self.phase, self.served) {
            (Phase::Busy, _) | (Phase::Silent, true) => End::Gracefully,
            (Phase::Head, _) | (Phase::Silent, false) => End::Now,
        })
    }
}

/// Nothing is left half changed when a thread panics between.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn told(place: &Place<'_>) -> Option<End> {
        lock(&place.occupant.state).end()
    }

    #[tokio::test(start_paused = true)]
    async fn the_silent_make_room_before_the_unfinished_and_those_before_the_busy() {
        let places = Places::default();
        let busy = places.take();
        busy.occupant.received();
        busy.occupant.begun();
        let half = places.take();
        half.occupant.received();
        let silent = places.take();
        silent.occupant.begun();
        silent.occupant.answered();
        places.make_room(1);
        assert_eq!(told(&silent), Some(End::Gracefully));
        assert_eq!((told(&half), told(&busy)), (None, None));
        // That one is still ending.
        advance(HEAD_GRACE).await;
        places.make_room(1);
        assert_eq!(told(&half), None);
        drop(silent);
        advance(MAKE_ROOM_PAUSE).await;
        places.make_room(1);
        assert_eq!((told(&half), told(&busy)), (Some(End::Now), None));
        drop(half);
        advance(MAKE_ROOM_PAUSE).await;
        places.make_room(1);
        assert_eq!(told(&busy), Some(End::Gracefully));
        assert_eq!(busy.occupant.told().await, End::Gracefully);
    }

    #[tokio::test(start_paused = true)]
    async fn with_http2_it_is_busy_until_the_last_answer() {
        let places = Places::default();
        let place = places.take();
        let occupant = &place.occupant;
        occupant.received();
        occupant.set_http2();
        occupant.begun();
        occupant.begun();
        occupant.answered();
        let busy = tokio::time::timeout(5 * HEAD_GRACE, occupant.silent_for(HEAD_GRACE));
        assert!(busy.await.is_err());
        occupant.answered();
        occupant.received();
        assert_eq!(occupant.head_deadline(), None);
        let answered = Instant::now();
        occupant.silent_for(HEAD_GRACE).await;
        assert_eq!(answered.elapsed(), HEAD_GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_became_whole_meanwhile_is_answered() {
        let places = Places::default();
        let half = places.take();
        half.occupant.received();
        advance(HEAD_GRACE).await;
        places.make_room(1);
        assert_eq!(told(&half), Some(End::Now));
        half.occupant.begun();
        assert_eq!(half.occupant.told().await, End::Gracefully);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_just_come_is_spared() {
        let places = Places::default();
        let old = places.take();
        advance(HEAD_GRACE).await;
        let new = places.take();
        new.occupant.received();
        places.make_room(5);
        assert_eq!((told(&old), told(&new)), (Some(End::Now), None));
    }
}
