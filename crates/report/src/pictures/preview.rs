//! Preview picture of a case: three planes with the structures' outlines, a frontal projection and a legend.

use std::path::Path;

use ndarray::{Axis, s};

use super::views::{LabelCounts, Panel, body, frontal_projection, in_ras, spacing_in_ras};
use super::{Colour, Picture};
use ctseg_base::Result;
use ctseg_image::formats::LabelNames;
use ctseg_image::space::{LabelMap, Volume, label_colour};

/// Maximum size of a panel in pixels.
pub(super) const MAX_WIDTH: f64 = 460.0;
pub(super) const MAX_HEIGHT: f64 = 620.0;

const GAP: usize = 6;
const HEADER: usize = 22;
const LINE: usize = 19;
const LETTER: usize = 9;
const BACKGROUND: Colour = [0; 3];
const TEXT: Colour = [225; 3];
const DIM: Colour = [140; 3];

/// Windows: soft tissue for the planes, bone for the projection.
pub(super) const PLANE_HU: [f32; 2] = [-180.0, 280.0];
const PROJECTION_HU: [f32; 2] = [-100.0, 1100.0];

/// Opacity of a structure's colour.
const PLANE_OPACITY: f32 = 0.28;
const PROJECTION_OPACITY: f32 = 0.5;

/// Draws `<case>_preview.png`: the axial, sagittal and coronal plane that show the structures best, and a frontal
/// maximum intensity projection with the structures in front. Pixels are isotropic. Radiological convention: the
/// patient's right on the left, front or head on top; sagittal planes from the patient's left, the front on the left.
pub fn draw(path: &Path, volume: &Volume, labels: &LabelMap, names: &LabelNames) -> Result<()> {
    picture(volume, labels, names).write_png(path)
}

fn picture(volume: &Volume, labels: &LabelMap, names: &LabelNames) -> Picture {
    let image = in_ras(volume.data.view(), &volume.grid);
    let map = in_ras(labels.data.view(), &volume.grid);
    let mm = spacing_in_ras(&volume.grid);
    let counts = LabelCounts::of(map);
    let [z, y, x] = body(image, &counts, mm);
    let mut planes = counts.best_planes();
    for (plane, shown) in planes.iter_mut().zip([&x, &y, &z]) {
        *plane = (*plane).clamp(shown.start, shown.end - 1) - shown.start;
    }
    let image = image.slice_move(s![z.clone(), y.clone(), x.clone()]);
    let map = map.slice_move(s![z, y, x]);
    let (nearest, brightest) = frontal_projection(image, map);
    let (s, a, r) = image.dim();
    let [right, anterior, superior] = [r as f64 * mm[0], a as f64 * mm[1], s as f64 * mm[2]];
    let scale = (MAX_WIDTH / right.max(anterior)).min(MAX_HEIGHT / superior.max(anterior));
    let plane = |axis: usize| {
        let (at, nd) = (planes[axis], Axis(2 - axis));
        Panel {
            image: image.index_axis(nd, at),
            map: map.index_axis(nd, at),
            hu: PLANE_HU,
            opacity: PLANE_OPACITY,
        }
    };
    let front = Panel {
        image: brightest.view(),
        map: nearest.view(),
        hu: PROJECTION_HU,
        opacity: PROJECTION_OPACITY,
    };
    let panels = [
        ("axial", plane(2).drawn([mm[1], mm[0]], scale), ['R', 'L']),
        ("coronal", plane(1).drawn([mm[2], mm[0]], scale), ['R', 'L']),
        (
            "sagittal",
            plane(0).drawn([mm[2], mm[1]], scale),
            ['A', 'P'],
        ),
        (
            "frontal MIP",
            front.drawn([mm[2], mm[0]], scale),
            ['R', 'L'],
        ),
    ];
    let legend = Legend::of(&counts, names, volume.grid.voxel_volume_ml());
    composed(&panels, &legend)
}

/// Arranges the panels side by side, with their names above and the legend below.
pub(super) fn composed(panels: &[(&str, Picture, [char; 2])], legend: &Legend) -> Picture {
    let width = panels
        .iter()
        .map(|(_, panel, _)| panel.width() + GAP)
        .sum::<usize>()
        + GAP;
    let height = panels
        .iter()
        .map(|(_, panel, _)| panel.height())
        .max()
        .unwrap_or(1);
    let (columns, rows) = legend.layout(width);
    let bottom = HEADER + height + 2 * GAP;
    let mut whole = Picture::filled(width, bottom + rows * LINE + GAP, BACKGROUND);
    let mut x = GAP;
    for (name, panel, [left, right]) in panels {
        whole.write_text(name, x, 3, DIM);
        whole.paste(panel, x, HEADER);
        let middle = HEADER + panel.height() / 2;
        whole.write_text(&left.to_string(), x + 2, middle.saturating_sub(8), TEXT);
        let at = (x + panel.width()).saturating_sub(LETTER + 2);
        whole.write_text(&right.to_string(), at, middle.saturating_sub(8), TEXT);
        x += panel.width() + GAP;
    }
    for (index, (colour, text)) in legend.entries.iter().enumerate() {
        let (x, y) = (
            GAP + index / rows.max(1) * (width / columns),
            bottom + index % rows.max(1) * LINE,
        );
        for (dx, dy) in (0..12).flat_map(|dx| (0..12).map(move |dy| (dx, dy))) {
            whole.set(x + dx, y + 2 + dy, *colour);
        }
        whole.write_text(text, x + 18, y, TEXT);
    }
    whole
}

/// Colours and their meaning.
pub(super) struct Legend {
    pub(super) entries: Vec<(Colour, String)>,
}

impl Legend {
    /// The structures found, with their volumes, and those not found.
    fn of(counts: &LabelCounts, names: &LabelNames, voxel_ml: f64) -> Self {
        let voxels = counts.voxels();
        let mut entries: Vec<(Colour, String)> = voxels
            .iter()
            .map(|(label, count)| {
                let name = names.get(label).map_or("?", String::as_str);
                let ml = *count as f64 * voxel_ml;
                let digits = if ml < 10.0 { 2 } else { 0 };
                (label_colour(*label), format!("{name} {ml:.digits$} mL"))
            })
            .collect();
        let absent: Vec<&str> = names
            .iter()
            .filter(|(label, _)| !voxels.contains_key(label))
            .map(|(_, name)| name.as_str())
            .collect();
        match absent.as_slice() {
            [] => {}
            few @ ([_] | [_, _] | [_, _, _]) => {
                entries.push((BACKGROUND, format!("not found: {}", few.join(", "))));
            }
            many => entries.push((BACKGROUND, format!("not found: {} structures", many.len()))),
        }
        Self { entries }
    }

    /// Number of columns and rows of the entries in a picture of this width.
    fn layout(&self, width: usize) -> (usize, usize) {
        let longest = self
            .entries
            .iter()
            .map(|(_, text)| text.chars().count())
            .max();
        let entry = 18 + LETTER * longest.unwrap_or(0) + 3 * GAP;
        let columns = (width / entry).max(1);
        (columns, self.entries.len().div_ceil(columns))
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;
    use ctseg_image::space::{Grid, Orientation};

    /// Tissue of 20 × 30 × 40 voxels of 2 × 1 × 3 mm in air: label 1 in the patient's right, front and bottom,
    /// label 2 behind it.
    fn case() -> (Volume, LabelMap) {
        let grid = Grid::with_spacing([20, 30, 40], [2.0, 1.0, 3.0]);
        let mut labels = LabelMap::empty(grid);
        for ((z, y, x), label) in labels.data.indexed_iter_mut() {
            *label = match (x >= 12, y >= 18, z < 15) {
                (true, true, true) => 1,
                (true, false, true) => 2,
                _ => 0,
            };
        }
        let data = Array3::from_elem(grid.shape_zyx(), 50.0);
        (Volume { grid, data }, labels)
    }

    fn names() -> LabelNames {
        [(1, "front"), (2, "back"), (3, "absent")]
            .map(|(value, name)| (value, name.to_owned()))
            .into()
    }

    /// Whether the pixel is tinted as a label: nearer to its colour than grey is.
    fn is(picture: &Picture, x: usize, y: usize, label: u16) -> bool {
        let pixel = picture.pixel(x, y).unwrap();
        let spread = pixel.iter().max().unwrap() - pixel.iter().min().unwrap();
        let largest = |colour: Colour| (0..3).max_by_key(|part| colour[*part]);
        spread > 20 && largest(pixel) == largest(label_colour(label))
    }

    #[test]
    fn any_orientation_is_drawn_in_radiological_convention() {
        let (volume, labels) = case();
        let expected = picture(&volume, &labels, &names());
        // 40 × 30 × 120 mm: limited by the height.
        let scale = MAX_HEIGHT / 120.0;
        let pixels = |mm: f64| (mm * scale).round() as usize;
        let (wide, deep, high) = (pixels(40.0), pixels(30.0), pixels(120.0));
        assert_eq!(expected.width(), 3 * wide + deep + 5 * GAP);
        let [axial, coronal] = [GAP, 2 * GAP + wide];
        let (sagittal, front) = (coronal + wide + GAP, coronal + wide + deep + 2 * GAP);
        let (left, right) = (wide / 5, wide * 4 / 5);
        let (top, bottom) = (HEADER + high / 4, HEADER + high * 7 / 8);
        // The patient's right is on the left, the front on top, the feet at the bottom.
        assert!(is(&expected, axial + left, HEADER + deep / 5, 1));
        assert!(is(&expected, axial + left, HEADER + deep * 4 / 5, 2));
        for (panel, at) in [(axial + right, HEADER + deep / 5), (coronal + left, top)] {
            assert!(!is(&expected, panel, at, 1) && !is(&expected, panel, at, 2));
        }
        assert!(
            is(&expected, coronal + left, bottom, 1) || is(&expected, coronal + left, bottom, 2)
        );
        assert!(is(&expected, sagittal + deep / 5, bottom, 1));
        assert!(is(&expected, sagittal + deep * 4 / 5, bottom, 2));
        // In the frontal projection the front structure hides the other.
        assert!(is(&expected, front + left, bottom, 1));
        assert!(!is(&expected, front + right, bottom, 1) && !is(&expected, front + left, top, 1));
        for orientation in Orientation::all() {
            let grid = volume.grid.reoriented(orientation);
            let map = grid.map_to(&volume.grid).unwrap();
            let from = |[x, y, z]: [usize; 3]| {
                let mut at = [0; 3];
                for (axis, index) in [x, y, z].into_iter().enumerate() {
                    at[map[axis].axis] =
                        (map[axis].scale * index as f64 + map[axis].offset) as usize;
                }
                labels.data[[at[2], at[1], at[0]]]
            };
            let turned = LabelMap {
                grid,
                data: Array3::from_shape_fn(grid.shape_zyx(), |(z, y, x)| from([x, y, z])),
            };
            let image = Volume {
                grid,
                data: Array3::from_elem(grid.shape_zyx(), 50.0),
            };
            assert!(
                picture(&image, &turned, &names()) == expected,
                "{orientation}"
            );
        }
    }

    #[test]
    fn air_around_the_patient_is_cropped() {
        let grid = Grid::with_spacing([100, 100, 80], [1.0; 3]);
        let mut data = Array3::from_elem(grid.shape_zyx(), -1000.0);
        data.slice_mut(s![20..40, 30..50, 60..80]).fill(50.0);
        let mut labels = LabelMap::empty(grid);
        labels.data[[60, 40, 70]] = 1;
        let drawn = picture(&Volume { grid, data }, &labels, &names());
        // 10..71 along z; 40 mm along x and y, 10 of them air on either side.
        let scale = MAX_HEIGHT / 61.0;
        let side = (40.0 * scale).round() as usize;
        assert_eq!(drawn.width(), 4 * side + 5 * GAP);
        let [air, tissue] = [9.0, 12.0].map(|mm| GAP + (mm * scale) as usize);
        let coronal_row = HEADER + (40.0 * scale) as usize;
        let grey = |x: usize| drawn.pixel(GAP + side + x, coronal_row).unwrap()[0];
        assert!(
            grey(air) < 20 && grey(tissue) > 80,
            "{} {}",
            grey(air),
            grey(tissue)
        );
    }

    #[test]
    fn empty_maps_single_voxels_and_nan_are_drawn_too() {
        let (mut volume, labels) = case();
        volume.data.fill(f32::NAN);
        let many: LabelNames = (1..=200).map(|v| (v, format!("structure {v}"))).collect();
        assert!(picture(&volume, &LabelMap::empty(volume.grid), &many).width() > 300);
        let all = picture(&volume, &labels, &many);
        assert!(all.height() > MAX_HEIGHT as usize);
        let grid = Grid::with_spacing([1, 1, 1], [1.0; 3]);
        let data = Array3::from_elem((1, 1, 1), 0.0);
        let one = Volume { grid, data };
        assert!(picture(&one, &LabelMap::empty(grid), &names()).width() > 100);
    }
}
