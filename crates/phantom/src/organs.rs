//! The structures of the label map, and the tissue next to them.

use rand::Rng;

use crate::frame::WALL_HU;
use crate::layers::{
    KIDNEY_LEFT, KIDNEY_RIGHT, LIVER, Layer, Material, NONE, Region, SPLEEN, STOMACH,
};
use crate::patient::Patient;
use crate::shapes::Shape;
use crate::vectors::{Point, Rotation, plus, rotated, rotation};

/// Random shift (mm, in patient axes), rotation and scaling of an organ from its nominal position.
struct Jitter {
    shift: Point,
    rotation_degrees: Point,
    scale: f64,
}

impl Jitter {
    fn draw(rng: &mut impl Rng) -> Self {
        Self {
            shift: [4.0, 4.0, 9.0].map(|r| rng.random_range(-r..r)),
            rotation_degrees: [6.0; 3].map(|r| rng.random_range(-r..r)),
            scale: rng.random_range(0.92..1.08),
        }
    }

    /// An ellipsoid with nominal radii, shifted, scaled, and rotated by `degrees` plus the jitter.
    fn ellipsoid(&self, centre: Point, radii: Point, degrees: Point) -> Shape {
        Shape::Ellipsoid {
            centre: plus(centre, self.shift),
            radii: radii.map(|r| r * self.scale),
            turn: self.rotation(degrees),
        }
    }

    fn rotation(&self, degrees: Point) -> Rotation {
        rotation(plus(degrees, self.rotation_degrees))
    }
}

/// Keeps an organ below the diaphragm and `gap_mm` away from the wall.
fn within_abdomen(shape: Shape, patient: &Patient, gap_mm: f64) -> Shape {
    let radii = patient.dome_inside(gap_mm);
    Shape::Intersection(vec![shape, Shape::Dome { radii }])
}

/// Liver with vessels, gallbladder.
pub(super) fn liver(patient: &Patient, rng: &mut impl Rng) -> Vec<Layer> {
    let (scale, [cx, cy]) = (patient.scale, patient.cavity);
    let jitter = Jitter::draw(rng);
    let lobes = Shape::Union {
        parts: vec![
            jitter.ellipsoid(
                patient.place(0.47, -0.02, 12.0),
                [0.56 * cx, 0.86 * cy, 86.0 * scale],
                [0.0; 3],
            ),
            jitter.ellipsoid(
                patient.place(0.02, 0.42, 42.0),
                [rng.random_range(0.42..0.52) * cx, 0.42 * cy, 38.0 * scale],
                [0.0; 3],
            ),
        ],
        blend: 18.0,
    };
    // The hollow for stomach, duodenum and right kidney.
    let hollow = jitter.ellipsoid(
        patient.place(-0.16, -0.32, -44.0),
        [0.54 * cx, 0.52 * cy, 70.0 * scale],
        [0.0; 3],
    );
    let shape = Shape::Difference(Box::new(lobes), Box::new(hollow));
    let hu = rng.random_range(54.0..76.0);
    let mut layers = vec![Layer::new(
        within_abdomen(shape, patient, 5.5),
        Material::plain(hu, 7.0),
        LIVER,
    )];
    let porta = plus(patient.place(0.2, 0.02, 10.0), jitter.shift);
    let blood = Material::plain(hu + 32.0, 4.0);
    let vessels = liver_vessels(porta, rng).into_iter();
    layers.extend(vessels.map(|vessel| Layer::inside(vessel, blood, LIVER)));
    let gallbladder = jitter.ellipsoid(
        patient.place(0.36, 0.5, -38.0),
        [13.0 * scale, 14.0 * scale, 25.0 * scale],
        [35.0, 0.0, 0.0],
    );
    let bile = Material::plain(rng.random_range(4.0..16.0), 3.0);
    layers.push(Layer::new(
        within_abdomen(gallbladder, patient, 5.5),
        bile,
        NONE,
    ));
    layers
}

/// Nine vessels from `porta`, of two segments each.
fn liver_vessels(porta: Point, rng: &mut impl Rng) -> Vec<Shape> {
    let mut vessels = Vec::new();
    for _ in 0..9 {
        let mut from = porta;
        for (length, radius) in [(50.0, 4.5), (34.0, 3.0)] {
            let to = plus(
                from,
                [
                    rng.random_range(-0.3..1.0) * length,
                    rng.random_range(-0.8..0.8) * length,
                    rng.random_range(-0.6..1.0) * length,
                ],
            );
            vessels.push(Shape::Capsule { from, to, radius });
            from = to;
        }
    }
    vessels
}

/// Spleen, behind and to the left of the stomach.
pub(super) fn spleen(patient: &Patient, rng: &mut impl Rng) -> Vec<Layer> {
    let scale = patient.scale;
    let jitter = Jitter::draw(rng);
    let size = scale * rng.random_range(0.92..1.15);
    let shape = jitter.ellipsoid(
        patient.place(-0.66, -0.3, 36.0),
        [33.0 * size, 44.0 * size, 54.0 * size],
        [-12.0, 0.0, 26.0],
    );
    let pulp = Material::plain(rng.random_range(44.0..66.0), 6.0);
    vec![Layer::new(
        within_abdomen(shape, patient, 5.5),
        pulp,
        SPLEEN,
    )]
}

/// Stomach: wall, fluid or food, usually a gas bubble, and some fat around it.
pub(super) fn stomach(patient: &Patient, rng: &mut impl Rng) -> Vec<Layer> {
    let scale = patient.scale;
    let jitter = Jitter::draw(rng);
    let fullness = scale * rng.random_range(0.9..1.12);
    let shape = |gap: f64| {
        let part = |[x, y, z]: Point, radii: Point, degrees: Point| {
            let radii = radii.map(|r| r * fullness + gap);
            jitter.ellipsoid(patient.place(x, y, z), radii, degrees)
        };
        let parts = vec![
            part([-0.34, 0.08, 46.0], [28.0, 29.0, 32.0], [0.0; 3]),
            part([-0.36, 0.36, 8.0], [26.0, 25.0, 44.0], [-12.0, 0.0, 0.0]),
            part([-0.12, 0.46, -24.0], [34.0, 21.0, 20.0], [0.0, 14.0, 0.0]),
        ];
        within_abdomen(
            Shape::Union { parts, blend: 16.0 },
            patient,
            5.5 - gap.min(1.0),
        )
    };
    let front = patient.cavity[1];
    let content = Material {
        // Gas in the anterior part; none in some patients.
        gas_above: rng.random_range(0.42..0.95) * front,
        ..Material::plain(rng.random_range(5.0..32.0), 12.0)
    };
    let content = content.shelled(rng.random_range(3.0..4.5), WALL_HU + 15.0);
    let fat = Material::plain(patient.fat_hu + 15.0, 10.0);
    vec![
        Layer::new(shape(rng.random_range(3.0..6.0)), fat, NONE),
        Layer::new(shape(0.0), content, STOMACH),
    ]
}

/// Kidneys: the fat around them (painted before the spine), and the kidneys (painted after).
pub(super) fn kidneys(patient: &Patient, rng: &mut impl Rng) -> (Vec<Layer>, Vec<Layer>) {
    let medulla = rng.random_range(105.0..150.0);
    let cortex = medulla + rng.random_range(20.0..50.0);
    let tissue = Material::plain(medulla, 10.0).shelled(rng.random_range(6.0..9.0), cortex);
    let (mut fat, mut kidneys) = (Vec::new(), Vec::new());
    // The right kidney lies lower, below the liver.
    for (side, z, region) in [(1.0, -50.0, KIDNEY_RIGHT), (-1.0, -42.0, KIDNEY_LEFT)] {
        let (capsule, kidney) = kidney(patient, side, z, tissue, region, rng);
        fat.push(capsule);
        kidneys.push(kidney);
    }
    (fat, kidneys)
}

fn kidney(
    patient: &Patient,
    side: f64,
    z: f64,
    tissue: Material,
    region: Region,
    rng: &mut impl Rng,
) -> (Layer, Layer) {
    let jitter = Jitter::draw(rng);
    let size = patient.scale * rng.random_range(0.95..1.1);
    let radii = [26.0, 24.0, 48.0].map(|r| r * size);
    let centre = patient.place(0.5 * side, -0.4, z);
    // Upper poles towards the spine, hilum anterior and medial.
    let degrees = [8.0, -10.0 * side, -28.0 * side];
    let whole = jitter.ellipsoid(centre, radii, degrees);
    let hilum = rotated(&jitter.rotation(degrees), [-27.0 * side * size, 2.0, 0.0]);
    let sinus = jitter.ellipsoid(
        plus(centre, hilum),
        [18.0, 11.0, 22.0].map(|r| r * size),
        degrees,
    );
    let shape = Shape::Difference(Box::new(whole), Box::new(sinus));
    let gap = rng.random_range(5.0..9.0);
    let capsule = jitter.ellipsoid(centre, radii.map(|r| r + gap), degrees);
    let fat = Material::plain(patient.fat_hu, 14.0);
    (
        Layer::new(within_abdomen(capsule, patient, 4.0), fat, NONE),
        Layer::new(within_abdomen(shape, patient, 5.5), tissue, region),
    )
}
