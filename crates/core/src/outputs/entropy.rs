//! Voxel-wise uncertainty of a prediction: `<case>_entropy.nii.gz`, written slab by slab.

use std::path::{Path, PathBuf};

use ndarray::{Array3, ArrayView3, Zip};

use super::streamed_map::MapFile;
use crate::inference::export_logits::ProbabilitySink;
use ctseg_base::{Error, Result};
use ctseg_engine::losses::Outputs;
use ctseg_image::formats::{VolumeHeader, case_file};
use ctseg_image::nifti::{NiftiHeader, write_map};
use ctseg_image::space::{Grid, VoxelBox};

/// The byte that encodes the largest entropy.
const STEPS: f64 = 255.0;

/// Smaller probabilities are ignored: they add less than 3e-7 bits.
const NEGLIGIBLE: f32 = 1e-8;

/// A map of Shannon entropy in bits, being written: of the probabilities behind the label map, whose logits are
/// averaged over folds, models and test-time augmentation.
///
/// For exclusive classes it is the entropy of all structures and the background, −Σ p log₂ p, from 0 to
/// log₂(structures + 1). For independent structures it is the largest entropy of any structure, −p log₂ p − (1 − p)
/// log₂(1 − p), from 0 to 1; a mean would hide one uncertain structure among many certain ones. In both cases 1 bit
/// is a coin toss. Outside the region of interest it is 0.
pub struct EntropyFile {
    file: MapFile,
    structures: usize,
    outputs: Outputs,
    /// The region whose structures have not all arrived.
    pending: Option<PendingRegion>,
}

/// A region with arrays (z, y, x).
struct PendingRegion {
    region: VoxelBox,
    /// For exclusive classes: the bits of the structures so far. For independent ones: the largest min(p, 1 − p), of
    /// which the entropy is an increasing function.
    so_far: Array3<f32>,
    /// For exclusive classes: the probability of the background.
    rest: Option<Array3<f32>>,
}

impl EntropyFile {
    /// The file of the case whose label map is `output`.
    pub fn path(output: &Path) -> PathBuf {
        case_file(output, "_entropy.nii.gz")
    }

    /// Creates the file beside the label map `output`, for a model with `structures` structures, on `grid`.
    pub fn create(output: &Path, structures: usize, outputs: Outputs, grid: &Grid) -> Result<Self> {
        Ok(Self {
            file: MapFile::create(Self::path(output), &[], 1, 1, grid)?,
            structures,
            outputs,
            pending: None,
        })
    }

    /// Moves the file to its final name; `source` is the header of the volume. One step of a byte is 1/255 of the
    /// largest possible entropy, which is the header's slope.
    pub fn finish(self, source: &VolumeHeader) -> Result<PathBuf> {
        let path = self.file.path().to_path_buf();
        let step = max_bits(self.structures, self.outputs) / STEPS;
        write_map(&path, &*NiftiHeader::of(source)?, step, self.file.reader()?)?;
        Ok(path)
    }

    /// Writes a region whose structures have all arrived.
    fn write(&self, done: PendingRegion) -> Result<()> {
        let mut bits = done.so_far;
        match &done.rest {
            Some(rest) => Zip::from(&mut bits)
                .and(rest)
                .par_for_each(|bits, rest| *bits += surprise(*rest)),
            None => bits.par_mapv_inplace(|p| surprise(p) + surprise(1.0 - p)),
        }
        let scale = (STEPS / max_bits(self.structures, self.outputs)) as f32;
        self.file.put(0, &done.region, bits.view(), |values| {
            values.map(|bits| (bits * scale).round() as u8).collect()
        })
    }
}

/// The largest possible entropy, in bits.
fn max_bits(structures: usize, outputs: Outputs) -> f64 {
    match outputs {
        Outputs::Exclusive => (structures as f64 + 1.0).log2(),
        Outputs::Independent => 1.0,
    }
}

/// Contribution of a probability to the entropy, in bits.
fn surprise(p: f32) -> f32 {
    if p <= NEGLIGIBLE {
        return 0.0;
    }
    (-p * p.log2()).max(0.0)
}

impl ProbabilitySink for EntropyFile {
    fn put(&mut self, structure: usize, region: &VoxelBox, values: ArrayView3<f32>) -> Result<()> {
        if structure == 0 {
            let exclusive = self.outputs == Outputs::Exclusive;
            self.pending = Some(PendingRegion {
                region: *region,
                so_far: Array3::zeros(values.raw_dim()),
                rest: exclusive.then(|| Array3::ones(values.raw_dim())),
            });
        }
        let Some(mut own) = self.pending.take().filter(|own| own.region == *region) else {
            return Err(Error::internal(
                "structures of a region that arrive out of order",
            ));
        };
        match &mut own.rest {
            Some(rest) => Zip::from(&mut own.so_far)
                .and(rest)
                .and(values)
                .par_for_each(|bits, rest, p| {
                    *bits += surprise(*p);
                    *rest -= p;
                }),
            None => Zip::from(&mut own.so_far)
                .and(values)
                .par_for_each(|so_far, p| *so_far = so_far.max(p.min(1.0 - p))),
        }
        if structure + 1 == self.structures {
            return self.write(own);
        }
        self.pending = Some(own);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use ctseg_image::formats::{VoxelType, read_volume};

    /// Entropies of five voxels, read from the file; the last voxel is never written.
    fn written(outputs: Outputs, probabilities: &[[f32; 4]]) -> Vec<f32> {
        let folder = tempfile::tempdir().unwrap();
        let grid = Grid::with_spacing([5, 1, 1], [1.0, 2.0, 3.0]);
        let output = folder.path().join("case.nii");
        let mut file = EntropyFile::create(&output, probabilities.len(), outputs, &grid).unwrap();
        // Two regions, one after the other.
        for (start, end) in [(0, 1), (1, 4)] {
            let mut region = VoxelBox::whole(grid.shape);
            (region.start[0], region.end[0]) = (start, end);
            for (structure, own) in probabilities.iter().enumerate() {
                let values = Array3::from_shape_vec((1, 1, end - start), own[start..end].to_vec());
                file.put(structure, &region, values.unwrap().view())
                    .unwrap();
            }
        }
        let path = file
            .finish(&VolumeHeader::new(grid, VoxelType::I16))
            .unwrap();
        assert_eq!(path, folder.path().join("case_entropy.nii.gz"));
        let image = read_volume(&path).unwrap();
        assert_eq!(image.header.voxel_type.name(), "uint8");
        assert_eq!(image.volume.grid, grid);
        image.volume.data.iter().copied().collect()
    }

    fn assert_close(found: &[f32], expected: [f64; 5], step: f64) {
        for (found, expected) in found.iter().zip(expected) {
            let apart = (f64::from(*found) - expected).abs();
            assert!(
                apart <= 0.501 * step,
                "{found} instead of {expected}, step {step}"
            );
        }
    }

    #[test]
    fn entropies_of_exclusive_classes_match_hand_calculation() {
        let third = 1.0 / 3.0;
        let found = written(
            Outputs::Exclusive,
            &[[third, 1.0, 0.5, 0.25], [third, 0.0, 0.5, 0.25]],
        );
        // log2(3), certainty, two of three, 1/4 1/4 1/2.
        let expected = [3f64.log2(), 0.0, 1.0, 1.5, 0.0];
        assert_close(&found, expected, 3f64.log2() / 255.0);
    }

    #[test]
    fn the_least_certain_independent_structure_counts() {
        let found = written(
            Outputs::Independent,
            &[[0.5, 1.0, 0.9, 0.0], [1.0, 0.0, 0.75, 0.001]],
        );
        let binary = |p: f64| -p * p.log2() - (1.0 - p) * (1.0 - p).log2();
        let expected = [1.0, 0.0, binary(0.75), binary(0.001), 0.0];
        assert_close(&found, expected, 1.0 / 255.0);
    }

    #[test]
    fn structures_out_of_order_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let grid = Grid::with_spacing([1, 1, 1], [1.0; 3]);
        let output = folder.path().join("case.nii.gz");
        let mut file = EntropyFile::create(&output, 2, Outputs::Exclusive, &grid).unwrap();
        let region = VoxelBox::whole(grid.shape);
        let error = file.put(1, &region, array![[[0.5]]].view()).unwrap_err();
        assert!(error.to_string().contains("internal"), "{error}");
    }
}
