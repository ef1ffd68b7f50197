//! Lines about work in progress, for a terminal or as JSON.

pub mod json;
pub mod terminal;
