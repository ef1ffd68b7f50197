//! Progress and messages on stderr, as text or JSON.

pub mod json;
pub mod terminal;
