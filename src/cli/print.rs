//! Results on stdout.

use std::io::{BufWriter, Write};

use serde::Serialize;

use ctseg_base::text::printable::lines;

/// Prints results, for people or as JSON: control characters but the ends of lines are escaped, which leaves JSON the
/// same. A reader that has gone away (`| head`) is no reason to fail.
pub fn print_out(text: &str) {
    print_raw(&lines(text));
}

/// Prints what is to be taken as it is: scripts, and text with colours whose names are escaped.
pub fn print_raw(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// [`print_out`] of an object, piece by piece.
pub fn print_json(value: &impl Serialize) {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let printed = serde_json::to_writer_pretty(&mut out, value).map_err(std::io::Error::from);
    let _ = printed.and_then(|()| out.write_all(b"\n"));
}
