//! Greyscale JPEG encoding for HTML pages.

use jpeg_encoder::{ColorType, Encoder};

use ctseg_base::{Error, Result};

/// Encodes grey values, row by row, as a baseline JPEG; `quality` from 1 to 100 as in libjpeg.
///
/// # Errors
/// No pixels, sides above 65535, or `grey` of the wrong length.
pub fn grey_jpeg(width: usize, height: usize, grey: &[u8], quality: u8) -> Result<Vec<u8>> {
    let problem = |what: String| {
        Error::internal(format!(
            "cannot encode a JPEG of {width} × {height} pixels: {what}"
        ))
    };
    let sides = u16::try_from(width).ok().zip(u16::try_from(height).ok());
    let Some((wide, high)) = sides.filter(|(wide, high)| *wide > 0 && *high > 0) else {
        return Err(problem("expected sides of 1 to 65535".to_owned()));
    };
    if grey.len() != width * height {
        return Err(problem(format!("got {} values", grey.len())));
    }
    let mut bytes = Vec::new();
    Encoder::new(&mut bytes, quality)
        .encode(grey, wide, high, ColorType::Luma)
        .map_err(|error| problem(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jpeg_is_encoded_and_invalid_sizes_are_refused() {
        let grey: Vec<u8> = (0..64 * 40)
            .map(|at| (2 * (at % 64) + at / 64) as u8)
            .collect();
        let bytes = grey_jpeg(64, 40, &grey, 90).unwrap();
        assert!(bytes.len() < grey.len() / 2 && bytes.starts_with(&[0xff, 0xd8]));
        for (width, height) in [(0, 4), (70_000, 1)] {
            assert!(grey_jpeg(width, height, &vec![0; width * height], 90).is_err());
        }
        assert!(grey_jpeg(64, 39, &grey[..10], 90).is_err());
    }
}
