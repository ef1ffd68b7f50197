//! Reads text files of other programs.

use std::io;
use std::path::Path;

use crate::{pointer_file, regular_file};

/// Written by some programs before UTF-8.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// As [`std::fs::read_to_string`], without a byte-order mark. A file with the mark of UTF-16, as written by some
/// Windows programs, is decoded from UTF-16.
///
/// # Errors
/// Those of [`regular_file::read`]; `InvalidData` if the bytes are not text, or the file is a pointer file.
pub fn read_text(path: &Path) -> io::Result<String> {
    read_text_at_most(path, regular_file::MAX_BYTES)
}

/// [`read_text`] with a limit of `max` bytes.
///
/// # Errors
/// Same as [`read_text`].
pub fn read_text_at_most(path: &Path, max: u64) -> io::Result<String> {
    let text = decode(regular_file::read_at_most(path, max)?)?;
    match pointer_file::detect(text.as_bytes()) {
        Some((name, remedy)) => {
            let problem = format!("{name}; {remedy}");
            Err(io::Error::new(io::ErrorKind::InvalidData, problem))
        }
        None => Ok(text),
    }
}

/// Decodes a file's content, see [`read_text`].
pub fn decode(bytes: Vec<u8>) -> io::Result<String> {
    let utf16 = |unit: fn([u8; 2]) -> u16| {
        let (units, rest) = bytes[2..].as_chunks::<2>();
        let text: Result<String, _> =
            char::decode_utf16(units.iter().map(|two| unit(*two))).collect();
        match (text, rest) {
            (Ok(text), []) => Ok(text),
            _ => Err(not_text("UTF-16")),
        }
    };
    match bytes.as_slice() {
        [0xff, 0xfe, ..] => utf16(u16::from_le_bytes),
        [0xfe, 0xff, ..] => utf16(u16::from_be_bytes),
        _ => {
            let mut text = String::from_utf8(bytes).map_err(|_| not_text("UTF-8"))?;
            if text.starts_with(BYTE_ORDER_MARK) {
                text.drain(..BYTE_ORDER_MARK.len_utf8());
            }
            Ok(text)
        }
    }
}

fn not_text(encoding: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("not {encoding} text; save it as UTF-8"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_the_same_with_any_byte_order_mark() {
        let text = "{\"größe\": 1}\r\n";
        let units = || text.encode_utf16();
        let little: Vec<u8> = units().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = units().flat_map(u16::to_be_bytes).collect();
        for bytes in [
            text.as_bytes().to_vec(),
            [b"\xef\xbb\xbf", text.as_bytes()].concat(),
            [b"\xff\xfe".as_slice(), &little].concat(),
            [b"\xfe\xff".as_slice(), &big].concat(),
        ] {
            assert_eq!(decode(bytes).unwrap(), text);
        }
        assert_eq!(decode(Vec::new()).unwrap(), "");
        for (bytes, encoding) in [
            (b"\xffx".to_vec(), "UTF-8"),
            (b"\xff\xfea".to_vec(), "UTF-16"),
            (b"\xff\xfe\x00\xd8".to_vec(), "UTF-16"),
        ] {
            let error = decode(bytes).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains(encoding), "{error}");
        }
    }
}
