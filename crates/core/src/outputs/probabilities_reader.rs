//! Reads saved probabilities slice by slice.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use half::f16;

use super::probabilities::{ProbabilityKind, U8_STEP};
use ctseg_base::{Error, Result, regular_file};
use ctseg_image::nifti::ByteMaps;
use ctseg_image::space::{Grid, GridTolerance};

/// Limit for the header of a NumPy array.
const MAX_HEADER_BYTES: usize = 1 << 16;

/// Tolerance of the slope 1/255, which NIfTI-1 stores in 32 bits.
const SLOPE_TOLERANCE: f64 = 1e-8;

const F16_BYTES: u64 = 2;

/// A file of probabilities written by `predict --save-probabilities`.
pub struct ProbabilityReader {
    path: PathBuf,
    maps: usize,
    shape_zyx: [usize; 3],
    content: Content,
}

enum Content {
    Bytes(Box<ByteMaps>),
    Halves(BufReader<File>),
}

impl ProbabilityReader {
    /// Opens the probabilities of a label map on `grid`. The header is checked against the file's length.
    ///
    /// # Errors
    /// Another format, another grid, or a length that does not match the header.
    pub fn open(path: &Path, kind: ProbabilityKind, grid: &Grid) -> Result<Self> {
        let reader = match kind {
            ProbabilityKind::U8 => {
                let maps = ByteMaps::open(path)?;
                check_bytes(path, &maps, grid)?;
                Self {
                    path: path.to_path_buf(),
                    maps: maps.count(),
                    shape_zyx: maps.grid().shape_zyx(),
                    content: Content::Bytes(Box::new(maps)),
                }
            }
            ProbabilityKind::F16 => Self::open_array(path)?,
        };
        let shape_zyx = reader.shape_zyx;
        if shape_zyx != grid.shape_zyx() {
            return Err(Error::file(
                path,
                format!(
                    "has {shape_zyx:?} voxels (z, y, x), but its label map has {:?}; predict again with --save-probabilities",
                    grid.shape_zyx()
                ),
            ));
        }
        Ok(reader)
    }

    /// Like [`ProbabilityReader::open`] for 16-bit floats without a known label map.
    ///
    /// # Errors
    /// Another format, or a length that does not match the header.
    pub fn open_array(path: &Path) -> Result<Self> {
        let ([maps, z, y, x], file) = open_halves(path)?;
        Ok(Self {
            path: path.to_path_buf(),
            maps,
            shape_zyx: [z, y, x],
            content: Content::Halves(file),
        })
    }

    /// Shape of each map (z, y, x).
    pub fn shape_zyx(&self) -> [usize; 3] {
        self.shape_zyx
    }

    /// Number of maps, one per structure.
    pub fn maps(&self) -> usize {
        self.maps
    }

    /// Calls `take` for every slice with the index of its map, its z, and its codes (see
    /// [`ProbabilityKind::probability`]), x fastest. Only one slice is in memory.
    ///
    /// # Errors
    /// A damaged file; values that are not probabilities.
    pub fn each_slice(self, mut take: impl FnMut(usize, usize, &[u16])) -> Result<()> {
        let [depth, height, width] = self.shape_zyx;
        let mut codes: Vec<u16> = Vec::with_capacity(height * width);
        let mut file = match self.content {
            Content::Bytes(maps) => {
                return maps.each_slice(|map, z, bytes| {
                    codes.clear();
                    codes.extend(bytes.iter().map(|byte| u16::from(*byte)));
                    take(map, z, &codes);
                    Ok(())
                });
            }
            Content::Halves(file) => file,
        };
        let mut bytes = vec![0; height * width * F16_BYTES as usize];
        for map in 0..self.maps {
            for z in 0..depth {
                file.read_exact(&mut bytes)
                    .map_err(Error::io(&self.path, "read"))?;
                codes.clear();
                let pairs = bytes.as_chunks::<2>().0.iter();
                codes.extend(pairs.map(|pair| code(f16::from_le_bytes(*pair))));
                let most = f16::ONE.to_bits();
                if let Some(at) = codes.iter().position(|code| *code > most) {
                    return Err(Error::file(
                        &self.path,
                        format!(
                            "has {} in map {map} at voxel [{}, {}, {z}] (x, y, z); expected probabilities from 0 to 1",
                            f16::from_bits(codes[at]),
                            at % width,
                            at / width
                        ),
                    ));
                }
                take(map, z, &codes);
            }
        }
        Ok(())
    }
}

/// The bit pattern, which is ordered like the value for non-negative values; −0 becomes 0.
fn code(value: f16) -> u16 {
    match value.to_bits() {
        0x8000 => 0,
        bits => bits,
    }
}

fn check_bytes(path: &Path, maps: &ByteMaps, grid: &Grid) -> Result<()> {
    let is_step = |(slope, intercept): (f64, f64)| {
        (slope - U8_STEP).abs() < SLOPE_TOLERANCE && intercept == 0.0
    };
    if !maps.scaling().is_some_and(is_step) {
        let (slope, intercept) = maps.scaling().unwrap_or((1.0, 0.0));
        return Err(Error::file(
            path,
            format!(
                "its values have slope {slope} and intercept {intercept}; expected slope 1/255 and intercept 0, as --save-probabilities writes"
            ),
        ));
    }
    let is_same = GridTolerance::default().is_same(&maps.grid(), grid);
    if maps.grid().shape == grid.shape && !is_same {
        return Err(Error::file(
            path,
            format!(
                "is up to {:.2} mm off its label map; predict again with --save-probabilities",
                maps.grid().largest_shift_mm(grid)
            ),
        ));
    }
    Ok(())
}

/// Opens a file in NumPy's format (numpy.lib.format), positioned after the header, with its shape (structure, z, y,
/// x), which is checked against the file's length.
fn open_halves(path: &Path) -> Result<([usize; 4], BufReader<File>)> {
    let failed = |problem: String| Error::file(path, problem);
    let file = regular_file::open(path).map_err(Error::io(path, "open"))?;
    let length = file.metadata().map_err(Error::io(path, "open"))?.len();
    let mut file = BufReader::with_capacity(1 << 16, file);
    let (text, begin) = numpy_description(&mut file)
        .map_err(Error::io(path, "read the header of"))?
        .ok_or_else(|| {
            failed(
                "not a NumPy array; expected a file written by --save-probabilities=f16".to_owned(),
            )
        })?;
    let shape = shape_of(&text).ok_or_else(|| {
        failed(format!(
            "has the description {text}; expected 16-bit floats ('<f2') in C order, (structure, z, y, x)"
        ))
    })?;
    let bytes = shape
        .iter()
        .try_fold(F16_BYTES, |bytes, n| bytes.checked_mul(*n as u64))
        .and_then(|bytes| bytes.checked_add(begin));
    if shape.contains(&0) || bytes != Some(length) {
        return Err(failed(format!(
            "truncated or damaged: its {length} bytes do not match an array of shape {shape:?}"
        )));
    }
    Ok((shape, file))
}

/// The description in an array's header, without spaces, and the length of the header; `None` for another format.
fn numpy_description(file: &mut impl Read) -> std::io::Result<Option<(String, u64)>> {
    let mut start = Vec::new();
    file.by_ref().take(8).read_to_end(&mut start)?;
    let length_bytes = match start.strip_prefix(b"\x93NUMPY") {
        Some([1, _]) => 2,
        Some([2 | 3, _]) => 4,
        _ => return Ok(None),
    };
    let mut length = [0; 4];
    file.read_exact(&mut length[..length_bytes])?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_HEADER_BYTES {
        return Ok(None);
    }
    let mut text = vec![0; length];
    file.read_exact(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let plain = text.chars().filter(|c| !c.is_whitespace());
    let plain = plain.map(|c| if c.is_control() { '?' } else { c });
    Ok(Some((plain.collect(), (8 + length_bytes + length) as u64)))
}

fn shape_of(description: &str) -> Option<[usize; 4]> {
    let says = |what: &str| description.contains(what);
    if !says("'descr':'<f2'") || !says("'fortran_order':False") {
        return None;
    }
    let (_, shape) = description.split_once("'shape':(")?;
    let (shape, _) = shape.split_once(')')?;
    let sizes = shape.trim_end_matches(',').split(',');
    let sizes: Vec<usize> = sizes.map(|n| n.parse().ok()).collect::<Option<_>>()?;
    sizes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ndarray::Array3;

    use super::*;
    use crate::inference::export_logits::ProbabilitySink;
    use crate::outputs::probabilities::ProbabilityFile;
    use ctseg_image::formats::{VolumeHeader, VoxelType};
    use ctseg_image::nifti::{NiftiHeader, write_maps};
    use ctseg_image::space::VoxelBox;

    fn grid() -> Grid {
        Grid::with_spacing([4, 3, 2], [1.0, 2.0, 3.0])
    }

    fn probability(structure: usize, place: usize) -> f32 {
        (structure * 24 + place) as f32 / 47.0
    }

    fn written(kind: ProbabilityKind, folder: &Path) -> PathBuf {
        let grid = grid();
        let output = folder.join("case.nii.gz");
        let mut file = ProbabilityFile::create(kind, &output, 2, &grid).unwrap();
        for structure in 0..2 {
            let values = (0..24).map(|place| probability(structure, place)).collect();
            let values = Array3::from_shape_vec(grid.shape_zyx(), values).unwrap();
            let whole = VoxelBox::whole(grid.shape);
            file.put(structure, &whole, values.view()).unwrap();
        }
        file.finish(&VolumeHeader::new(grid, VoxelType::I16))
            .unwrap()
    }

    fn error_of(path: &Path, kind: ProbabilityKind) -> String {
        let read = ProbabilityReader::open(path, kind, &grid())
            .and_then(|reader| reader.each_slice(|_, _, _| {}));
        let error = read.unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    }

    #[test]
    fn written_probabilities_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        for (kind, most) in [
            (ProbabilityKind::U8, 0.5 / 255.0),
            (ProbabilityKind::F16, 3e-4),
        ] {
            let path = written(kind, folder.path());
            let reader = ProbabilityReader::open(&path, kind, &grid()).unwrap();
            assert_eq!(reader.maps(), 2);
            let mut seen = 0;
            let check = |map: usize, z: usize, codes: &[u16]| {
                assert_eq!((map, z, codes.len()), (seen / 2, seen % 2, 12));
                seen += 1;
                for (at, code) in codes.iter().enumerate() {
                    assert!(usize::from(*code) < kind.codes());
                    let expected = f64::from(probability(map, 12 * z + at));
                    let apart = (kind.probability(*code) - expected).abs();
                    assert!(apart <= most + 1e-6, "{kind}: {apart}");
                }
            };
            reader.each_slice(check).unwrap();
            assert_eq!(seen, 4);
        }
    }

    #[test]
    fn damaged_arrays_are_refused_before_anything_is_allocated() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(ProbabilityKind::F16, folder.path());
        let whole = fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&whole[10..128]).into_owned();
        let with = |from: &str, to: &str| {
            let text = text.replacen(from, to, 1);
            let text = &text[..text.len().min(118)];
            [
                &whole[..10],
                format!("{text:118}").as_bytes(),
                &whole[128..],
            ]
            .concat()
        };
        let mut outside = whole.clone();
        outside[130..132].copy_from_slice(&f16::from_f32(1.5).to_le_bytes());
        let mut nan = whole.clone();
        nan[128..130].copy_from_slice(&f16::NAN.to_le_bytes());
        let huge = "(9000000000, 9000000000, 9000000000, 9000000000)";
        for (bytes, expected) in [
            (whole[..whole.len() - 1].to_vec(), "truncated"),
            ([&whole[..], &[0]].concat(), "truncated"),
            (whole[..40].to_vec(), "header"),
            (b"no array".to_vec(), "not a NumPy array"),
            (Vec::new(), "not a NumPy array"),
            (
                b"\x93NUMPY\x02\x00\xff\xff\xff\x7f".to_vec(),
                "not a NumPy array",
            ),
            (with("<f2", "<f4"), "'<f2'"),
            (with("False", "True "), "C order"),
            (with("(2, 2, 3, 4)", "(2, 2, 3)   "), "(structure, z, y, x)"),
            (with("(2, 2, 3, 4)", huge), "truncated"),
            (with("(2, 2, 3, 4)", "(2, 2, 4, 3)"), "its label map has"),
            (outside, "has 1.5 in map 0 at voxel [1, 0, 0]"),
            (nan, "has NaN"),
        ] {
            fs::write(&path, bytes).unwrap();
            let error = error_of(&path, ProbabilityKind::F16);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn damaged_and_foreign_maps_of_bytes_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(ProbabilityKind::U8, folder.path());
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        let checksum = whole.len() - 6;
        flipped[checksum] ^= 1;
        for (bytes, expected) in [
            (whole[..whole.len() - 9].to_vec(), "truncated"),
            (flipped, "corrupt gzip"),
            (b"no image".to_vec(), "expected"),
        ] {
            fs::write(&path, bytes).unwrap();
            let error = error_of(&path, ProbabilityKind::U8);
            assert!(error.contains(expected), "{error}");
        }
        let foreign = |grid: Grid, step: f64| {
            let source = NiftiHeader::for_grid(&grid).unwrap();
            write_maps(&path, &source, 2, step, vec![0; 48].as_slice()).unwrap();
            error_of(&path, ProbabilityKind::U8)
        };
        assert!(foreign(grid(), 1.0).contains("1/255"));
        let other = Grid::with_spacing([3, 4, 2], [1.0, 2.0, 3.0]);
        assert!(foreign(other, U8_STEP).contains("its label map has"));
        let mut moved = grid();
        moved.affine[2][3] = 5.0;
        assert!(foreign(moved, U8_STEP).contains("5.00 mm off"));
        // A header with more volumes than the file contains.
        let plain = folder.path().join("plain.nii");
        let source = NiftiHeader::for_grid(&grid()).unwrap();
        write_maps(&plain, &source, 2, U8_STEP, vec![0; 48].as_slice()).unwrap();
        let mut bytes = fs::read(&plain).unwrap();
        bytes[48..50].copy_from_slice(&30_000i16.to_le_bytes());
        fs::write(&plain, &bytes).unwrap();
        assert!(error_of(&plain, ProbabilityKind::U8).contains("30000 volumes"));
        bytes[48..50].copy_from_slice(&(-3i16).to_le_bytes());
        fs::write(&plain, &bytes).unwrap();
        assert!(error_of(&plain, ProbabilityKind::U8).contains("-3"));
    }
}
