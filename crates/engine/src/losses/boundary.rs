//! Boundary loss.

use burn::tensor::Tensor;

use super::batch_view::BatchView;

/// The mean over voxels and structures of `p · φ`, φ the signed distance to the structure's surface in mm, negative
/// inside: Kervadec et al., "Boundary loss for highly unbalanced segmentation", MIDL 2019. It is minimal if nothing
/// far outside and everything deep inside is predicted.
///
/// # Shapes
/// - `distances`: (batch, structure, z, y, x)
pub(super) fn boundary(view: &BatchView, distances: Tensor<5>) -> Tensor<1> {
    view.masked_mean(view.probabilities() * distances)
}
