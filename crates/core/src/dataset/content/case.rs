//! The content of one case.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use ctseg_image::space::{LabelMap, Volume};

/// Voxels hashed at a time.
const CHUNK: usize = 1 << 14;

/// The content of a case, independent of file names and compression.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseContent {
    /// The case's id.
    pub case: String,
    /// Voxels along x, y, z, as stored.
    pub shape: [usize; 3],
    /// See [`image_sha256`].
    pub image_sha256: String,
    /// SHA-256 of the label map's shape and values on the image's grid, masks merged; none for a case without labels.
    pub labels_sha256: Option<String>,
    /// Label values of the structures with at least one voxel.
    pub structures: BTreeSet<u16>,
}

/// SHA-256, in hex, over an image's shape, affine (mm) and decoded voxels, in file order. File name, compression
/// and voxel type do not change it if the values are the same. If the dataset's
/// [`Reading`](crate::dataset::Reading) rescales to Hounsfield units, the rescaled values are hashed.
pub fn image_sha256(image: &Volume) -> String {
    let mut hasher = of_shape(image.grid.shape);
    for value in image.grid.affine.as_flattened() {
        hasher.update((value + 0.0).to_le_bytes()); // −0 is 0
    }
    let bytes = |value: f32| match value.is_nan() {
        true => f32::NAN.to_le_bytes(),
        false => (value + 0.0).to_le_bytes(),
    };
    finished(hasher, image.data.iter().copied(), bytes)
}

/// SHA-256, in hex, over a label map's shape and values, in file order; its affine is that of the image.
pub(in crate::dataset) fn labels_sha256(labels: &LabelMap) -> String {
    let hasher = of_shape(labels.grid.shape);
    finished(hasher, labels.data.iter().copied(), u16::to_le_bytes)
}

fn of_shape(shape: [usize; 3]) -> Sha256 {
    let mut hasher = Sha256::new();
    for side in shape {
        hasher.update((side as u64).to_le_bytes());
    }
    hasher
}

/// The hash after all `values`, hashed in chunks.
fn finished<T, const N: usize>(
    mut hasher: Sha256,
    values: impl Iterator<Item = T>,
    bytes: impl Fn(T) -> [u8; N],
) -> String {
    let mut chunk = Vec::with_capacity(CHUNK * N);
    for value in values {
        chunk.extend_from_slice(&bytes(value));
        if chunk.len() >= CHUNK * N {
            hasher.update(&chunk);
            chunk.clear();
        }
    }
    hasher.update(&chunk);
    format!("{:x}", hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctseg_image::space::Grid;
    use ndarray::Array3;

    fn image(values: [f32; 4]) -> Volume {
        let grid = Grid::with_spacing([2, 2, 1], [1.0, 1.0, 2.0]);
        let data = Array3::from_shape_vec((1, 2, 2), values.to_vec()).unwrap();
        Volume { grid, data }
    }

    #[test]
    fn the_hash_covers_voxels_shape_and_affine() {
        let values = [0.0, -1000.0, 40.5, f32::NAN];
        let expected = image_sha256(&image(values));
        assert_eq!(expected.len(), 64);
        // Zeros of either sign hash alike, and so do all NaNs.
        let alike = [-0.0, -1000.0, 40.5, f32::from_bits(0xffc0_0001)];
        assert_eq!(image_sha256(&image(alike)), expected);
        let mut others = vec![image([0.0, -1000.0, 40.0, f32::NAN])];
        let mut moved = image(values);
        moved.grid.affine[2][3] = 1e-4;
        others.push(moved);
        let mut turned = image(values);
        turned.grid.shape = [4, 1, 1];
        turned.data = turned.data.into_shape_with_order((1, 1, 4)).unwrap();
        others.push(turned);
        for other in &others {
            assert_ne!(image_sha256(other), expected, "{other:?}");
        }
    }

    #[test]
    fn chunks_hash_as_the_whole() {
        let side = 2 * CHUNK + 3;
        let grid = Grid::with_spacing([side, 1, 1], [1.0; 3]);
        let mut labels = LabelMap::empty(grid);
        let empty = labels_sha256(&labels);
        labels.data[[0, 0, side - 1]] = 3;
        let mut bytes = Vec::new();
        for side in [side as u64, 1, 1] {
            bytes.extend(side.to_le_bytes());
        }
        bytes.extend(labels.data.iter().flat_map(|label| label.to_le_bytes()));
        assert_eq!(
            labels_sha256(&labels),
            format!("{:x}", Sha256::digest(&bytes))
        );
        assert_ne!(labels_sha256(&labels), empty);
    }
}
