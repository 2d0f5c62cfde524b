//! What was asked, what was acknowledged, and hence what a reader may see.
//!
//! Every operation on a key is an interval: from the moment before its request was sent to
//! the moment after its acknowledgement came, or open-ended when none came. An operation is
//! *superseded* for a reader when another one was acknowledged before the reader began, and
//! had itself begun after the first one's acknowledgement. A reader must see an operation
//! that began before the reader ended and is not superseded. This holds across crashes too:
//! an acknowledged write can only disappear behind one that came after it, and an open-ended
//! one may have happened or not.
//!
//! A write on condition that nothing is there (a *winner*, once it is acknowledged) says more:
//! the key was absent when it took effect. Between the effects of two winners something made the
//! key absent. So of winners that all lie within one window of time there is at most one more
//! than there are operations, acknowledged or not, that may have made the key absent in it.
//!
//! After a crash, with nothing in flight, what a reader sees is what happened: [`settle`]
//! drops all other possibilities, so that nothing can change its mind later.
//!
//! [`settle`]: History::settle

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// What an operation leaves behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    Absent,
    Present(Content),
}

/// A body's identity: the SHA-256 stands for all its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    pub size: u64,
    pub sha256: [u8; 32],
    /// The MD5 in hexadecimal digits.
    pub etag: String,
}

/// One operation on one key.
#[derive(Debug, Clone)]
pub struct Operation {
    /// Stored with the object as `x-amz-meta-op`; 0 is the key's state before any operation.
    pub id: u64,
    pub effect: Effect,
    /// It happens only if the key is absent.
    if_absent: bool,
    start: u64,
    /// `None` while nothing was acknowledged.
    end: Option<u64>,
    /// Readers that begin after this moment come after one that saw something newer.
    hidden_after: Option<u64>,
}

/// All operations since the last settlement, by key.
#[derive(Debug)]
pub struct History {
    clock: AtomicU64,
    last_id: AtomicU64,
    keys: Vec<Mutex<Vec<Operation>>>,
}

impl History {
    /// `count` keys, none of them present.
    pub fn new(count: usize) -> History {
        let absent = Operation {
            id: 0,
            effect: Effect::Absent,
            if_absent: false,
            start: 0,
            end: Some(0),
            hidden_after: None,
        };
        History {
            clock: AtomicU64::new(1),
            last_id: AtomicU64::new(0),
            keys: (0..count)
                .map(|_| Mutex::new(vec![absent.clone()]))
                .collect(),
        }
    }

    /// A moment: later ones are larger.
    pub fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// A number for an operation that is about to begin.
    pub fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Before the request is sent.
    pub fn begin(&self, key: usize, id: u64, effect: Effect) {
        self.push(key, id, effect, false);
    }

    /// The same, of a write on condition that nothing is there.
    pub fn begin_if_absent(&self, key: usize, id: u64, effect: Effect) {
        self.push(key, id, effect, true);
    }

    fn push(&self, key: usize, id: u64, effect: Effect, if_absent: bool) {
        // Under the lock, so that whoever looks at the key sees all that began earlier.
        let mut operations = self.operations(key);
        let start = self.now();
        operations.push(Operation {
            id,
            effect,
            if_absent,
            start,
            end: None,
            hidden_after: None,
        });
    }

    /// After the acknowledgement came.
    pub fn acknowledged(&self, key: usize, id: u64) {
        let mut operations = self.operations(key);
        let end = self.now();
        let operation = operations.iter_mut().find(|operation| operation.id == id);
        operation.expect("it began").end = Some(end);
    }

    /// After an answer that says that it did not happen.
    pub fn refused(&self, key: usize, id: u64) {
        self.operations(key).retain(|operation| operation.id != id);
    }

    /// The operations of which a reader between `from` and `to` may see the effect.
    pub fn visible(&self, key: usize, from: u64, to: u64) -> Vec<Operation> {
        let operations = self.operations(key);
        let superseded = |earlier: &Operation| {
            operations.iter().any(|later| {
                matches!((earlier.end, later.end), (Some(end), Some(done)) if end < later.start && done < from)
            })
        };
        operations
            .iter()
            .filter(|operation| {
                let hidden = operation.hidden_after.is_some_and(|moment| moment < from);
                operation.start < to && !hidden && !superseded(operation)
            })
            .cloned()
            .collect()
    }

    /// A reader between `from` and `to` saw the effect of one of the operations that `may_be`
    /// names. What had ended before it began and is none of them is older than what it saw,
    /// so no later reader may see it.
    pub fn saw(&self, key: usize, from: u64, to: u64, may_be: impl Fn(&Operation) -> bool) {
        for operation in self.operations(key).iter_mut() {
            if operation.end.is_some_and(|end| end < from) && !may_be(operation) {
                let moment = operation.hidden_after.map_or(to, |moment| moment.min(to));
                operation.hidden_after = Some(moment);
            }
        }
    }

    /// Winners that cannot all have found the key absent: more of them within a window of time
    /// than deletes in it explain.
    pub fn impossible_winners(&self, key: usize) -> Option<Vec<Operation>> {
        let operations = self.operations(key);
        let winners = operations.iter().filter(|operation| operation.if_absent);
        let winners: Vec<(&Operation, u64)> = winners
            .filter_map(|operation| Some((operation, operation.end?)))
            .collect();
        let starts = winners.iter().map(|(winner, _)| winner.start);
        let windows = starts.flat_map(|from| winners.iter().map(move |(_, to)| (from, *to)));
        for (from, to) in windows {
            let within = winners
                .iter()
                .filter(|(winner, end)| from <= winner.start && *end <= to);
            let deletes = operations.iter().filter(|operation| {
                let ended_before = operation.end.is_some_and(|end| end < from);
                operation.effect == Effect::Absent && operation.start < to && !ended_before
            });
            if within.clone().count() > 1 + deletes.count() {
                return Some(within.map(|(winner, _)| (*winner).clone()).collect());
            }
        }
        None
    }

    /// Nothing is in flight and a reader saw the effect of `id`: the others did not happen
    /// or were overwritten.
    pub fn settle(&self, key: usize, id: u64) {
        let mut operations = self.operations(key);
        operations.retain(|operation| operation.id == id);
        let now = self.now();
        let seen = operations.first_mut().expect("what was seen was possible");
        seen.end = Some(now);
    }

    fn operations(&self, key: usize) -> std::sync::MutexGuard<'_, Vec<Operation>> {
        self.keys[key]
            .lock()
            .expect("no client panics while it holds a key")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(size: u64) -> Effect {
        Effect::Present(Content {
            size,
            sha256: [0; 32],
            etag: String::new(),
        })
    }

    fn ids(history: &History, from: u64, to: u64) -> Vec<u64> {
        history
            .visible(0, from, to)
            .iter()
            .map(|operation| operation.id)
            .collect()
    }

    fn ids_now(history: &History) -> Vec<u64> {
        let now = history.now();
        ids(history, now, now)
    }

    #[test]
    fn an_acknowledged_write_is_all_there_is() {
        let history = History::new(1);
        assert_eq!(ids_now(&history), [0]);
        history.begin(0, 1, content(5));
        assert_eq!(ids_now(&history), [0, 1], "in flight: both");
        history.acknowledged(0, 1);
        assert_eq!(ids_now(&history), [1]);
        history.begin(0, 2, Effect::Absent);
        history.refused(0, 2);
        assert_eq!(ids_now(&history), [1], "a refused delete did nothing");
    }

    #[test]
    fn a_reader_that_began_earlier_may_see_the_older_one() {
        let history = History::new(1);
        history.begin(0, 1, content(5));
        history.acknowledged(0, 1);
        let from = history.now();
        history.begin(0, 2, content(6));
        history.acknowledged(0, 2);
        let to = history.now();
        assert_eq!(ids(&history, from, to), [1, 2]);
        assert_eq!(ids(&history, to, to), [2]);
    }

    #[test]
    fn writers_at_once_may_end_in_either_order() {
        let history = History::new(1);
        history.begin(0, 1, content(5));
        history.begin(0, 2, content(6));
        history.acknowledged(0, 2);
        history.acknowledged(0, 1);
        assert_eq!(ids_now(&history), [1, 2]);
        history.settle(0, 2);
        assert_eq!(ids_now(&history), [2]);
    }

    #[test]
    fn what_a_reader_saw_hides_what_had_ended_before_it() {
        let history = History::new(1);
        history.begin(0, 1, content(5));
        history.begin(0, 2, content(6));
        history.acknowledged(0, 2);
        history.acknowledged(0, 1);
        let from = history.now();
        history.begin(0, 3, content(7));
        history.acknowledged(0, 3);
        let to = history.now();
        history.saw(0, from, to, |operation| operation.id == 2);
        assert_eq!(
            ids(&history, from, history.now()),
            [1, 2, 3],
            "began earlier"
        );
        let history = History::new(1);
        history.begin(0, 1, content(5));
        history.begin(0, 2, content(6));
        history.begin(0, 3, content(7));
        history.acknowledged(0, 2);
        history.acknowledged(0, 1);
        let from = history.now();
        let to = history.now();
        history.saw(0, from, to, |operation| operation.id == 2);
        assert_eq!(
            ids_now(&history),
            [2, 3],
            "3 has not ended and may come last"
        );
    }

    #[test]
    fn an_unacknowledged_write_stays_possible_until_it_is_settled() {
        let history = History::new(1);
        history.begin(0, 1, content(5));
        history.begin(0, 2, content(6));
        history.acknowledged(0, 2);
        assert_eq!(
            ids_now(&history),
            [1, 2],
            "the first may still have come last"
        );
        history.settle(0, 1);
        history.begin(0, 3, Effect::Absent);
        history.acknowledged(0, 3);
        assert_eq!(ids_now(&history), [3]);
    }

    /// Two writes if absent, the second of which begins while the first is under way.
    fn two_winners(history: &History) {
        history.begin_if_absent(0, 1, content(5));
        history.begin_if_absent(0, 2, content(6));
        history.acknowledged(0, 1);
        history.acknowledged(0, 2);
    }

    fn winners(history: &History) -> Option<Vec<u64>> {
        let winners = history.impossible_winners(0)?;
        Some(winners.iter().map(|operation| operation.id).collect())
    }

    #[test]
    fn two_winners_need_a_delete_between_them() {
        let history = History::new(1);
        two_winners(&history);
        assert_eq!(winners(&history), Some(vec![1, 2]));

        let history = History::new(1);
        history.begin(0, 3, Effect::Absent);
        two_winners(&history);
        assert_eq!(
            winners(&history),
            None,
            "a delete is in flight all the time"
        );
        history.refused(0, 3);
        assert_eq!(winners(&history), Some(vec![1, 2]), "it did nothing");
    }

    #[test]
    fn a_delete_explains_winners_only_if_it_can_lie_between_them() {
        let history = History::new(1);
        history.begin(0, 3, Effect::Absent);
        history.acknowledged(0, 3);
        two_winners(&history);
        assert_eq!(winners(&history), Some(vec![1, 2]), "it ended before both");

        let history = History::new(1);
        two_winners(&history);
        history.begin(0, 3, Effect::Absent);
        assert_eq!(winners(&history), Some(vec![1, 2]), "it began after both");

        // One after the other, with a delete that overlaps only the first, or only the second.
        let history = History::new(1);
        history.begin_if_absent(0, 1, content(5));
        history.begin(0, 2, Effect::Absent);
        history.acknowledged(0, 1);
        history.acknowledged(0, 2);
        history.begin_if_absent(0, 3, content(6));
        history.begin(0, 4, Effect::Absent);
        history.acknowledged(0, 3);
        assert_eq!(winners(&history), None);
        history.refused(0, 2);
        assert_eq!(winners(&history), None, "4 may have come before 3");
        history.refused(0, 4);
        assert_eq!(winners(&history), Some(vec![1, 3]));
    }

    #[test]
    fn one_delete_explains_two_winners_and_no_third() {
        let history = History::new(1);
        history.begin(0, 4, Effect::Absent);
        two_winners(&history);
        history.begin_if_absent(0, 3, content(7));
        assert_eq!(winners(&history), None, "the third has not won yet");
        history.acknowledged(0, 3);
        assert_eq!(winners(&history), Some(vec![1, 2, 3]));
        history.begin(0, 5, content(8));
        history.acknowledged(0, 5);
        assert_eq!(
            winners(&history),
            Some(vec![1, 2, 3]),
            "a plain put helps nobody"
        );
    }

    #[test]
    fn a_winner_that_was_settled_still_needs_a_delete_after_it() {
        let history = History::new(1);
        history.begin(0, 2, Effect::Absent);
        history.begin_if_absent(0, 1, content(5));
        history.settle(0, 1);
        history.begin_if_absent(0, 3, content(6));
        assert_eq!(winners(&history), None);
        history.acknowledged(0, 3);
        assert_eq!(winners(&history), Some(vec![1, 3]));
    }
}
