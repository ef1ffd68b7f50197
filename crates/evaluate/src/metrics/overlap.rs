//! Overlap of the two masks.

use super::kind::{Better, Metric};

pub const DICE: Metric = Metric::new("dice", Better::Higher, |pair| pair.overlap.dice());

pub const IOU: Metric = Metric::new("iou", Better::Higher, |pair| pair.overlap.iou());

pub const PRECISION: Metric =
    Metric::new("precision", Better::Higher, |pair| pair.overlap.precision());

pub const RECALL: Metric = Metric::new("recall", Better::Higher, |pair| pair.overlap.recall());

pub const SPECIFICITY: Metric = Metric::new("specificity", Better::Higher, |pair| {
    pair.overlap.specificity()
});

pub const ACCURACY: Metric =
    Metric::new("accuracy", Better::Higher, |pair| pair.overlap.accuracy());
