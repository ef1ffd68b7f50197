//! Distances between the two masks. Undefined if one of them is empty; the surface Dice is 0 then.

use super::kind::{Better, Masks, Metric};

pub const SURFACE_DICE: Metric = Metric::new("surface_dice", Better::Higher, |pair| {
    let masks = pair.masks.as_ref()?;
    masks.surfaces.surface_dice(masks.tolerance_mm)
});

pub const HD95_MM: Metric = Metric::new("hd95_mm", Better::Lower, |pair| {
    pair.masks.as_ref()?.surfaces.robust_hausdorff_mm(95.0)
});

pub const ASSD_MM: Metric = Metric::new("assd_mm", Better::Lower, |pair| {
    pair.masks.as_ref()?.surfaces.average_mm()
});

pub const HAUSDORFF_MM: Metric = Metric::new("hausdorff_mm", Better::Lower, |pair| {
    pair.masks.as_ref()?.surfaces.hausdorff_mm()
});

pub const CENTROID_DISTANCE_MM: Metric =
    Metric::new("centroid_distance_mm", Better::Lower, |pair| {
        centroid_distance_mm(pair.masks.as_ref()?)
    });

fn centroid_distance_mm(masks: &Masks) -> Option<f64> {
    let [prediction, reference] = &masks.extents;
    let (a, b) = (
        prediction.centroid_mm(masks.grid)?,
        reference.centroid_mm(masks.grid)?,
    );
    let squares = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b));
    Some(squares.sum::<f64>().sqrt())
}
