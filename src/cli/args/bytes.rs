//! Memory sizes on the command line.

use ctseg_base::{Error, Result};

/// Parses `8G`, `512M`, `24GiB`; all units are powers of 1024.
pub fn parse_bytes(text: &str) -> Result<u64> {
    let wrong = || {
        Error::usage(format!(
            "'{text}' is not a size; expected a size such as 8G or 512M"
        ))
    };
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "m" | "mb" | "mib" => 1u64 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    if !(number.is_finite() && number > 0.0) {
        return Err(wrong());
    }
    Ok((number * unit as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_bytes("8G").unwrap(), 8 << 30);
        assert_eq!(parse_bytes("1.5GiB").unwrap(), 3 << 29);
        assert_eq!(parse_bytes("512m").unwrap(), 512 << 20);
        for wrong in ["", "8", "-1G", "G", "8X", "nanG"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }
}
