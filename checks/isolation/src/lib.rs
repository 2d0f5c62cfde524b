//! The isolation of programs, tried out: `bin/hostile.rs` tries to get out of its place in every
//! way that has a name, `tests/` look on.
