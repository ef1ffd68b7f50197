//! Results on stdout.

use ctseg_base::text::printable::lines;

/// Prints results, for people or as JSON: control characters but the ends of lines are escaped, which leaves JSON the
/// same. A reader that has gone away (`| head`) is no reason to fail.
pub fn print_out(text: &str) {
    print_raw(&lines(text));
}

/// Prints what is to be taken as it is: scripts, and text with colours whose names are escaped.
pub fn print_raw(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}
