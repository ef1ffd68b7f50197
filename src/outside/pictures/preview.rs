//! One picture of a case: three planes with the structures' outlines, the volume seen from the front, a legend.

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::{Array2, ArrayView2, ArrayView3, Axis, Zip};

use super::{Colour, Picture};
use crate::arrays::nifti::LabelNames;
use crate::error::Result;
use crate::values::{Grid, LabelMap, Volume, label_colour};

/// Most pixels of a panel.
const WIDEST: f64 = 460.0;
const HIGHEST: f64 = 620.0;

const GAP: usize = 6;
const HEADER: usize = 22;
const LINE: usize = 19;
const LETTER: usize = 9;
const BACKGROUND: Colour = [0; 3];
const TEXT: Colour = [225; 3];
const DIM: Colour = [140; 3];

/// Soft tissue for the planes; bone, seen through air and flesh, for the projection.
const PLANE_HU: [f32; 2] = [-180.0, 280.0];
const PROJECTION_HU: [f32; 2] = [-100.0, 1100.0];

/// How much of a pixel inside a structure is its colour.
const PLANE_SHARE: f32 = 0.28;
const PROJECTION_SHARE: f32 = 0.5;

/// Draws `<case>_preview.png`: the axial, sagittal and coronal plane that show the structures best, and the
/// largest intensities from front to back with the structures in front of them. Lengths are true in all
/// directions. As radiologists look at it: the patient's right on the left, front or head on top; sagittal planes
/// from the patient's left, the front on the left.
pub fn draw(path: &Path, volume: &Volume, labels: &LabelMap, names: &LabelNames) -> Result<()> {
    picture(volume, labels, names).write_png(path)
}

fn picture(volume: &Volume, labels: &LabelMap, names: &LabelNames) -> Picture {
    let image = in_ras(volume.data.view(), &volume.grid);
    let map = in_ras(labels.data.view(), &volume.grid);
    let mm = spacing_in_ras(&volume.grid);
    let found = Found::in_map(map);
    let planes = found.best_planes();
    let (nearest, brightest) = from_the_front(image, map);
    let (s, a, r) = image.dim();
    let [right, anterior, superior] = [r as f64 * mm[0], a as f64 * mm[1], s as f64 * mm[2]];
    let scale = (WIDEST / right.max(anterior)).min(HIGHEST / superior.max(anterior));
    let plane = |axis: usize| {
        let (at, nd) = (planes[axis], Axis(2 - axis));
        Panel {
            image: image.index_axis(nd, at),
            map: map.index_axis(nd, at),
            hu: PLANE_HU,
            share: PLANE_SHARE,
        }
    };
    let front = Panel {
        image: brightest.view(),
        map: nearest.view(),
        hu: PROJECTION_HU,
        share: PROJECTION_SHARE,
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
            "from the front",
            front.drawn([mm[2], mm[0]], scale),
            ['R', 'L'],
        ),
    ];
    let legend = Legend::of(&found, names, volume.grid.voxel_volume_ml());
    composed(&panels, &legend)
}

/// The panels side by side under their names, the legend below.
fn composed(panels: &[(&str, Picture, [char; 2])], legend: &Legend) -> Picture {
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

/// Voxels in the order (superior, anterior, right), all increasing; nothing is copied.
fn in_ras<'a, T>(data: ArrayView3<'a, T>, grid: &Grid) -> ArrayView3<'a, T> {
    let own = grid.orientation();
    // The array's axis that runs along a world axis; arrays are (z, y, x).
    let along = |world: usize| {
        2 - own
            .axes
            .iter()
            .position(|axis| *axis == world)
            .unwrap_or(world)
    };
    let mut view = data.permuted_axes([along(2), along(1), along(0)]);
    for (axis, world) in own.axes.iter().enumerate() {
        if own.flipped[axis] {
            view.invert_axis(Axis(2 - world));
        }
    }
    view
}

/// Voxel sizes along right, anterior, superior.
fn spacing_in_ras(grid: &Grid) -> [f64; 3] {
    let own = grid.orientation();
    let mut mm = [1.0; 3];
    for (axis, world) in own.axes.iter().enumerate() {
        mm[*world] = grid.spacing_mm()[axis];
    }
    mm
}

/// Where the structures are.
struct Found {
    /// Labels that occur, ascending.
    labels: Vec<u16>,
    /// Voxels in every plane across right, anterior and superior; (plane, label).
    per_plane: [Array2<u32>; 3],
}

impl Found {
    fn in_map(map: ArrayView3<u16>) -> Self {
        let mut slot_of = vec![usize::MAX; usize::from(u16::MAX) + 1];
        map.iter()
            .for_each(|label| slot_of[usize::from(*label)] = 0);
        let labels: Vec<u16> = (1..=u16::MAX)
            .filter(|label| slot_of[usize::from(*label)] == 0)
            .collect();
        for (slot, label) in labels.iter().enumerate() {
            slot_of[usize::from(*label)] = slot;
        }
        let (s, a, r) = map.dim();
        let mut per_plane = [r, a, s].map(|planes| Array2::zeros((planes, labels.len())));
        for ((z, y, x), label) in map.indexed_iter().filter(|(_, label)| **label > 0) {
            for (planes, at) in per_plane.iter_mut().zip([x, y, z]) {
                planes[[at, slot_of[usize::from(*label)]]] += 1;
            }
        }
        Self { labels, per_plane }
    }

    /// For each axis the plane that shows many structures large: with the largest sum of square roots of areas.
    /// Without any structure the one in the middle.
    fn best_planes(&self) -> [usize; 3] {
        std::array::from_fn(|axis| {
            let planes = &self.per_plane[axis];
            let mut best = (planes.nrows() / 2, 0.0);
            for (at, counts) in planes.rows().into_iter().enumerate() {
                let score: f64 = counts.iter().map(|n| f64::from(*n).sqrt()).sum();
                best = if score > best.1 { (at, score) } else { best };
            }
            best.0
        })
    }

    fn voxels(&self) -> BTreeMap<u16, u64> {
        let counts = self.per_plane[2].columns().into_iter();
        let counts = counts.map(|planes| planes.iter().map(|n| u64::from(*n)).sum());
        self.labels.iter().copied().zip(counts).collect()
    }
}

/// From front to back, for every line of sight (superior, right): the first structure and the largest intensity.
fn from_the_front(image: ArrayView3<f32>, map: ArrayView3<u16>) -> (Array2<u16>, Array2<f32>) {
    let (s, _, r) = image.dim();
    let mut nearest = Array2::zeros((s, r));
    let mut brightest = Array2::from_elem((s, r), f32::NEG_INFINITY);
    Zip::from(nearest.rows_mut())
        .and(brightest.rows_mut())
        .and(image.axis_iter(Axis(0)))
        .and(map.axis_iter(Axis(0)))
        .par_for_each(|mut nearest, mut brightest, image, map| {
            let lines = image.rows().into_iter().zip(map.rows());
            for (values, labels) in lines.rev() {
                Zip::from(&mut brightest)
                    .and(&values)
                    .for_each(|most, value| {
                        *most = if value.is_finite() {
                            most.max(*value)
                        } else {
                            *most
                        };
                    });
                Zip::from(&mut nearest)
                    .and(&labels)
                    .for_each(|first, label| {
                        *first = if *first == 0 { *label } else { *first };
                    });
            }
        });
    (nearest, brightest)
}

/// A plane whose first row is the lowest and whose first column is shown on the right.
struct Panel<'a> {
    image: ArrayView2<'a, f32>,
    map: ArrayView2<'a, u16>,
    /// Black and white.
    hu: [f32; 2],
    share: f32,
}

impl Panel<'_> {
    /// With so many pixels per millimetre; voxels are `[rows, columns]` millimetres large.
    fn drawn(&self, mm: [f64; 2], scale: f64) -> Picture {
        let (rows, columns) = self.image.dim();
        let pixels = |n: usize, mm: f64| ((n as f64 * mm * scale).round() as usize).max(1);
        let (height, width) = (pixels(rows, mm[0]), pixels(columns, mm[1]));
        // Voxel coordinates of the centres of pixels, counted from the top left.
        let row = |y: f64| rows as f64 - 0.5 - (y + 0.5) / height as f64 * rows as f64;
        let column = |x: f64| columns as f64 - 0.5 - (x + 0.5) / width as f64 * columns as f64;
        let nearest = |at: f64, n: usize| (at.round().max(0.0) as usize).min(n - 1);
        let label = |x: f64, y: f64| {
            let at = [nearest(row(y), rows), nearest(column(x), columns)];
            self.map[at]
        };
        Picture::from_fn(width, height, |x, y| {
            let (x, y) = (x as f64, y as f64);
            let grey = self.grey(row(y), column(x));
            let own = label(x, y);
            if own == 0 {
                return [grey; 3];
            }
            let is_edge = [(-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0)]
                .iter()
                .any(|(dx, dy)| label(x + dx, y + dy) != own);
            let share = if is_edge { 1.0 } else { self.share };
            label_colour(own).map(|part| {
                let grey = f32::from(grey);
                (grey + (f32::from(part) - grey) * share).round() as u8
            })
        })
    }

    /// Linear between the voxels around; black where the window ends and where values are not finite.
    fn grey(&self, row: f64, column: f64) -> u8 {
        let (rows, columns) = self.image.dim();
        let split = |at: f64, n: usize| {
            let at = at.clamp(0.0, (n - 1) as f64);
            let low = at.floor() as usize;
            (low, (low + 1).min(n - 1), (at - low as f64) as f32)
        };
        let ((y0, y1, dy), (x0, x1, dx)) = (split(row, rows), split(column, columns));
        let [black, white] = self.hu;
        let value = |y: usize, x: usize| {
            let share = (self.image[[y, x]] - black) / (white - black);
            if share.is_finite() {
                share.clamp(0.0, 1.0)
            } else {
                0.0
            }
        };
        let (low, high) = (
            value(y0, x0) + (value(y0, x1) - value(y0, x0)) * dx,
            value(y1, x0) + (value(y1, x1) - value(y1, x0)) * dx,
        );
        (255.0 * (low + (high - low) * dy)).round() as u8
    }
}

/// Colours and what they stand for.
struct Legend {
    entries: Vec<(Colour, String)>,
}

impl Legend {
    /// The structures that were found with their volumes, and how many were not.
    fn of(found: &Found, names: &LabelNames, voxel_ml: f64) -> Self {
        let voxels = found.voxels();
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
            many => entries.push((BACKGROUND, format!("not found: {} others", many.len()))),
        }
        Self { entries }
    }

    /// Columns and rows that the entries fill in a picture of this width.
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
    use crate::values::Orientation;

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
    fn structures_lie_where_they_are_in_the_patient_in_any_orientation() {
        let (volume, labels) = case();
        let expected = picture(&volume, &labels, &names());
        // 40 × 30 × 120 mm: limited by the height.
        let scale = HIGHEST / 120.0;
        let pixels = |mm: f64| (mm * scale).round() as usize;
        let (wide, deep, high) = (pixels(40.0), pixels(30.0), pixels(120.0));
        assert_eq!(expected.width(), 3 * wide + deep + 5 * GAP);
        let [axial, coronal] = [GAP, 2 * GAP + wide];
        let (sagittal, front) = (coronal + wide + GAP, coronal + wide + deep + 2 * GAP);
        let (left, right) = (wide / 5, wide * 4 / 5);
        let (top, bottom) = (HEADER + high / 4, HEADER + high * 7 / 8);
        // The patient's right is on the left, the front on top; below, the feet.
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
        // From the front the front one hides the other.
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
    fn nothing_found_one_voxel_and_values_that_are_not_finite_are_drawn_too() {
        let (mut volume, labels) = case();
        volume.data.fill(f32::NAN);
        let many: LabelNames = (1..=200).map(|v| (v, format!("structure {v}"))).collect();
        assert!(picture(&volume, &LabelMap::empty(volume.grid), &many).width() > 300);
        let all = picture(&volume, &labels, &many);
        assert!(all.height() > HIGHEST as usize);
        let grid = Grid::with_spacing([1, 1, 1], [1.0; 3]);
        let data = Array3::from_elem((1, 1, 1), 0.0);
        let one = Volume { grid, data };
        assert!(picture(&one, &LabelMap::empty(grid), &names()).width() > 100);
    }
}
