//! Loss scaling for gradients in f16, whose smallest number is 6·10⁻⁸ (Micikevicius et al., "Mixed Precision
//! Training", ICLR 2018; constants of PyTorch's `GradScaler`).

const FIRST: f64 = 65536.0;
const STEPS_TO_DOUBLE: u32 = 2000;

/// Halved after a step whose gradient is not finite, doubled after many good steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LossScale {
    pub factor: f64,
    good_steps: u32,
    fixed: bool,
}

impl LossScale {
    /// For precisions without loss scaling.
    pub fn none() -> Self {
        Self {
            factor: 1.0,
            good_steps: 0,
            fixed: true,
        }
    }

    /// Resumes from [`LossScale::state`], or starts with the default.
    pub fn restored(saved: Option<&[f32]>) -> Self {
        let (factor, good_steps) = match saved {
            Some([factor, good_steps]) => (f64::from(*factor), *good_steps as u32),
            _ => (FIRST, 0),
        };
        Self {
            factor,
            good_steps,
            fixed: false,
        }
    }

    /// The state for checkpoints; `None` without loss scaling.
    pub fn state(&self) -> Option<Vec<f32>> {
        (!self.fixed).then(|| vec![self.factor as f32, self.good_steps as f32])
    }

    /// Updates the scale after a step.
    pub fn update(&mut self, finite: bool) {
        if self.fixed {
            return;
        }
        self.good_steps = if finite { self.good_steps + 1 } else { 0 };
        if !finite {
            self.factor = (self.factor / 2.0).max(1.0);
        } else if self.good_steps >= STEPS_TO_DOUBLE {
            self.factor *= 2.0;
            self.good_steps = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_at_once_and_doubles_slowly() {
        let mut scale = LossScale::restored(None);
        scale.update(false);
        assert_eq!(scale.factor, FIRST / 2.0);
        for _ in 0..STEPS_TO_DOUBLE - 1 {
            scale.update(true);
        }
        assert_eq!(scale.factor, FIRST / 2.0);
        scale.update(true);
        assert_eq!(scale.factor, FIRST);
        assert_eq!(LossScale::restored(scale.state().as_deref()), scale);
        let mut least = LossScale::restored(Some(&[1.0, 0.0]));
        least.update(false);
        assert_eq!(least.factor, 1.0);
        let mut none = LossScale::none();
        none.update(false);
        assert_eq!(none.factor, 1.0);
    }
}
