//! Reading headers, volumes and label maps.

use std::path::Path;
use std::sync::mpsc::sync_channel;

use ndarray::Array3;

use super::datatype::VoxelSink;
use super::header::NiftiHeader;
use super::label_names;
use super::names::ENDINGS;
use super::read_header::{declared, header_from, truncated};
use crate::formats::{LabelNames, Source};
use crate::labels::run_length_labels::{LabelRuns, RunBuilder};
use crate::space::{LabelMap, Volume};
use ctseg_base::Result;
use ctseg_base::limits::spawn::spawn_scoped;

/// Bytes converted at a time; a multiple of every voxel size.
const CHUNK_BYTES: usize = 1 << 20;

/// Chunks decompressed ahead of the conversion.
const CHUNKS_AHEAD: usize = 3;

/// Maximum distance of a scaled label from an integer.
const LABEL_TOLERANCE: f64 = 1e-3;

/// An image with its header.
#[derive(Debug, Clone)]
pub struct NiftiImage {
    /// The header as stored, from which label maps take their grid.
    pub header: NiftiHeader,
    /// The voxels as `f32`, scaled by slope and intercept.
    pub volume: Volume,
    /// Number of voxels that are NaN or infinite as `f32`; they stay in `volume`, and `header` warns of them.
    pub non_finite: usize,
}

/// Reads and checks a header, also against the length of an uncompressed file.
///
/// The voxels are not read: damage further on in a gzip file is only found by [`read_volume`]. Errors are otherwise
/// those of [`read_volume`].
pub fn read_header(path: &Path) -> Result<NiftiHeader> {
    header_from(&mut Source::open(path, &ENDINGS)?)
}

/// Reads a single-volume image as `f32`, scaled by slope and intercept; shape (z, y, x), x fastest.
///
/// Values and affine equal nibabel's `get_fdata()` and `affine`. Fails with a one-line error on anything but an intact
/// NIfTI image of one volume of integers or floats: other formats, damaged headers, missing or extra bytes, corrupt
/// gzip, singular affines, shapes that do not fit into memory.
pub fn read_volume(path: &Path) -> Result<NiftiImage> {
    volume_from(Source::open(path, &ENDINGS)?)
}

/// Reads a label map; shape (z, y, x), x fastest.
///
/// Values must be integers from 0 to 65535, to within 0.001 after scaling; the error names the first invalid value and
/// its voxel. Otherwise fails as [`read_volume`].
pub fn read_labels(path: &Path) -> Result<(NiftiHeader, LabelMap)> {
    labels_from(Source::open(path, &ENDINGS)?)
}

/// Reads a label map as [`read_labels`], but keeps only its runs: memory does not grow with the volume.
pub fn read_label_runs(path: &Path) -> Result<(NiftiHeader, LabelRuns)> {
    label_runs_from(Source::open(path, &ENDINGS)?)
}

/// The label names stored in a label map (see [`super::write_named_labels`]); empty for most files.
///
/// A damaged table counts as empty; otherwise fails as [`read_header`].
pub fn read_label_names(path: &Path) -> Result<LabelNames> {
    label_names_from(Source::open(path, &ENDINGS)?)
}

/// [`read_volume`] from any source. If the length is unknown, memory grows as voxels are read.
pub(super) fn volume_from(mut source: Source) -> Result<NiftiImage> {
    let mut header = header_from(&mut source)?;
    let mut sink = Intensities::default();
    let padding = reserve(&mut sink.voxels, &header, &source)
        .and_then(|()| read_voxels(&mut source, &header, &mut sink))
        .map_err(|problem| source.problem(problem))?;
    header.warnings.extend(padding);
    let Intensities { voxels, non_finite } = sink;
    if non_finite > 0 {
        header.warnings.push(format!(
            "{non_finite} of {} voxels are NaN or infinite",
            voxels.len()
        ));
    }
    Ok(NiftiImage {
        volume: Volume {
            grid: header.grid(),
            data: array(&source, &header, voxels)?,
        },
        header,
        non_finite,
    })
}

/// [`read_labels`] from any source.
pub(super) fn labels_from(mut source: Source) -> Result<(NiftiHeader, LabelMap)> {
    let mut header = header_from(&mut source)?;
    let mut sink = Labels {
        voxels: Vec::new(),
        before: 0,
        shape: header.grid().shape,
        problem: None,
    };
    let padding = reserve(&mut sink.voxels, &header, &source)
        .and_then(|()| read_voxels(&mut source, &header, &mut sink))
        .map_err(|problem| source.problem(problem))?;
    header.warnings.extend(padding);
    if let Some(problem) = sink.problem {
        return Err(source.problem(problem));
    }
    let labels = LabelMap {
        grid: header.grid(),
        data: array(&source, &header, sink.voxels)?,
    };
    Ok((header, labels))
}

/// [`read_label_runs`] from any source.
pub(super) fn label_runs_from(mut source: Source) -> Result<(NiftiHeader, LabelRuns)> {
    let mut header = header_from(&mut source)?;
    let mut sink = Runs {
        builder: RunBuilder::new(header.grid()),
        piece: Labels {
            voxels: Vec::new(),
            before: 0,
            shape: header.grid().shape,
            problem: None,
        },
    };
    let padding = read_voxels(&mut source, &header, &mut sink);
    header
        .warnings
        .extend(padding.map_err(|problem| source.problem(problem))?);
    match sink.piece.problem {
        Some(problem) => Err(source.problem(problem)),
        None => Ok((header, sink.builder.finish())),
    }
}

/// [`read_label_names`] from any source.
pub(super) fn label_names_from(mut source: Source) -> Result<LabelNames> {
    let header = header_from(&mut source)?;
    let bytes = (header.data_offset - source.position()).min(label_names::MAX_BYTES);
    let mut between = vec![0; bytes as usize];
    let found = source
        .fill(&mut between)
        .map_err(|problem| source.problem(problem))?;
    Ok(label_names::names_in(&between[..found], header.raw.order()))
}

/// Reserves memory for all voxels: at most four times what the file's length allows for.
fn reserve<T>(
    voxels: &mut Vec<T>,
    header: &NiftiHeader,
    source: &Source,
) -> std::result::Result<(), String> {
    if source.length().is_none() {
        return Ok(());
    }
    voxels
        .try_reserve_exact(header.grid().voxels())
        .map_err(|_| {
            format!(
                "{} do not fit into memory; crop or downsample the image, or use a machine with more",
                declared(header)
            )
        })
}

/// Reads from just after the header to the end of the file; returns a warning about trailing bytes, if any. For large
/// gzip data, a separate thread converts one chunk while the next ones are decompressed.
fn read_voxels(
    source: &mut Source,
    header: &NiftiHeader,
    sink: &mut (impl VoxelSink + Send),
) -> std::result::Result<Option<String>, String> {
    let mut convert = |chunk: &[u8]| {
        let order = header.raw.order();
        header
            .voxel_type
            .decode(chunk, order, header.scaling(), sink);
    };
    let is_large = header.data_bytes() > CHUNK_BYTES as u64;
    if source.is_gzip()
        && is_large
        && let Some(read) = read_on_two_threads(source, header, &mut convert)
    {
        return read;
    }
    read_chunks(source, header, |chunk| {
        convert(&chunk);
        chunk
    })
}

/// `None`, with nothing read, if no thread can be started.
fn read_on_two_threads(
    source: &mut Source,
    header: &NiftiHeader,
    convert: &mut (impl FnMut(&[u8]) + Send),
) -> Option<std::result::Result<Option<String>, String>> {
    std::thread::scope(|scope| {
        let (to_convert, decompressed) = sync_channel::<Vec<u8>>(CHUNKS_AHEAD);
        let (recycle, converted) = sync_channel::<Vec<u8>>(CHUNKS_AHEAD + 1);
        for _ in 0..CHUNKS_AHEAD {
            // The channel has capacity for all of them.
            let _ = recycle.send(Vec::new());
        }
        let converts = move || {
            for chunk in decompressed {
                convert(&chunk);
                let _ = recycle.send(chunk);
            }
        };
        let converter = spawn_scoped(scope, "convert", converts).ok()?;
        // The reader stays on this thread, so that it need not be `Send`.
        let read = read_chunks(source, header, |chunk| {
            // Both fail only if the conversion has ended early; the rest is then not needed.
            let _ = to_convert.send(chunk);
            converted.recv().unwrap_or_default()
        });
        drop(to_convert);
        Some(match converter.join() {
            Ok(()) => read,
            Err(_) => Err("internal: the voxel conversion thread ended early".to_owned()),
        })
    })
}

/// Passes all voxel bytes to `take`, which returns a buffer for the next chunk; then checks that the file ends there,
/// so that bad checksums and extra bytes are detected.
fn read_chunks(
    source: &mut Source,
    header: &NiftiHeader,
    mut take: impl FnMut(Vec<u8>) -> Vec<u8>,
) -> std::result::Result<Option<String>, String> {
    let expected = header.data_offset + header.data_bytes();
    let read = |source: &mut Source, chunk: &mut [u8]| match source.fill(chunk) {
        Ok(bytes) if bytes < chunk.len() => {
            let problem = truncated(source.position(), expected, "exactly");
            Err(format!("{problem} ({})", declared(header)))
        }
        Ok(_) => Ok(()),
        Err(problem) => Err(format!(
            "{problem} ({expected} bytes expected for {})",
            declared(header)
        )),
    };
    let mut chunk = Vec::new();
    while source.position() < header.data_offset {
        let rest = (header.data_offset - source.position()).min(CHUNK_BYTES as u64);
        chunk.resize(rest as usize, 0);
        read(source, &mut chunk)?;
    }
    while source.position() < expected {
        let rest = (expected - source.position()).min(CHUNK_BYTES as u64);
        chunk.resize(rest as usize, 0);
        read(source, &mut chunk)?;
        chunk = take(chunk);
    }
    source.end().map_err(|problem| {
        format!(
            "{problem} ({expected} bytes expected for {})",
            declared(header)
        )
    })
}

fn array<T>(source: &Source, header: &NiftiHeader, voxels: Vec<T>) -> Result<Array3<T>> {
    Array3::from_shape_vec(header.grid().shape_zyx(), voxels)
        .map_err(|error| source.problem(format!("voxels do not fill the grid: {error}")))
}

/// Collects values as voxels of a volume.
#[derive(Default)]
pub(super) struct Intensities {
    pub(super) voxels: Vec<f32>,
    non_finite: usize,
}

impl VoxelSink for Intensities {
    fn take(&mut self, values: impl ExactSizeIterator<Item = f64> + Clone) {
        let start = self.voxels.len();
        self.voxels.extend(values.map(|value| value as f32));
        let new = &self.voxels[start..];
        self.non_finite += new.iter().filter(|value| !value.is_finite()).count();
    }
}

struct Labels {
    voxels: Vec<u16>,
    /// Number of voxels in earlier chunks.
    before: usize,
    shape: [usize; 3],
    /// The error for the first value that is not a label. Reading continues: damage to the file takes precedence.
    problem: Option<String>,
}

impl VoxelSink for Labels {
    fn take(&mut self, values: impl ExactSizeIterator<Item = f64> + Clone) {
        if self.problem.is_some() {
            return;
        }
        // `as` saturates, so values out of range differ from their label.
        let label = |value: f64| (value + 0.5) as u16;
        let is_label = |value: f64| (value - f64::from(label(value))).abs() <= LABEL_TOLERANCE;
        let mut all = true;
        let start = self.voxels.len();
        self.voxels.extend(values.clone().map(|value| {
            all &= is_label(value);
            label(value)
        }));
        let bad = match all {
            true => None,
            false => values.enumerate().find(|(_, value)| !is_label(*value)),
        };
        if let Some((index, value)) = bad {
            let [nx, ny, _] = self.shape;
            let index = self.before + start + index;
            let voxel = [index % nx, index / nx % ny, index / nx / ny];
            self.problem = Some(format!(
                "holds {value} at voxel {voxel:?} (x, y, z); expected labels, integers from 0 to \
                 65535; is this an image instead of a label map?"
            ));
        }
    }
}

/// Collects runs; each chunk of labels is dropped once its runs are found.
struct Runs {
    builder: RunBuilder,
    piece: Labels,
}

impl VoxelSink for Runs {
    fn take(&mut self, values: impl ExactSizeIterator<Item = f64> + Clone) {
        self.piece.before = self.builder.count();
        self.piece.take(values);
        self.builder.extend(&self.piece.voxels);
        self.piece.voxels.clear();
    }
}
