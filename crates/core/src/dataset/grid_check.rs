//! Whether a label map lies on its image's grid.

use ctseg_image::space::Grid;

/// Image and label map must put every voxel at the same place to within this many mm.
pub const GRID_TOLERANCE_MM: f64 = 1e-3;

/// In words, how a label map's grid differs from its image's; `None` if they are one grid.
pub fn grid_difference(labels: &Grid, image: &Grid) -> Option<String> {
    if labels.same_as(image, GRID_TOLERANCE_MM) {
        return None;
    }
    let what = if labels.shape != image.shape {
        "shape".to_owned()
    } else {
        format!(
            "position, by up to {:.3} mm,",
            labels.largest_shift_mm(image)
        )
    };
    Some(format!(
        "the labels differ in {what} from their image: labels {}; image {}; resample the labels onto \
         the image, or correct the header that is wrong",
        grid_in_words(labels),
        grid_in_words(image)
    ))
}

/// Shape and affine for a reader: `128×128×64 voxels of 1×1×2.5 mm, RAS, first voxel at (0, 0, 0) mm`.
fn grid_in_words(grid: &Grid) -> String {
    let join = |values: [f64; 3], by: &str| values.map(|v| rounded(v, 1e4).to_string()).join(by);
    let mut words = format!(
        "{} voxels of {} mm, {}, first voxel at ({}) mm",
        grid.shape.map(|v| v.to_string()).join("×"),
        join(grid.spacing_mm(), "×"),
        grid.orientation(),
        join(grid.world_mm([0.0; 3]), ", ")
    );
    // Rounding of float32 headers is not worth a word; a tilt is.
    let (spacing, orientation) = (grid.spacing_mm(), grid.orientation());
    let tilted = (0..3).any(|axis| {
        let along = grid.affine[orientation.axes[axis]][axis].abs();
        (spacing[axis] - along) > 1e-6 * spacing[axis]
    });
    if tilted {
        let rows = grid.affine.map(|row| {
            let row = row.map(|v| rounded(v, 1e5).to_string());
            format!("[{}]", row.join(" "))
        });
        words += &format!(", affine {}", rows.join(" "));
    }
    words
}

fn rounded(value: f64, steps: f64) -> f64 {
    // Adding zero turns -0 into 0.
    (value * steps).round() / steps + 0.0
}
