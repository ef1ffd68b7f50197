//! Results on stdout.

/// Prints results. A reader that has gone away (`| head`) is no reason to fail.
pub fn print_out(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}
