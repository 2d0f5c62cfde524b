//! The proof of `shardstore` on one disk: what it promises, tried against a simulated disk
//! that crashes, tears, lies and rots.
//!
//! ```text
//!   generate ──► Case {seed, knobs, steps} ──► World ──┬── shardstore::Store on a SimDisk
//!                      ▲                               ├── model (what must be the answer)
//!                      │ shrink, on failure            └── probes, space, faults (properties)
//! ```
//!
//! One seed decides everything of a case: knobs, operations, crashes, faults. A case is run
//! by one thread in a store that is stepped by hand, so the same seed gives the same trace
//! hash, and a failure replays with one command. There is no proptest: what counts here is
//! sequences per second, an exact replay from a number, and shrinking that keeps crashes and
//! faults aligned with the operations around them. The generator and the shrinker that this
//! takes are small.
//!
//! Where to read on: [`model`] is the reference, readable in a sitting; [`checks`] lists the
//! properties; [`world`] runs a case; [`mutants`] shows that the checks can fail.

mod batches;
pub mod case;
pub mod checks;
pub mod dump;
pub mod enumerate;
pub mod failure;
pub mod faults;
pub mod generate;
pub mod keys;
pub mod knobs;
pub mod model;
pub mod mutants;
pub mod ops;
pub mod probes;
pub mod prove;
mod reads;
mod reboot;
pub mod rot;
pub mod shrink;
mod space;
pub mod tally;
pub mod world;
