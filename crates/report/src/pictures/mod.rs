//! Pictures as PNG files: [`Picture`] for pixels, [`chart`] for curves, [`attention`] for attention maps, [`preview`]
//! for label maps, [`comparison`] for predictions beside references; [`jpeg`] for HTML pages.

pub mod attention;
mod bitmap_font;
pub mod chart;
pub mod comparison;
pub mod jpeg;
pub mod preview;
mod text_canvas;
pub(crate) mod views;

use std::path::Path;

use ctseg_base::atomic_file::write_atomically;
use ctseg_base::{Error, Result, regular_file};

/// Red, green, blue.
pub type Colour = [u8; 3];

/// Pixels row by row from the top, each red, green, blue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Picture {
    pub fn filled(width: usize, height: usize, colour: Colour) -> Self {
        Self {
            width,
            height,
            rgb: colour.repeat(width * height),
        }
    }

    /// A picture whose pixel in column `x` and row `y` (from the top) is `colour(x, y)`.
    pub fn from_fn(
        width: usize,
        height: usize,
        mut colour: impl FnMut(usize, usize) -> Colour,
    ) -> Self {
        let mut picture = Self::filled(width, height, [0; 3]);
        for (index, pixel) in picture.rgb.chunks_exact_mut(3).enumerate() {
            pixel.copy_from_slice(&colour(index % width, index / width));
        }
        picture
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn height(&self) -> usize {
        self.height
    }

    /// The pixel in column `x` and row `y`; `None` outside the picture.
    pub fn pixel(&self, x: usize, y: usize) -> Option<Colour> {
        let at = 3 * (y * self.width + x);
        let inside = x < self.width && y < self.height;
        let pixel = inside.then(|| self.rgb.get(at..at + 3)).flatten()?;
        pixel.try_into().ok()
    }

    /// All pixels, row by row from the top.
    pub fn pixels(&self) -> impl Iterator<Item = Colour> {
        let (pixels, _) = self.rgb.as_chunks();
        pixels.iter().copied()
    }

    /// Sets a pixel; ignored outside the picture.
    pub fn set(&mut self, x: usize, y: usize, colour: Colour) {
        if x < self.width && y < self.height {
            let at = 3 * (y * self.width + x);
            self.rgb[at..at + 3].copy_from_slice(&colour);
        }
    }

    /// Copies `other` into this picture, with its upper left corner at column `x` and row `y`; pixels outside are
    /// dropped.
    pub fn paste(&mut self, other: &Self, x: usize, y: usize) {
        for row in 0..other.height {
            for column in 0..other.width {
                if let Some(colour) = other.pixel(column, row) {
                    self.set(x + column, y + row, colour);
                }
            }
        }
    }

    /// Draws a line of text with its upper left corner at column `x` and row `y`; letters are 16 pixels high and 9
    /// wide.
    pub fn write_text(&mut self, text: &str, x: usize, y: usize, colour: Colour) {
        bitmap_font::draw(text, bitmap_font::SMALL, &mut |dx, dy, cover| {
            let (x, y) = (x + dx, y + dy);
            if let Some(below) = self.pixel(x, y) {
                let mixed = std::array::from_fn(|channel| {
                    let (below, above) = (f32::from(below[channel]), f32::from(colour[channel]));
                    (below + (above - below) * cover).round() as u8
                });
                self.set(x, y, mixed);
            }
        });
    }

    /// Writes a PNG file atomically.
    ///
    /// # Errors
    /// An empty picture, or a write failure.
    pub fn write_png(&self, path: &Path) -> Result<()> {
        if self.rgb.is_empty() {
            return Err(Error::file(
                path,
                "cannot write an empty picture; expected at least 1 × 1 pixels",
            ));
        }
        write_atomically(path, |writer| {
            let mut encoder = png::Encoder::new(writer, self.width as u32, self.height as u32);
            encoder.set_color(png::ColorType::Rgb);
            encoder.set_depth(png::BitDepth::Eight);
            encoder.set_compression(png::Compression::Fast);
            let mut writer = encoder.write_header()?;
            writer.write_image_data(&self.rgb)?;
            writer.finish().map_err(std::io::Error::from)
        })
    }

    /// Reads a file written by [`write_png`](Self::write_png).
    ///
    /// # Errors
    /// The file cannot be read, or is not an 8-bit RGB PNG.
    pub fn read_png(path: &Path) -> Result<Self> {
        let file = regular_file::open(path).map_err(Error::io(path, "open the picture"))?;
        let decoder = png::Decoder::new(std::io::BufReader::new(file));
        let read = || -> std::result::Result<_, png::DecodingError> {
            let mut reader = decoder.read_info()?;
            let mut rgb = vec![0; reader.output_buffer_size().unwrap_or(0)];
            let frame = reader.next_frame(&mut rgb)?;
            Ok((frame, rgb))
        };
        let (frame, rgb) = read().map_err(|error| Error::file(path, error.to_string()))?;
        if (frame.color_type, frame.bit_depth) != (png::ColorType::Rgb, png::BitDepth::Eight) {
            return Err(Error::file(path, "expected an 8-bit RGB PNG"));
        }
        Ok(Self {
            width: frame.width as usize,
            height: frame.height as usize,
            rgb,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_picture_is_read_back_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/picture.png");
        let mut picture =
            Picture::from_fn(31, 17, |x, y| [x as u8, y as u8, (7 * x + 3 * y) as u8]);
        picture.set(30, 16, [255, 0, 9]);
        picture.set(31, 0, [1, 1, 1]); // outside
        picture.paste(&Picture::filled(4, 4, [9, 9, 9]), 29, 0);
        picture.write_png(&path).unwrap();
        assert_eq!(Picture::read_png(&path).unwrap(), picture);
        assert_eq!(picture.pixel(30, 16), Some([255, 0, 9]));
        assert_eq!(picture.pixel(29, 3), Some([9, 9, 9]));
        assert_eq!(picture.pixel(31, 0), None);
        let empty = Picture::filled(0, 5, [0; 3]).write_png(&path);
        assert!(empty.unwrap_err().to_string().contains("picture.png"));
    }

    #[test]
    fn text_is_dark_on_light_and_clipped() {
        let mut picture = Picture::filled(60, 20, [255; 3]);
        picture.write_text("Dice é – and further than it is wide", 2, 2, [0; 3]);
        let dark = |x: usize| (0..20).any(|y| picture.pixel(x, y).is_some_and(|p| p[0] < 90));
        assert!((2..12).any(dark) && (50..60).any(dark));
    }
}
