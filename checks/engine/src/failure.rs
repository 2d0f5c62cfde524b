//! How a check says that a property does not hold.

/// A property that was violated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The property, in a sentence.
    pub property: &'static str,
    /// What was seen instead.
    pub detail: String,
    /// Which step of the case showed it.
    pub step: usize,
}

/// The outcome of something that checks.
pub type Verdict<T = ()> = Result<T, Failure>;

/// A violated property; the world fills in the step.
pub fn violated<T>(property: &'static str, detail: impl Into<String>) -> Verdict<T> {
    Err(Failure {
        property,
        detail: detail.into(),
        step: 0,
    })
}

/// The properties, one sentence each, so that tables and failures use the same words.
pub mod property {
    /// C1.
    pub const CONFORMS: &str = "every answer is the model's";
    /// C1.
    pub const SNAPSHOT: &str = "a snapshot goes on answering from the moment it was taken";
    /// C1.
    pub const SEQUENCE: &str =
        "an entry keeps its sequence, and a later entry of the key has a larger one";
    /// C1.
    pub const INVISIBLE: &str = "an unpersistent batch is not visible";
    /// C1.
    pub const NO_ERROR: &str = "without faults nothing fails";
    /// C1.
    pub const LIMITS: &str = "exactly what is past a limit is refused as too large";
    /// C2.
    pub const PERSISTENCE: &str =
        "after a crash persistent batches are there, others as a whole or not at all";
    /// C2.
    pub const ORDER: &str = "a batch is persistent only after what it depends on";
    /// C2.
    pub const PROGRESS: &str = "after close, and after pumping to the end, nothing is undecided";
    /// C4.
    pub const EVERY_MOMENT: &str = "a crash at any write or flush recovers to a permitted state";
    /// C5.
    pub const IDEMPOTENT: &str = "recovery, interrupted and repeated, gives the same state";
    /// C6.
    pub const TYPED: &str = "under faults a read is right or fails with a typed error";
    /// C6.
    pub const STICKY: &str =
        "after a failed write or flush nothing becomes persistent until the store is reopened";
    /// C6.
    pub const HONEST: &str = "honest faults lose nothing: once they are over, all is there";
    /// C6.
    pub const DETECTS: &str = "a lying disk's damage is detected, never served";
    /// C7.
    pub const ROT: &str = "rot is never served, and reclamation does not launder it";
    /// C13.
    pub const SUM: &str = "live + dead + free is the capacity";
    /// C13.
    pub const COUNTS: &str = "what lives is counted to the byte, extent by extent";
    /// C13.
    pub const BASELINE: &str = "deleting and reclaiming everything frees it";
    /// C13.
    pub const ROOM: &str = "a put is refused for want of space only when there is little";
    /// C13.
    pub const DELETES: &str = "on a full disk deletes and reclamation work";
    /// C14.
    pub const QUIESCES: &str = "background work comes to an end, and then writes work";
    /// All.
    pub const NO_PANIC: &str = "nothing panics";
    /// All.
    pub const DETERMINISTIC: &str = "the same seed gives the same trace";
}
