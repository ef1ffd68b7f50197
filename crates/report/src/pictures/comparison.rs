//! One axial slice of a case in four panels: image, reference, prediction and errors.

use std::collections::BTreeSet;
use std::path::Path;

use ndarray::{Array2, Array3, ArrayView2, ArrayView3, Axis, Zip, s};

use super::preview::{Legend, MAX_HEIGHT, MAX_WIDTH, PLANE_HU, composed};
use super::views::{LabelCounts, Panel, body, in_ras, spacing_in_ras};
use super::{Colour, Picture};
use ctseg_base::Result;
use ctseg_image::space::label_colour;
use ctseg_train::overlays::Comparison;

/// Labels whose colours mark errors: red, blue, yellow.
const FALSE_POSITIVE: u16 = 1;
const FALSE_NEGATIVE: u16 = 2;
const WRONG_STRUCTURE: u16 = 4;

/// Opacity of a structure's colour.
const OPACITY: f32 = 0.4;

/// Draws the image, the reference, the prediction and its errors in the axial slice with the most wrong voxels, in
/// radiological convention: the patient's right on the left, the front on top.
pub fn draw(path: &Path, case: &Comparison) -> Result<()> {
    picture(case).write_png(path)
}

fn picture(case: &Comparison) -> Picture {
    let grid = &case.volume.grid;
    let image = in_ras(case.volume.data.view(), grid);
    let reference = in_ras(case.reference.data.view(), grid);
    let prediction = in_ras(case.prediction.data.view(), grid);
    let mm = spacing_in_ras(grid);
    let labelled = Zip::from(reference)
        .and(prediction)
        .map_collect(|reference, prediction| *reference.max(prediction));
    let counts = LabelCounts::of(labelled.view());
    let [z, y, x] = body(image, &counts, mm);
    let plane = plane_to_show(errors(reference, prediction).view(), &counts);
    let plane = plane.clamp(z.start, z.end.max(z.start + 1) - 1);
    fn cut<'a, T>(
        map: ArrayView3<'a, T>,
        plane: usize,
        [y, x]: [std::ops::Range<usize>; 2],
    ) -> ArrayView2<'a, T> {
        map.index_axis_move(Axis(0), plane).slice_move(s![y, x])
    }
    let sides = || [y.clone(), x.clone()];
    let image = cut(image, plane, sides());
    let reference = cut(reference, plane, sides());
    let prediction = cut(prediction, plane, sides());
    let wrong = Zip::from(reference).and(prediction).map_collect(error_kind);
    let nothing = Array2::zeros(image.dim());
    let (rows, columns) = image.dim();
    let scale = (MAX_WIDTH / (columns as f64 * mm[0])).min(MAX_HEIGHT / (rows as f64 * mm[1]));
    let drawn = |map: ArrayView2<u16>| {
        let panel = Panel {
            image,
            map,
            hu: PLANE_HU,
            opacity: OPACITY,
        };
        panel.drawn([mm[1], mm[0]], scale)
    };
    let panels = [
        ("image", drawn(nothing.view()), ['R', 'L']),
        ("reference", drawn(reference), ['R', 'L']),
        ("prediction", drawn(prediction), ['R', 'L']),
        ("errors", drawn(wrong.view()), ['R', 'L']),
    ];
    composed(&panels, &legend(case, [reference, prediction], plane))
}

/// The plane with the most wrong voxels; without errors, the one that shows the structures best.
fn plane_to_show(wrong: ArrayView3<u16>, counts: &LabelCounts) -> usize {
    let mut most = (0, 0);
    for (at, plane) in wrong.axis_iter(Axis(0)).enumerate() {
        let count = plane.iter().filter(|kind| **kind > 0).count();
        most = if count > most.1 { (at, count) } else { most };
    }
    match most {
        (_, 0) => counts.best_planes()[2],
        (at, _) => at,
    }
}

fn errors(reference: ArrayView3<u16>, prediction: ArrayView3<u16>) -> Array3<u16> {
    Zip::from(reference).and(prediction).map_collect(error_kind)
}

fn error_kind(reference: &u16, prediction: &u16) -> u16 {
    match (*reference, *prediction) {
        (same, other) if same == other => 0,
        (0, _) => FALSE_POSITIVE,
        (_, 0) => FALSE_NEGATIVE,
        _ => WRONG_STRUCTURE,
    }
}

/// The case, the colours of the structures in the slice, and those of the errors.
fn legend(case: &Comparison, maps: [ArrayView2<u16>; 2], plane: usize) -> Legend {
    let black: Colour = [0; 3];
    let mut entries = vec![(black, format!("{}, slice {plane}", case.title))];
    let labels: BTreeSet<u16> = maps.iter().flat_map(|map| map.iter().copied()).collect();
    for label in labels.into_iter().filter(|label| *label > 0) {
        let name = case.names.get(&label).map_or("?", String::as_str);
        entries.push((label_colour(label), name.to_owned()));
    }
    for (kind, what) in [
        (FALSE_POSITIVE, "error: false positive"),
        (FALSE_NEGATIVE, "error: false negative"),
        (WRONG_STRUCTURE, "error: wrong structure"),
    ] {
        entries.push((label_colour(kind), what.to_owned()));
    }
    Legend { entries }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctseg_image::formats::LabelNames;
    use ctseg_image::space::{Grid, LabelMap, Volume};

    fn maps() -> (Volume, LabelMap, LabelMap) {
        let grid = Grid::with_spacing([30, 24, 6], [2.0, 2.0, 5.0]);
        let data = Array3::from_elem(grid.shape_zyx(), 40.0);
        let mut reference = LabelMap::empty(grid);
        reference.data.slice_mut(s![1..5, 4..14, 4..14]).fill(7);
        let prediction = LabelMap {
            grid,
            data: reference.data.clone(),
        };
        (Volume { grid, data }, reference, prediction)
    }

    fn drawn(volume: &Volume, reference: &LabelMap, prediction: &LabelMap) -> Picture {
        let names = LabelNames::from([(7, "liver".to_owned())]);
        picture(&Comparison {
            title: "worst case 12, Dice 0.512",
            volume,
            reference,
            prediction,
            names: &names,
        })
    }

    /// Number of pixels of a colour in a panel.
    fn count(picture: &Picture, panel: usize, colour: Colour) -> usize {
        let width = picture.width() / 4;
        let columns = panel * width..(panel + 1) * width;
        let of_row = |y| {
            let columns = columns.clone();
            columns
                .filter(|x| picture.pixel(*x, y) == Some(colour))
                .count()
        };
        (0..picture.height() * 2 / 3).map(of_row).sum()
    }

    #[test]
    fn errors_are_shown_in_the_slice_with_the_most() {
        let (volume, reference, mut prediction) = maps();
        prediction.data.slice_mut(s![3, 4..14, 4..8]).fill(0);
        prediction.data.slice_mut(s![3, 16..20, 16..24]).fill(7);
        prediction.data.slice_mut(s![3, 4..8, 8..14]).fill(9);
        prediction.data.slice_mut(s![2, 4..6, 4..6]).fill(0);
        let picture = drawn(&volume, &reference, &prediction);
        let kinds = [FALSE_POSITIVE, FALSE_NEGATIVE, WRONG_STRUCTURE];
        let [red, blue, yellow] = kinds.map(label_colour);
        for colour in [red, blue, yellow] {
            assert!(count(&picture, 3, colour) > 20, "{colour:?}");
            assert_eq!(count(&picture, 0, colour), 0);
        }
        let liver = label_colour(7);
        assert!(count(&picture, 1, liver) > 20 && count(&picture, 2, liver) > 20);
        assert_eq!(count(&picture, 0, liver), 0);
        let all = errors(reference.data.view(), prediction.data.view());
        assert_eq!(plane_to_show(all.view(), &LabelCounts::of(all.view())), 3);
    }

    #[test]
    fn perfect_and_empty_predictions_are_drawn_too() {
        let (volume, reference, prediction) = maps();
        let right = drawn(&volume, &reference, &prediction);
        assert_eq!(count(&right, 3, label_colour(FALSE_NEGATIVE)), 0);
        let empty = LabelMap::empty(volume.grid);
        assert!(drawn(&volume, &empty, &empty).width() > 400);
    }
}
