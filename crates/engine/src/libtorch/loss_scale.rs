//! The factor of a loss whose gradients are computed in f16, whose smallest number is 6·10⁻⁸
//! (Micikevicius et al., "Mixed Precision Training", ICLR 2018; the numbers of PyTorch's `GradScaler`).

const FIRST: f64 = 65536.0;
const STEPS_TO_DOUBLE: u32 = 2000;

/// Halved by every step whose gradient is not finite, doubled by many good ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LossScale {
    pub factor: f64,
    good_steps: u32,
    fixed: bool,
}

impl LossScale {
    /// For types that need none.
    pub fn none() -> Self {
        Self {
            factor: 1.0,
            good_steps: 0,
            fixed: true,
        }
    }

    /// Goes on from what [`LossScale::state`] gave, or starts anew.
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

    /// What a checkpoint must keep; none where there is nothing to scale.
    pub fn state(&self) -> Option<Vec<f32>> {
        (!self.fixed).then(|| vec![self.factor as f32, self.good_steps as f32])
    }

    /// Takes in how a step went.
    pub fn observe(&mut self, finite: bool) {
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
        scale.observe(false);
        assert_eq!(scale.factor, FIRST / 2.0);
        for _ in 0..STEPS_TO_DOUBLE - 1 {
            scale.observe(true);
        }
        assert_eq!(scale.factor, FIRST / 2.0);
        scale.observe(true);
        assert_eq!(scale.factor, FIRST);
        assert_eq!(LossScale::restored(scale.state().as_deref()), scale);
        let mut least = LossScale::restored(Some(&[1.0, 0.0]));
        least.observe(false);
        assert_eq!(least.factor, 1.0);
        let mut none = LossScale::none();
        none.observe(false);
        assert_eq!(none.factor, 1.0);
    }
}
