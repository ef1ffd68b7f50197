//! Output of `ctseg inspect` shared by all images.

use std::path::Path;

use ctseg_base::text::printable::Shown;
use ctseg_image::formats::VolumeHeader;
use ctseg_image::nifti::NiftiHeader;

/// The header as lines; `channels` is appended to the shape.
pub(super) fn header_text(path: &Path, header: &VolumeHeader, channels: &str) -> String {
    let (grid, spacing) = (header.grid, header.grid.spacing_mm());
    let nifti = header.native::<NiftiHeader>();
    let codes = nifti.map_or_else(String::new, |nifti| {
        let (qform, sform) = (nifti.qform_code(), nifti.sform_code());
        format!(", qform code {qform}, sform code {sform}")
    });
    let mut text = format!(
        "{}\n  shape        {:?} voxels (x, y, z){channels}\n  spacing      {:.4} × {:.4} × {:.4} mm\n  orientation  {}\n  voxels       {}{codes}\n",
        path.shown(),
        grid.shape,
        spacing[0],
        spacing[1],
        spacing[2],
        grid.orientation(),
        header.voxel_type.name(),
    );
    for row in grid.affine {
        text += &format!(
            "  affine       {:>12.5} {:>12.5} {:>12.5} {:>12.4}\n",
            row[0], row[1], row[2], row[3]
        );
    }
    for warning in &header.warnings {
        text += &format!("  warning      {}\n", warning.shown());
    }
    text
}

/// Counts below, between and above edges chosen for the tissues of CT.
pub(super) fn histogram(values: impl Iterator<Item = f32>) -> (Vec<f32>, Vec<u64>) {
    let edges = vec![
        -1000.0, -900.0, -700.0, -300.0, -150.0, -50.0, 0.0, 50.0, 100.0, 200.0, 400.0, 1000.0,
        2000.0,
    ];
    let mut counts = vec![0; edges.len() + 1];
    for value in values.filter(|value| value.is_finite()) {
        counts[edges.partition_point(|edge| *edge <= value)] += 1;
    }
    (edges, counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finite_value_is_counted_once() {
        let (edges, counts) =
            histogram([-2000.0, -1000.0, 0.0, 49.9, 2000.0, 5000.0, f32::NAN].into_iter());
        assert_eq!(counts.iter().sum::<u64>(), 6);
        assert_eq!((counts[0], counts[edges.len()]), (1, 2));
        assert_eq!(counts[edges.iter().position(|e| *e == 0.0).unwrap() + 1], 2);
    }
}
