//! From a failing case to a small one: delta debugging over the steps (Zeller and
//! Hildebrandt, 2002), then simpler arguments.

use std::time::{Duration, Instant};

use crate::case::Case;
use crate::failure::Failure;
use crate::ops::{Change, Fill, Op, Step};

/// A smaller case that violates the same property.
#[derive(Debug)]
pub struct Shrunk {
    /// The case.
    pub case: Case,
    /// How it fails.
    pub failure: Failure,
    /// Cases tried.
    pub tried: usize,
}

struct Shrinker {
    best: Case,
    failure: Failure,
    tried: usize,
    until: Instant,
}

/// Shrinks a case that fails with `failure`, for at most `budget`.
pub fn shrink(case: &Case, failure: Failure, budget: Duration) -> Shrunk {
    let mut best = case.clone();
    // Nothing after the failing step matters, unless it is the end of the case that fails.
    best.steps.truncate(failure.step + 1);
    let mut shrinker = Shrinker {
        best: case.clone(),
        failure,
        tried: 0,
        until: Instant::now() + budget,
    };
    shrinker.attempt(best.steps);
    loop {
        let before = shrinker.best.steps.clone();
        shrinker.remove_chunks();
        shrinker.simplify();
        if shrinker.best.steps == before || shrinker.is_late() {
            break;
        }
    }
    Shrunk {
        case: shrinker.best,
        failure: shrinker.failure,
        tried: shrinker.tried,
    }
}

impl Shrinker {
    fn is_late(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Keeps `steps` if they violate the same property.
    fn attempt(&mut self, steps: Vec<Step>) -> bool {
        if self.is_late() {
            return false;
        }
        self.tried += 1;
        let case = Case {
            steps,
            ..self.best.clone()
        };
        match case.run(false).failure {
            Some(failure) if failure.property == self.failure.property => {
                self.best = case;
                self.failure = failure;
                true
            }
            _ => false,
        }
    }

    fn remove_chunks(&mut self) {
        let mut chunk = self.best.steps.len().div_ceil(2);
        while chunk > 0 {
            let mut at = 0;
            while at < self.best.steps.len() {
                let mut steps = self.best.steps.clone();
                steps.drain(at..(at + chunk).min(steps.len()));
                if !self.attempt(steps) {
                    at += chunk;
                }
            }
            chunk /= 2;
        }
    }

    fn simplify(&mut self) {
        for index in 0..self.best.steps.len() {
            let candidates = simpler(&self.best.steps[index].op);
            for op in candidates {
                let mut steps = self.best.steps.clone();
                steps[index].op = op;
                self.attempt(steps);
            }
        }
    }
}

/// Simpler forms of an operation, the simplest first.
fn simpler(op: &Op) -> Vec<Op> {
    match op {
        Op::Submit {
            changes,
            frees_space,
        } => {
            let submit = |changes| Op::Submit {
                changes,
                frees_space: *frees_space,
            };
            let mut forms: Vec<Op> = changes
                .iter()
                .map(|change| submit(vec![change.clone()]))
                .collect();
            if changes.len() == 1 {
                forms.clear();
            }
            for index in 0..changes.len() {
                for change in simpler_change(&changes[index]) {
                    let mut changes = changes.clone();
                    changes[index] = change;
                    forms.push(submit(changes));
                }
            }
            forms
        }
        Op::BulkPut {
            from,
            count,
            payload,
        } if *count > 1 => [1, count / 2, count - 1]
            .map(|count| Op::BulkPut {
                from: *from,
                count,
                payload: *payload,
            })
            .to_vec(),
        Op::BulkDelete { from, count } if *count > 1 => [1, count / 2, count - 1]
            .map(|count| Op::BulkDelete { from: *from, count })
            .to_vec(),
        Op::Pump { groups } if *groups > 1 => vec![Op::Pump { groups: 1 }],
        Op::Compact { steps } if *steps > 1 => vec![Op::Compact { steps: 1 }],
        Op::DirtyReboot {
            seed,
            mode,
            recovery,
        } if !recovery.is_empty() => {
            let mut shorter = recovery.clone();
            shorter.pop();
            let reboot = |recovery| Op::DirtyReboot {
                seed: *seed,
                mode: *mode,
                recovery,
            };
            vec![reboot(Vec::new()), reboot(shorter)]
        }
        Op::CutAfter {
            ios,
            seed,
            mode,
            recovery,
        } if !recovery.is_empty() => {
            let mut shorter = recovery.clone();
            shorter.pop();
            let cut = |recovery| Op::CutAfter {
                ios: *ios,
                seed: *seed,
                mode: *mode,
                recovery,
            };
            vec![cut(Vec::new()), cut(shorter)]
        }
        _ => Vec::new(),
    }
}

fn simpler_change(change: &Change) -> Vec<Change> {
    match change {
        Change::Put {
            key,
            value,
            payload,
            fill,
        } => {
            let put = |value, payload, fill| Change::Put {
                key: *key,
                value,
                payload,
                fill,
            };
            let mut forms = Vec::new();
            if *payload > 0 {
                forms.push(put(*value, 0, *fill));
                forms.push(put(*value, payload / 2, *fill));
            }
            if *value > 4 {
                forms.push(put(4, *payload, *fill));
            }
            if *fill != Fill::Unique {
                forms.push(put(*value, *payload, Fill::Unique));
            }
            forms
        }
        Change::Add { key, deltas } if deltas.len() > 1 => {
            vec![Change::Add {
                key: *key,
                deltas: deltas[..1].to_vec(),
            }]
        }
        _ => Vec::new(),
    }
}
