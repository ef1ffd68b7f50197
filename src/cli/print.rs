//! Results on stdout.

use std::io::{self, BufWriter, Write};

use serde::Serialize;
use serde_json::Value;

use ctseg_base::text::printable::lines;

/// Prints results as text or JSON. Control characters other than line breaks are escaped, which leaves valid JSON
/// unchanged. A closed pipe (`| head`) is not an error.
pub fn print_out(text: &str) {
    print_raw(&lines(text));
}

/// A result for readers and for programs.
pub struct Description {
    pub text: String,
    pub json: Value,
}

impl Description {
    pub fn print(&self, as_json: bool) {
        match as_json {
            true => print_out(&format!("{:#}\n", self.json)),
            false => print_out(&self.text),
        }
    }
}

/// Prints text unchanged: scripts, and coloured text whose names are already escaped.
pub fn print_raw(text: &str) {
    let _ = io::stdout().lock().write_all(text.as_bytes());
}

/// [`print_out`] of a value as JSON, streamed.
pub fn print_json(value: &impl Serialize) {
    let mut out = Escaped(BufWriter::new(io::stdout().lock()));
    let printed = serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from);
    let _ = printed.and_then(|()| out.write_all(b"\n"));
}

/// Escapes JSON while it is written; serde_json never splits a character between two writes.
struct Escaped<W>(W);

impl<W: Write> Write for Escaped<W> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(piece);
        self.0.write_all(lines(&text).as_bytes())?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_that_is_printed_in_pieces_has_no_control_characters() {
        let value = serde_json::json!({"größe\u{9b}31m": ["a\nb\u{202e}", "\u{7f}\u{1b}"]});
        let mut out = Escaped(Vec::new());
        serde_json::to_writer_pretty(&mut out, &value).unwrap();
        let text = String::from_utf8(out.0).unwrap();
        assert_eq!(text, lines(&format!("{value:#}")));
        assert!(!text.contains(['\u{9b}', '\u{202e}', '\u{7f}', '\u{1b}']));
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read, value);
    }
}
