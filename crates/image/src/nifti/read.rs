//! Reading headers, volumes and label maps.
//!
//! Over 400 lines: headers, volumes and label maps are read by the same chunks.

use std::path::Path;
use std::sync::mpsc::sync_channel;

use ndarray::Array3;

use super::datatype::VoxelSink;
use super::header::NiftiHeader;
use super::label_names;
use super::names::ENDINGS;
use super::read_header::{header_from, promise, truncated};
use crate::formats::{LabelNames, Source};
use crate::labels::run_length_labels::{LabelRuns, RunBuilder};
use crate::space::{LabelMap, Volume};
use ctseg_base::Result;
use ctseg_base::limits::spawn::spawn_scoped;

/// Bytes converted at a time; a multiple of every voxel size.
const CHUNK_BYTES: usize = 1 << 20;

/// Chunks that are inflated ahead of the conversion.
const CHUNKS_AHEAD: usize = 3;

/// How far a scaled value may lie from a whole number and still be a label.
const LABEL_TOLERANCE: f64 = 1e-3;

/// An image with everything its file says about it.
#[derive(Debug, Clone)]
pub struct NiftiImage {
    pub header: NiftiHeader,
    pub volume: Volume,
    /// Voxels that are NaN or infinite as `f32`; they stay in `volume` and are a warning in `header`.
    pub non_finite: usize,
}

/// Reads and checks a header; a plain file's length is checked against it too.
///
/// The voxels are not read: a gzip file that is damaged further on is found by [`read_volume`]. Errors
/// are those of [`read_volume`] otherwise.
pub fn read_header(path: &Path) -> Result<NiftiHeader> {
    header_from(&mut Source::open(path, &ENDINGS)?)
}

/// Reads an image of one volume as `f32`, scaled by slope and intercept; shape (z, y, x), x fastest.
///
/// Values and affine are those of nibabel's `get_fdata()` and `affine`. Fails with one line on anything
/// that is not a whole NIfTI image of one volume of integers or reals: other formats, damaged headers,
/// missing or surplus bytes, corrupt gzip, singular affines, shapes that memory cannot hold.
pub fn read_volume(path: &Path) -> Result<NiftiImage> {
    volume_from(Source::open(path, &ENDINGS)?)
}

/// Reads a label map; shape (z, y, x), x fastest.
///
/// Values must be whole numbers from 0 to 65535, to within 0.001 after scaling; the error names the first
/// that is not, and its voxel. Otherwise fails as [`read_volume`].
pub fn read_labels(path: &Path) -> Result<(NiftiHeader, LabelMap)> {
    labels_from(Source::open(path, &ENDINGS)?)
}

/// Reads a label map as [`read_labels`], but keeps its runs alone: memory does not grow with the volume.
pub fn read_label_runs(path: &Path) -> Result<(NiftiHeader, LabelRuns)> {
    label_runs_from(Source::open(path, &ENDINGS)?)
}

/// The names that a label map holds for its labels (see [`super::write_named_labels`]); none of most files.
///
/// A table that is damaged counts as none; otherwise fails as [`read_header`].
pub fn read_label_names(path: &Path) -> Result<LabelNames> {
    label_names_from(Source::open(path, &ENDINGS)?)
}

/// [`read_volume`] from anywhere. Where the length is unknown, memory grows as voxels come.
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

/// [`read_labels`] from anywhere.
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

/// [`read_label_runs`] from anywhere.
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

/// [`read_label_names`] from anywhere.
pub(super) fn label_names_from(mut source: Source) -> Result<LabelNames> {
    let header = header_from(&mut source)?;
    let bytes = (header.data_offset - source.position()).min(label_names::MOST_BYTES);
    let mut between = vec![0; bytes as usize];
    let found = source
        .fill(&mut between)
        .map_err(|problem| source.problem(problem))?;
    Ok(label_names::names_in(&between[..found], header.raw.order()))
}

/// Room for all voxels, at most four times what the file's length has shown to be possible.
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
                promise(header)
            )
        })
}

/// Reads from just behind the header to the very end. Of large gzip data a thread of its own converts one chunk while
/// the next ones are inflated. What is worth a warning of the end is given back.
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

/// None, with nothing read, where no thread can be started.
fn read_on_two_threads(
    source: &mut Source,
    header: &NiftiHeader,
    convert: &mut (impl FnMut(&[u8]) + Send),
) -> Option<std::result::Result<Option<String>, String>> {
    std::thread::scope(|scope| {
        let (to_convert, inflated) = sync_channel::<Vec<u8>>(CHUNKS_AHEAD);
        let (give_back, converted) = sync_channel::<Vec<u8>>(CHUNKS_AHEAD + 1);
        for _ in 0..CHUNKS_AHEAD {
            // There is room for all of them.
            let _ = give_back.send(Vec::new());
        }
        let converts = move || {
            for chunk in inflated {
                convert(&chunk);
                let _ = give_back.send(chunk);
            }
        };
        let converter = spawn_scoped(scope, "convert", converts).ok()?;
        // The reader stays on this thread, so that it need not be `Send`.
        let read = read_chunks(source, header, |chunk| {
            // Neither fails unless the conversion has ended early, and then nobody waits for the rest.
            let _ = to_convert.send(chunk);
            converted.recv().unwrap_or_default()
        });
        drop(to_convert);
        Some(match converter.join() {
            Ok(()) => read,
            Err(_) => Err("the thread that converts it ended early".to_owned()),
        })
    })
}

/// Hands all voxels' bytes to `take`, which gives back a chunk to fill next; then makes sure that the file ends
/// with them, so that checksums and surplus bytes are seen too.
fn read_chunks(
    source: &mut Source,
    header: &NiftiHeader,
    mut take: impl FnMut(Vec<u8>) -> Vec<u8>,
) -> std::result::Result<Option<String>, String> {
    let expected = header.data_offset + header.data_bytes();
    let read = |source: &mut Source, chunk: &mut [u8]| match source.fill(chunk) {
        Ok(bytes) if bytes < chunk.len() => {
            let problem = truncated(source.position(), expected, "exactly");
            Err(format!("{problem} ({})", promise(header)))
        }
        Ok(_) => Ok(()),
        Err(problem) => Err(format!(
            "{problem} ({expected} bytes expected for {})",
            promise(header)
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
            promise(header)
        )
    })
}

fn array<T>(source: &Source, header: &NiftiHeader, voxels: Vec<T>) -> Result<Array3<T>> {
    Array3::from_shape_vec(header.grid().shape_zyx(), voxels)
        .map_err(|error| source.problem(format!("voxels do not fill the grid: {error}")))
}

/// Values as they become voxels of a volume.
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
    /// Voxels of pieces before these.
    before: usize,
    shape: [usize; 3],
    /// The first value that is no label. Reading goes on: if the file is damaged, that is the cause.
    problem: Option<String>,
}

impl VoxelSink for Labels {
    fn take(&mut self, values: impl ExactSizeIterator<Item = f64> + Clone) {
        if self.problem.is_some() {
            return;
        }
        // `as` saturates, so that what is no label is far from what it became.
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
                "holds {value} at voxel {voxel:?} (x, y, z); expected labels, whole numbers from 0 to \
                 65535; is this an image instead of a label map?"
            ));
        }
    }
}

/// Labels piece by piece, each kept no longer than its runs take to be found.
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
