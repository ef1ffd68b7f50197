//! The losses that a recipe can name, all on logits and independent structures (sigmoid). A new one is a
//! file here and one arm in the match below.

mod bce;
mod dice;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// What training minimises, as named by `loss` in a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Binary cross-entropy.
    Bce,
    /// Soft Dice loss.
    Dice,
    /// The sum of both.
    #[default]
    BceDice,
}

impl Loss {
    /// The loss of one batch, a tensor with one element.
    ///
    /// # Shapes
    /// - `logits`, `targets`: (batch, structure, z, y, x); targets are 0 or 1
    pub fn compute(self, logits: Tensor<5>, targets: Tensor<5>) -> Tensor<1> {
        match self {
            Self::Bce => bce::binary_cross_entropy(logits, targets),
            Self::Dice => dice::soft_dice(logits, targets),
            Self::BceDice => {
                bce::binary_cross_entropy(logits.clone(), targets.clone())
                    + dice::soft_dice(logits, targets)
            }
        }
    }

    /// The recipe's name, as it stands in run names (`unet2d_bce-dice_adam_256`).
    pub fn name(self) -> &'static str {
        match self {
            Self::Bce => "bce",
            Self::Dice => "dice",
            Self::BceDice => "bce-dice",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    // Golden values: PyTorch 2.11,
    //   x = torch.tensor([2., -1., .5, -3., 0., 4., -.2, 1.]).reshape(2, 2, 1, 1, 2)
    //   t = torch.tensor([1., 0., 1., 0., 0., 1., 1., 0.]).reshape(2, 2, 1, 1, 2)
    //   bce  = F.binary_cross_entropy_with_logits(x, t)                      # 0.4731940
    //   p = x.sigmoid(); s = lambda v: v.sum((0, 2, 3, 4))
    //   dice = 1 - ((2 * s(p * t) + 1) / (s(p) + s(t) + 1)).mean()           # 0.2562699
    fn batch() -> (Tensor<5>, Tensor<5>) {
        let device = crate::tensors::device::DeviceChoice::Auto
            .device()
            .unwrap_or_else(|_| Device::default());
        let x = Tensor::<1>::from_floats([2.0, -1.0, 0.5, -3.0, 0.0, 4.0, -0.2, 1.0], &device);
        let t = Tensor::<1>::from_floats([1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0], &device);
        (x.reshape([2, 2, 1, 1, 2]), t.reshape([2, 2, 1, 1, 2]))
    }

    fn value(loss: Loss) -> f32 {
        let (logits, targets) = batch();
        loss.compute(logits, targets).into_scalar::<f32>()
    }

    #[test]
    fn losses_equal_pytorch() {
        assert!(
            (value(Loss::Bce) - 0.473_194).abs() < 1e-6,
            "{}",
            value(Loss::Bce)
        );
        assert!(
            (value(Loss::Dice) - 0.256_269_9).abs() < 1e-6,
            "{}",
            value(Loss::Dice)
        );
        assert!((value(Loss::BceDice) - value(Loss::Bce) - value(Loss::Dice)).abs() < 1e-6);
    }

    #[test]
    fn large_logits_stay_finite() {
        let (logits, targets) = batch();
        let loss = Loss::BceDice.compute(logits * 1e4, targets);
        assert!(loss.into_scalar::<f32>().is_finite());
    }
}
