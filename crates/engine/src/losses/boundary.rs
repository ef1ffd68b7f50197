//! Boundary loss.

use burn::tensor::Tensor;

use super::batch_view::Seen;

/// The mean over voxels and structures of `p · φ`, φ the signed distance to the structure's surface in mm,
/// negative inside: Kervadec et al., "Boundary loss for highly unbalanced segmentation", MIDL 2019. It is
/// least where nothing far outside is predicted and everything deep inside.
///
/// # Shapes
/// - `distances`: (batch, structure, z, y, x)
pub(super) fn boundary(seen: &Seen, distances: Tensor<5>) -> Tensor<1> {
    seen.mean_of_counted(seen.probabilities() * distances)
}
