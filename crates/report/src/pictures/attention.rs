//! Attention maps: one picture per gate, overlaid on CT.

use std::path::Path;

use ndarray::{ArrayView2, ArrayView3, Axis};

use super::{Colour, Picture};
use ctseg_base::Result;
use ctseg_core::inference::attention::Attention;
use ctseg_image::formats::case_file;

/// Minimum width of a slice in pixels.
const WIDTH: f64 = 320.0;

const GAP: usize = 8;
const HEADER: usize = 20;

/// Opacity of the map's colour at an attention of 1.
const MAX_OPACITY: f32 = 0.6;

/// Writes `<case>_attention_<level>.png` for every gate (0 = finest) beside the label map at `output`.
pub fn draw(output: &Path, attention: &Attention) -> Result<()> {
    for (level, map) in attention.maps.axis_iter(Axis(0)).enumerate() {
        let path = case_file(output, &format!("_attention_{level}.png"));
        picture(attention, map, level).write_png(&path)?;
    }
    Ok(())
}

/// The central axial and coronal slices side by side in radiological convention: the patient's right on the left, front
/// and head on top.
fn picture(attention: &Attention, map: ArrayView3<f32>, level: usize) -> Picture {
    let [x_mm, y_mm, z_mm] = attention.spacing_mm;
    let image = attention.image.view();
    let (depth, height, _) = image.dim();
    let slice = |axis: usize, at: usize, rows_mm: f64| {
        let (image, map) = (
            image.index_axis(Axis(axis), at),
            map.index_axis(Axis(axis), at),
        );
        overlaid(image, map, [rows_mm, x_mm])
    };
    let axial = slice(0, depth / 2, y_mm);
    let coronal = slice(1, height / 2, z_mm);
    let (least, most) = extremes(map);
    let mut whole = Picture::filled(
        axial.width() + GAP + coronal.width(),
        HEADER + axial.height().max(coronal.height()),
        [0; 3],
    );
    let text = format!("attention gate, level {level}: {least:.2} to {most:.2}");
    whole.write_text(&text, 2, 2, [255; 3]);
    whole.paste(&axial, 0, HEADER);
    whole.paste(&coronal, axial.width() + GAP, HEADER);
    whole
}

fn extremes(map: ArrayView3<f32>) -> (f32, f32) {
    map.iter().fold(
        (f32::INFINITY, f32::NEG_INFINITY),
        |(least, most), value| (least.min(*value), most.max(*value)),
    )
}

/// A slice (row, column) with the given voxel size in mm, in RAS order: the first row at the bottom, the first column
/// on the right.
fn overlaid(
    image: ArrayView2<f32>,
    map: ArrayView2<f32>,
    [rows_mm, columns_mm]: [f64; 2],
) -> Picture {
    let (rows, columns) = image.dim();
    let across_mm = columns as f64 * columns_mm;
    let pixel_mm = (across_mm / WIDTH)
        .min(rows_mm.min(columns_mm))
        .max(f64::MIN_POSITIVE);
    let pixels = |count: usize, mm: f64| ((count as f64 * mm / pixel_mm).round() as usize).max(1);
    let (width, height) = (pixels(columns, columns_mm), pixels(rows, rows_mm));
    Picture::from_fn(width, height, |x, y| {
        let row = rows - 1 - (y * rows / height).min(rows - 1);
        let column = columns - 1 - (x * columns / width).min(columns - 1);
        mixed(image[[row, column]], map[[row, column]])
    })
}

/// The image's grey value, tinted by the map from blue (0) over green to red (1).
fn mixed(grey: f32, open: f32) -> Colour {
    let (grey, open) = (grey.clamp(0.0, 1.0), open.clamp(0.0, 1.0));
    let tint = [
        (2.0 * open - 1.0).max(0.0),
        1.0 - (2.0 * open - 1.0).abs(),
        (1.0 - 2.0 * open).max(0.0),
    ];
    let share = MAX_OPACITY * open;
    tint.map(|tint| (255.0 * (grey * (1.0 - share) + tint * share)).round() as u8)
}

#[cfg(test)]
mod tests {
    use ndarray::{Array3, Array4};

    use super::*;

    #[test]
    fn high_attention_is_red_and_in_radiological_convention() {
        // Four slices of 8 × 8, grey; the gate is open at the patient's left, front and bottom.
        let mut maps = Array4::<f32>::zeros((2, 4, 8, 8));
        for ((_, z, y, x), value) in maps.indexed_iter_mut() {
            *value = f32::from(u8::from(z < 3 && y > 3 && x < 4));
        }
        let attention = Attention {
            image: Array3::from_elem((4, 8, 8), 0.5),
            maps,
            spacing_mm: [1.0, 1.0, 2.0],
        };
        let folder = tempfile::tempdir().unwrap();
        draw(&folder.path().join("case.nii.gz"), &attention).unwrap();
        for level in 0..2 {
            let path = folder.path().join(format!("case_attention_{level}.png"));
            let read = Picture::read_png(&path).unwrap();
            let side = 320usize;
            assert_eq!((read.width, read.height), (2 * side + GAP, side + HEADER));
            let red = |x: usize, y: usize| {
                let pixel = read.pixel(x, y + HEADER).unwrap();
                pixel[0] > pixel[2]
            };
            // The patient's left is shown on the right, the front on top.
            assert!(red(300, 20) && !red(300, 300) && !red(20, 20), "{level}");
            let coronal = side + GAP;
            assert!(
                red(coronal + 300, 300) && !red(coronal + 300, 20),
                "{level}"
            );
        }
    }
}
