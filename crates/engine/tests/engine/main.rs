//! Tests of the crate `ctseg-engine` against golden values and real files.

#[path = "../../../../tests/common/learners.rs"]
mod learners;

mod average;
mod cost;
mod engines;
mod networks;
