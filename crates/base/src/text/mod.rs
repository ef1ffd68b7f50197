//! Text for readers: tables, counts, lists, names of files, and the known name nearest to a mistyped one; text files of
//! other programs.

pub mod by_structure;
pub mod file;
pub mod os_text;
pub mod suggest;
pub mod table;
pub mod words;
