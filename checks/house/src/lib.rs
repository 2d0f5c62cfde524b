//! Tests of the workspace itself; see `tests/arrows.rs`. No other crate depends on this one.
