//! Text output (tables, counts, bytes, lists, file names, suggestions for mistyped names) with control characters escaped, and
//! text files of other programs.

pub mod by_structure;
pub mod bytes;
pub mod csv_cell;
pub mod file;
pub mod os_text;
pub mod printable;
pub mod suggest;
pub mod table;
pub mod words;
