//! Encodes voxels as text: grey values as a sheet of slices in one JPEG, labels losslessly.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use ndarray::Array3;

use crate::pictures::jpeg::grey_jpeg;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::Structure;

/// Knots of the piecewise linear mapping from Hounsfield units to 8 bits. Steps are 20 HU in air and lung, 4 in fat, 2
/// from 0 to 100, 4 up to 300, and 43 in bone and metal.
pub const KNOTS: [(f32, f32); 6] = [
    (-1024.0, 0.0),
    (-200.0, 41.0),
    (0.0, 91.0),
    (100.0, 141.0),
    (300.0, 191.0),
    (3071.0, 255.0),
];

/// JPEG quality at which tissue edges stay clean and the steps of [`KNOTS`] are preserved.
const QUALITY: u8 = 90;

/// Maximum width of the sheet in pixels.
const MAX_SHEET_WIDTH: usize = 4096;
/// JPEG block size; a block never contains two slices.
const BLOCK: usize = 8;

/// Maps Hounsfield units to 8 bits.
pub fn companded(hu: f32) -> u8 {
    let [(lowest, _), .., (highest, _)] = KNOTS;
    let hu = hu.clamp(lowest, highest);
    let above = KNOTS
        .iter()
        .position(|(knot, _)| hu <= *knot)
        .unwrap_or(1)
        .max(1);
    let ((x0, y0), (x1, y1)) = (KNOTS[above - 1], KNOTS[above]);
    (y0 + (hu - x0) / (x1 - x0) * (y1 - y0)).round() as u8
}

/// Bytes as base64 text, with padding (RFC 4648).
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Layout of slices in rows, each aligned to JPEG blocks.
pub struct Sheet {
    pub columns: usize,
    rows: usize,
    pub tile: [usize; 2],
}

impl Sheet {
    pub fn of([x, y, z]: [usize; 3]) -> Self {
        let tile = [x, y].map(|side| side.next_multiple_of(BLOCK));
        let square = ((z * tile[1]) as f64 / tile[0] as f64).sqrt().ceil() as usize;
        let columns = square.clamp(1, (MAX_SHEET_WIDTH / tile[0]).max(1)).min(z);
        Self {
            columns,
            rows: z.div_ceil(columns),
            tile,
        }
    }

    fn width(&self) -> usize {
        self.columns * self.tile[0]
    }

    fn height(&self) -> usize {
        self.rows * self.tile[1]
    }

    /// Values of [`companded`] (z, y, x) as a JPEG in base64.
    pub fn jpeg(&self, grey: &Array3<u8>) -> Result<String> {
        let pixels = self.laid_out(grey);
        let bytes = grey_jpeg(self.width(), self.height(), &pixels, QUALITY)?;
        Ok(base64(&bytes))
    }

    /// Lays the slices out; tiles are padded with their last pixels to avoid artificial edges.
    fn laid_out(&self, grey: &Array3<u8>) -> Vec<u8> {
        let (z, y, x) = grey.dim();
        let mut pixels = vec![0; self.width() * self.height()];
        for (row, line) in pixels.chunks_exact_mut(self.width()).enumerate() {
            for (column, tile) in line.chunks_exact_mut(self.tile[0]).enumerate() {
                let slice = row / self.tile[1] * self.columns + column;
                if slice >= z {
                    continue;
                }
                let own = (row % self.tile[1]).min(y - 1);
                for (at, pixel) in tile.iter_mut().enumerate() {
                    *pixel = grey[[slice, own, at.min(x - 1)]];
                }
            }
        }
        pixels
    }
}

/// Maps labels to slots: 1 plus the position of the structure.
pub struct Slots {
    of_label: Vec<u16>,
    pub wide: bool,
}

impl Slots {
    pub fn of(structures: &[Structure]) -> Self {
        let mut of_label = vec![0; usize::from(u16::MAX) + 1];
        for (slot, structure) in (1..).zip(structures) {
            of_label[usize::from(structure.value)] = slot;
        }
        of_label[0] = 0; // always background
        Self {
            of_label,
            wide: structures.len() > usize::from(u8::MAX),
        }
    }

    /// The slots of `labels` as a zlib stream in base64.
    pub fn deflated(&self, labels: &Array3<u16>) -> Result<String> {
        let slots = labels
            .iter()
            .map(|label| self.of_label[usize::from(*label)]);
        let bytes: Vec<u8> = match self.wide {
            true => slots.flat_map(u16::to_le_bytes).collect(),
            false => slots.map(|slot| slot as u8).collect(),
        };
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(7));
        encoder
            .write_all(&bytes)
            .and_then(|()| encoder.finish())
            .map(|bytes| base64(&bytes))
            .map_err(|error| Error::internal(format!("labels cannot be packed: {error}")))
    }
}

/// Decodes [`Slots::deflated`].
#[cfg(test)]
pub fn inflated(text: &str) -> Vec<u8> {
    use std::io::Read;

    let bytes = STANDARD.decode(text).unwrap();
    let mut plain = Vec::new();
    let mut decoder = flate2::read::ZlibDecoder::new(bytes.as_slice());
    decoder.read_to_end(&mut plain).unwrap();
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hounsfield_units_keep_fine_steps_in_tissue() {
        assert_eq!((companded(-5000.0), companded(-1024.0)), (0, 0));
        assert_eq!((companded(9000.0), companded(3071.0)), (255, 255));
        for (hu, number) in KNOTS {
            assert_eq!(f32::from(companded(hu)), number);
        }
        assert_eq!(companded(42.0) - companded(40.0), 1);
        let all: Vec<u8> = (-1100..3200).map(|hu| companded(hu as f32)).collect();
        assert!(all.windows(2).all(|pair| pair[0] <= pair[1]));
    }

    #[test]
    fn slices_are_aligned_to_jpeg_blocks() {
        let sheet = Sheet::of([10, 13, 7]);
        assert_eq!(sheet.tile, [16, 16]);
        assert!(sheet.columns * sheet.rows >= 7);
        let grey = Array3::from_shape_fn((7, 13, 10), |(z, _, _)| z as u8 + 1);
        let pixels = sheet.laid_out(&grey);
        for slice in 0..7 {
            let (row, column) = (slice / sheet.columns * 16, slice % sheet.columns * 16);
            for (dy, dx) in [(0, 0), (12, 9), (15, 15)] {
                let at = (row + dy) * sheet.width() + column + dx;
                assert_eq!(usize::from(pixels[at]), slice + 1);
            }
        }
        let wide = Sheet::of([5000, 4, 3]);
        assert_eq!((wide.columns, wide.rows), (1, 3));
    }
}
