//! What threads did and saw, and whether a single order explains it.
//!
//! The oracle is the definition of linearizability (Herlihy and Wing, 1990), tried by brute
//! force: histories here are a handful of operations per key.

/// What an operation on one key did or saw. Values are unique numbers; 0 is "absent".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Made the key have this value (0: deleted it).
    Write(u32),
    /// Saw this value.
    Read(u32),
}

/// One operation with its time span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: usize,
    /// What it did.
    pub action: Action,
    /// When it began.
    pub from: u64,
    /// When it was known to have happened; `u64::MAX` if that was never known.
    pub to: u64,
}

/// Whether some order of the events of one key, compatible with their time spans, is one that
/// a register starting at `initial` could have shown. Writes never known to have happened may
/// be left out.
pub fn is_linearizable(initial: u32, events: &[Event]) -> bool {
    assert!(events.len() <= 20, "brute force has a limit");
    let mut seen = std::collections::HashSet::new();
    search(initial, events, 0, &mut seen)
}

fn search(
    value: u32,
    events: &[Event],
    done: u32,
    seen: &mut std::collections::HashSet<(u32, u32)>,
) -> bool {
    let pending = || {
        events
            .iter()
            .enumerate()
            .filter(|(i, _)| done & (1 << i) == 0)
    };
    if pending().all(|(_, event)| event.to == u64::MAX) {
        return true;
    }
    if !seen.insert((value, done)) {
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
            let next = match event.action {
                Action::Write(written) => written,
                Action::Read(read) if read == value => value,
                Action::Read(_) => return false,
            };
            search(next, events, done | (1 << i), seen)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: Action, from: u64, to: u64) -> Event {
        Event {
            key: 0,
            action,
            from,
            to,
        }
    }

    #[test]
    fn accepts_what_an_order_explains_and_nothing_else() {
        let write = event(Action::Write(1), 1, 4);
        assert!(is_linearizable(0, &[write, event(Action::Read(0), 2, 3)]));
        assert!(is_linearizable(0, &[write, event(Action::Read(1), 2, 3)]));
        assert!(
            !is_linearizable(0, &[write, event(Action::Read(0), 5, 6)]),
            "stale read"
        );
        let reads = [event(Action::Read(1), 2, 2), event(Action::Read(0), 3, 3)];
        assert!(
            !is_linearizable(0, &[write, reads[0], reads[1]]),
            "went back in time"
        );
        let lost = event(Action::Write(2), 1, u64::MAX);
        assert!(is_linearizable(0, &[lost, event(Action::Read(0), 5, 6)]));
        assert!(is_linearizable(0, &[lost, event(Action::Read(2), 5, 6)]));
    }
}
