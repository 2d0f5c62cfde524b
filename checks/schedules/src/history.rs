//! What threads did and saw, and whether a single order explains it.
//!
//! The oracle is the definition of linearizability (Herlihy and Wing, 1990), tried by brute
//! force: histories here are a handful of operations.

use std::collections::HashSet;

use crate::world::KEYS;

/// The values of all keys. Values are unique numbers; 0 is "absent".
pub type State = [u32; KEYS];

/// What an operation did or saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Made these keys have these values (0: deleted them), all at one moment.
    Write(Vec<(usize, u32)>),
    /// Saw these values at one moment.
    Read(Vec<(usize, u32)>),
}

/// One operation with its time span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What it did.
    pub action: Action,
    /// When it began.
    pub from: u64,
    /// When it was known to have happened; `u64::MAX` if that was never known.
    pub to: u64,
}

/// Whether some order of the events, compatible with their time spans, is one that registers
/// which start at `initial` and take every operation as a whole could have shown. Writes never
/// known to have happened may be left out.
///
/// All keys are judged together: each key on its own may be in order while half of a batch is
/// missing.
pub fn is_linearizable(initial: State, events: &[Event]) -> bool {
    assert!(events.len() <= 32, "brute force has a limit");
    search(initial, events, 0, &mut HashSet::new())
}

fn search(state: State, events: &[Event], done: u32, seen: &mut HashSet<(State, u32)>) -> bool {
    let pending = || {
        events
            .iter()
            .enumerate()
            .filter(|(i, _)| done & (1 << i) == 0)
    };
    if pending().all(|(_, event)| event.to == u64::MAX) {
        return true;
    }
    if !seen.insert((state, done)) {
        return false;
    }
    // The next event in the order must have begun before any other pending one ended.
    let first_end = pending()
        .map(|(_, event)| event.to)
        .min()
        .unwrap_or(u64::MAX);
    pending()
        .filter(|(_, event)| event.from <= first_end)
        .any(|(i, event)| {
            let mut next = state;
            match &event.action {
                Action::Write(written) => {
                    written.iter().for_each(|(key, value)| next[*key] = *value);
                }
                Action::Read(read) if read.iter().all(|(key, value)| state[*key] == *value) => {}
                Action::Read(_) => return false,
            }
            search(next, events, done | (1 << i), seen)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(values: &[(usize, u32)], from: u64, to: u64) -> Event {
        let action = Action::Write(values.to_vec());
        Event { action, from, to }
    }

    fn read(values: &[(usize, u32)], from: u64, to: u64) -> Event {
        let action = Action::Read(values.to_vec());
        Event { action, from, to }
    }

    fn holds(events: &[Event]) -> bool {
        is_linearizable([0; KEYS], events)
    }

    #[test]
    fn accepts_what_an_order_explains_and_nothing_else() {
        let one = write(&[(0, 1)], 1, 4);
        assert!(holds(&[one.clone(), read(&[(0, 0)], 2, 3)]));
        assert!(holds(&[one.clone(), read(&[(0, 1)], 2, 3)]));
        assert!(!holds(&[one.clone(), read(&[(0, 0)], 5, 6)]), "stale read");
        let reads = [read(&[(0, 1)], 2, 2), read(&[(0, 0)], 3, 3)];
        let [first, second] = reads;
        assert!(!holds(&[one, first, second]), "went back in time");
        let lost = write(&[(0, 2)], 1, u64::MAX);
        assert!(holds(&[lost.clone(), read(&[(0, 0)], 5, 6)]));
        assert!(holds(&[lost, read(&[(0, 2)], 5, 6)]));
    }

    #[test]
    fn a_batch_is_there_as_a_whole_or_not_at_all() {
        let batch = write(&[(0, 1), (1, 1)], 1, u64::MAX);
        let after = |values: [u32; 2]| read(&[(0, values[0]), (1, values[1])], 5, 6);
        assert!(holds(&[batch.clone(), after([1, 1])]));
        assert!(holds(&[batch.clone(), after([0, 0])]));
        assert!(!holds(&[batch.clone(), after([1, 0])]), "half of it");
        let apart = [read(&[(0, 1)], 2, 3), read(&[(1, 0)], 4, 5)];
        let [first, second] = apart;
        assert!(!holds(&[batch, first, second]), "half of it, one by one");
    }
}
