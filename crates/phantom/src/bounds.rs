//! Bounding boxes of shapes.

use crate::vectors::{Point, minus, plus};

/// A bounding box of a shape; infinite along axes where the shape is unbounded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub low: Point,
    pub high: Point,
}

impl Bounds {
    /// Grown by `by_mm` on every side.
    pub fn grown(self, by_mm: f64) -> Self {
        Self {
            low: self.low.map(|v| v - by_mm),
            high: self.high.map(|v| v + by_mm),
        }
    }

    /// Whether `p` is inside.
    pub fn contains(&self, p: Point) -> bool {
        (0..3).all(|i| p[i] >= self.low[i] && p[i] <= self.high[i])
    }

    /// Whether the two boxes intersect.
    pub fn intersects(&self, other: &Self) -> bool {
        (0..3).all(|i| self.low[i] <= other.high[i] && other.low[i] <= self.high[i])
    }
}

/// The box with this centre and half size.
pub(super) fn around(centre: Point, half: Point) -> Bounds {
    Bounds {
        low: minus(centre, half),
        high: plus(centre, half),
    }
}
