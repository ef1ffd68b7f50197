//! Tests of `ctseg-engine` against golden values and between engines.

#[path = "../../../../tests/common/learners.rs"]
mod learners;

mod average;
mod cost;
mod engines;
mod networks;
