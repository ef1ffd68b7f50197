//! End-to-end tests that depend on the engine: they run once for each engine.

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/common/learners.rs"]
mod learners;

mod inference;
mod models;
mod training;
