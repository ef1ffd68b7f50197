//! The reliability diagram of an evaluation, `calibration.png`: observed frequency by predicted probability.

use std::path::Path;

use crate::pictures::chart::{COLOURS, Chart, Curve, Stroke};
use ctseg_base::Result;
use ctseg_evaluate::calibration::{Calibration, PNG_NAME};
use ctseg_image::metrics::calibration::{Bin, Reliability};

/// Draws the curves for voxels near the structures: for all structures together and for each.
///
/// # Errors
/// The file cannot be written.
pub fn draw(calibration: &Calibration, folder: &Path) -> Result<()> {
    chart(calibration).write_png(&folder.join(PNG_NAME))
}

fn chart(calibration: &Calibration) -> Chart {
    let error = calibration.mean_near(Reliability::expected_calibration_error);
    let ece = error.map_or(String::new(), |error| format!(" (ECE {error:.4})"));
    let mut curves = vec![
        Curve {
            name: "perfectly calibrated".to_owned(),
            points: vec![(0.0, 0.0), (1.0, 1.0)],
            colour: COLOURS - 1,
            stroke: Stroke::Dashes,
        },
        Curve {
            name: "all structures".to_owned(),
            points: points(&calibration.of_all().near),
            colour: 0,
            stroke: Stroke::Line,
        },
    ];
    let structures = calibration.structures.iter().enumerate();
    curves.extend(structures.map(|(index, structure)| Curve {
        name: structure.name.clone(),
        points: points(&calibration.of_structure(index).near),
        // The first and last colours are used above.
        colour: 1 + index % (COLOURS - 2),
        stroke: Stroke::Dots,
    }));
    Chart {
        title: format!("Reliability near the structures{ece}"),
        x_label: "mean predicted probability".to_owned(),
        y_label: "fraction inside the reference".to_owned(),
        y_range: Some((0.0, 1.0)),
        curves,
    }
}

/// A point for each non-empty bin.
fn points(curve: &Reliability) -> Vec<(f64, f64)> {
    let point = |bin: &Bin| Some((bin.mean_probability()?, bin.observed_share()?));
    curve.bins().iter().filter_map(point).collect()
}
