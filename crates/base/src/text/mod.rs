//! Text for readers: tables, counts, lists, names of files, and the known name nearest to a mistyped one, control
//! characters escaped; text files and tables of other programs.

pub mod by_structure;
pub mod csv_cell;
pub mod file;
pub mod os_text;
pub mod printable;
pub mod suggest;
pub mod table;
pub mod words;
