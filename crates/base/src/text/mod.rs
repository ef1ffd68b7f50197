//! Text for readers: tables, and the known name nearest to a mistyped one.

pub mod suggest;
pub mod table;
