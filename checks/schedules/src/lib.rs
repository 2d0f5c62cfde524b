//! C8 and C9: the engine's threads, explored schedule by schedule with shuttle.
//!
//! A seed decides the case (what each thread does, where the power is cut) and the schedules;
//! the same seed gives the same run. Needs the feature `explore`, which swaps the engine's
//! threads and locks for the model checker's.
#![cfg(feature = "explore")]

pub mod explore;
pub mod history;
pub mod running;
pub mod scenarios;
pub mod world;
