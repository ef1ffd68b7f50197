//! The anatomy of a case: HU and label at any point in world coordinates.

use rand::Rng;

use crate::bounds::Bounds;
use crate::field::SmoothField;
use crate::frame;
use crate::layers::{Brush, Layer, NONE, Region, STOMACH};
use crate::organs;
use crate::patient::Patient;
use crate::vectors::{Point, minus, plus, rotated_back};

/// Maximum deformation of the anatomy along each axis, in mm.
const BEND_MM: f64 = 7.0;
const AIR_HU: f64 = -1000.0;

/// Layers of material in the frames of table and patient, and the patient's position in the world.
#[derive(Debug)]
pub(super) struct Anatomy {
    pub patient: Patient,
    /// Origin of the patient frame in world coordinates, in mm.
    pub origin_mm: Point,
    table: Vec<Layer>,
    body: Vec<Layer>,
    bend: SmoothField<3>,
    texture: SmoothField<1>,
    fine_texture: SmoothField<1>,
}

/// The layers of an [`Anatomy`] that can affect one row of voxels.
pub(super) struct Row<'a> {
    anatomy: &'a Anatomy,
    table: Vec<&'a Layer>,
    body: Vec<&'a Layer>,
    /// Edges of a voxel in the frames of table and body.
    table_steps: [Point; 3],
    body_steps: [Point; 3],
}

impl Anatomy {
    /// Samples a patient with all organs.
    pub fn draw(rng: &mut impl Rng) -> Self {
        let patient = Patient::draw(rng);
        let mut body = frame::wall(&patient);
        body.extend(frame::chest(&patient, rng));
        body.extend(frame::bowel(&patient, rng));
        body.extend(frame::pelvis(&patient, rng));
        body.extend(organs::liver(&patient, rng));
        let (perirenal_fat, kidneys) = organs::kidneys(&patient, rng);
        body.extend(perirenal_fat);
        body.extend(organs::spleen(&patient, rng));
        body.extend(organs::stomach(&patient, rng));
        body.extend(frame::spine(&patient, rng));
        body.extend(kidneys);
        Self {
            patient,
            origin_mm: [(-20.0, 20.0), (-190.0, 60.0), (-900.0, 300.0)]
                .map(|(low, high)| rng.random_range(low..high)),
            table: frame::table(&patient),
            body,
            bend: SmoothField::draw(rng, 65.0),
            texture: SmoothField::draw(rng, 17.0),
            fine_texture: SmoothField::draw(rng, 7.0),
        }
    }

    /// The label at a point in world coordinates: the structure whose shape contains it, or 0.
    #[cfg(test)]
    pub fn label_at(&self, world_mm: Point) -> u16 {
        let steps = [[1e-3, 0.0, 0.0], [0.0, 1e-3, 0.0], [0.0, 0.0, 1e-3]];
        self.row(world_mm, world_mm, steps).sample(world_mm).1
    }

    /// The layers that can affect voxels from `first` to `last` (world, mm) with edge vectors `steps`.
    pub fn row(&self, first: Point, last: Point, steps: [Point; 3]) -> Row<'_> {
        let ends = [first, last].map(|end| minus(end, self.origin_mm));
        let table_box = spanning(ends);
        let body_box = spanning(ends.map(|end| self.to_patient(end))).grown(BEND_MM);
        Row {
            anatomy: self,
            table: intersecting(&self.table, table_box),
            body: intersecting(&self.body, body_box),
            table_steps: steps,
            body_steps: steps.map(|step| self.to_patient(step)),
        }
    }

    /// From the table frame to the patient frame.
    fn to_patient(&self, point: Point) -> Point {
        rotated_back(&self.patient.pose, point)
    }
}

impl Row<'_> {
    /// HU (before noise) and label of the voxel with its centre at `world_mm`.
    pub fn sample(&self, world_mm: Point) -> (f64, u16) {
        let anatomy = self.anatomy;
        let point = minus(world_mm, anatomy.origin_mm);
        let mut brush = Brush {
            point,
            height_mm: point[1],
            texture: 0.0,
            hu: AIR_HU,
            region: NONE,
        };
        for layer in &self.table {
            brush.paint(layer, &self.table_steps);
        }
        if self.body.is_empty() {
            return (brush.hu, NONE);
        }
        let straight = anatomy.to_patient(point);
        brush.point = plus(straight, anatomy.bend.at(straight).map(|v| v * BEND_MM));
        brush.texture =
            0.7 * anatomy.texture.at(straight)[0] + 0.5 * anatomy.fine_texture.at(straight)[0];
        for layer in &self.body {
            brush.paint(layer, &self.body_steps);
        }
        (brush.hu, label_of(brush.region))
    }
}

fn label_of(region: Region) -> u16 {
    if region <= STOMACH { region } else { 0 }
}

fn intersecting(layers: &[Layer], bounds: Bounds) -> Vec<&Layer> {
    let intersects = |layer: &&Layer| layer.bounds.intersects(&bounds);
    layers.iter().filter(intersects).collect()
}

fn spanning(ends: [Point; 2]) -> Bounds {
    Bounds {
        low: std::array::from_fn(|i| ends[0][i].min(ends[1][i])),
        high: std::array::from_fn(|i| ends[0][i].max(ends[1][i])),
    }
}
