//! Everything around the organs: table, body wall, chest, bones, vessels, bowel and pelvis.

use rand::Rng;

use crate::layers::{LUNG, Layer, Material, NONE};
use crate::patient::Patient;
use crate::shapes::Shape;
use crate::vectors::{Point, plus, rotation};

/// Mean HU of the wall of hollow organs.
pub(super) const WALL_HU: f64 = 45.0;

/// The table, in its own frame: a curved shell with a foam core below the patient.
pub(super) fn table(patient: &Patient) -> Vec<Layer> {
    const BEND_MM: f64 = 400.0;
    let tube = |depth: f64| {
        let radius = BEND_MM - depth;
        Shape::column([0.0, BEND_MM - patient.skin[1] - 2.0], [radius, radius])
    };
    let shell = Shape::Difference(Box::new(tube(-20.0)), Box::new(tube(0.0)));
    let shape = Shape::Intersection(vec![Shape::slab(0, 195.0), shell]);
    let foam = Material::plain(-900.0, 5.0).shelled(2.5, -150.0);
    vec![Layer::new(shape, foam, NONE)]
}

/// Skin, fat, muscles, ribs, and the background material of the cavities.
pub(super) fn wall(patient: &Patient) -> Vec<Layer> {
    let torso = |radii: [f64; 2], gap: f64| Shape::Torso {
        radii: radii.map(|r| r - gap),
    };
    let scale = patient.scale;
    let ribs = Shape::Ribs {
        radii: [0, 1].map(|i| 0.5 * (patient.muscle[i] + patient.cavity[i])),
        period: 29.0 * scale,
        slope: 0.42,
        section: [3.6, 6.5 * scale],
    };
    let muscle = Material::plain(patient.muscle_hu, 14.0);
    let fat = Material::plain(patient.fat_hu, 12.0);
    vec![
        Layer::new(torso(patient.skin, 0.0), Material::plain(15.0, 0.0), NONE),
        Layer::new(torso(patient.skin, 2.0), fat, NONE),
        Layer::new(torso(patient.muscle, 0.0), muscle, NONE),
        Layer::new(ribs, Material::plain(260.0, 40.0).shelled(2.0, 620.0), NONE),
        Layer::new(
            torso(patient.cavity, 0.0),
            Material::plain(25.0, 30.0),
            NONE,
        ),
    ]
}

/// Lungs with vessels, heart, sternum; then the diaphragm and the fat of the abdomen below it.
pub(super) fn chest(patient: &Patient, rng: &mut impl Rng) -> Vec<Layer> {
    let scale = patient.scale;
    let air = Material::plain(rng.random_range(-880.0..-820.0), 45.0);
    let mut layers = Vec::new();
    for side in [1.0, -1.0] {
        let shape = Shape::ellipsoid(
            patient.place(0.54 * side, 0.02, 165.0),
            [
                0.45 * patient.cavity[0],
                0.88 * patient.cavity[1],
                165.0 * scale,
            ],
        );
        layers.push(Layer::new(shape, air, LUNG));
        let hilum = patient.place(0.2 * side, -0.05, 150.0);
        for _ in 0..30 {
            branches(hilum, rng, |vessel| {
                layers.push(Layer::inside(vessel, Material::plain(40.0, 10.0), LUNG));
            });
        }
    }
    let heart = Shape::Ellipsoid {
        centre: patient.place(-0.18, 0.3, 128.0),
        radii: [46.0 * scale, 36.0 * scale, 46.0 * scale],
        turn: rotation([20.0, rng.random_range(-35.0..-15.0), 0.0]),
    };
    let blood = Material::plain(patient.blood_hu - 10.0, 10.0).shelled(9.0, 85.0);
    layers.push(Layer::new(heart, blood, NONE));
    let sternum = Shape::ellipsoid(
        [0.0, 0.94 * patient.muscle[1], 175.0 * scale],
        [16.0 * scale, 6.0, 70.0 * scale],
    );
    layers.push(Layer::new(
        sternum,
        Material::plain(180.0, 30.0).shelled(2.0, 380.0),
        NONE,
    ));
    let dome = |gap: f64| Shape::Dome {
        radii: patient.dome_inside(gap),
    };
    layers.push(Layer::new(
        dome(0.0),
        Material::plain(patient.muscle_hu, 8.0),
        NONE,
    ));
    layers.push(Layer::new(
        dome(2.5),
        Material::plain(patient.fat_hu + 5.0, 18.0),
        NONE,
    ));
    layers
}

/// A vessel from `root` and a thinner one from its end.
fn branches(root: Point, rng: &mut impl Rng, mut add: impl FnMut(Shape)) {
    let mut from = root;
    let mut radius = rng.random_range(1.6..3.4);
    for length in [45.0, 30.0] {
        let reach: Point = std::array::from_fn(|_| rng.random_range(-1.0..1.0) * length);
        let to = plus(from, [reach[0], reach[1], 1.3 * reach[2]]);
        add(Shape::Capsule { from, to, radius });
        from = to;
        radius *= 0.65;
    }
}

/// Vertebrae with discs, canal and processes, the muscles along them, aorta and inferior vena cava.
pub(super) fn spine(patient: &Patient, rng: &mut impl Rng) -> Vec<Layer> {
    let (scale, y) = (patient.scale, patient.spine_y);
    let period = 32.0 * scale;
    let marrow = rng.random_range(150.0..230.0);
    let bone = Material::plain(marrow, 30.0).shelled(2.5, marrow + 330.0);
    let muscle = Material::plain(patient.muscle_hu - 4.0, 16.0);
    let mut layers = Vec::new();
    for side in [1.0, -1.0] {
        let psoas = Shape::ellipsoid(
            [33.0 * side * scale, y, -115.0 * scale],
            [17.0 * scale, 18.0 * scale, 115.0 * scale],
        );
        let erector = Shape::column([27.0 * side * scale, y - 26.0 * scale], [21.0, 17.0]);
        layers.push(Layer::new(psoas, muscle, NONE));
        layers.push(Layer::new(erector, muscle, NONE));
    }
    let radii = [20.0 * scale, 15.5 * scale];
    let disc = Shape::column([0.0, y], radii.map(|r| r - 1.5));
    layers.push(Layer::new(disc, Material::plain(85.0, 10.0), NONE));
    let body = Shape::Intersection(vec![
        Shape::column([0.0, y], radii),
        Shape::slab(2, 0.5 * period - 3.5),
    ]);
    let process = Shape::ellipsoid([0.0, y - 34.0 * scale, 0.0], [4.5, 12.0, 9.0]);
    for shape in [body, process] {
        let shape = Box::new(shape);
        layers.push(Layer::new(Shape::Repeated { shape, period }, bone, NONE));
    }
    let arch = Shape::column([0.0, y - 23.0 * scale], [14.0 * scale, 11.5 * scale]);
    layers.push(Layer::new(
        arch,
        Material::plain(25.0, 5.0).shelled(3.5, 420.0),
        NONE,
    ));
    let front = y + radii[1];
    let aorta = Shape::column([-9.0, front + 11.0], [rng.random_range(8.5..11.0); 2]);
    let cava = Shape::column([17.0, front + 9.0], [rng.random_range(9.0..12.0), 8.5]);
    layers.push(Layer::new(
        aorta,
        Material::plain(patient.blood_hu, 4.0),
        NONE,
    ));
    layers.push(Layer::new(
        cava,
        Material::plain(patient.blood_hu - 30.0, 4.0),
        NONE,
    ));
    layers
}

/// Bowel loops as distractors, with contents from gas to contrast agent as bright as a kidney.
pub(super) fn bowel(patient: &Patient, rng: &mut impl Rng) -> Vec<Layer> {
    let mut layers = Vec::new();
    for _ in 0..22 {
        let from = patient.place(
            rng.random_range(-0.62..0.62),
            rng.random_range(-0.05..0.62),
            rng.random_range(-175.0..-52.0),
        );
        let reach = [45.0, 22.0, 22.0].map(|r| rng.random_range(-r..r));
        let shape = Shape::Capsule {
            from,
            to: plus(from, reach),
            radius: rng.random_range(9.0..15.0),
        };
        layers.push(Layer::new(shape, bowel_content(from, rng), NONE));
    }
    // Ascending and descending colon, and the flexure beside the spleen.
    for (x, top) in [(0.78, -45.0), (-0.8, -20.0)] {
        let from = patient.place(x, rng.random_range(-0.1..0.15), -190.0);
        let to = patient.place(x, rng.random_range(-0.1..0.15), top);
        let radius = rng.random_range(14.0..19.0);
        let shape = Shape::Capsule { from, to, radius };
        layers.push(Layer::new(shape, bowel_content(from, rng), NONE));
    }
    let pancreas = Shape::Union {
        parts: vec![
            Shape::Capsule {
                from: patient.place(0.18, 0.18, -22.0),
                to: patient.place(-0.15, 0.12, 4.0),
                radius: 13.0,
            },
            Shape::Capsule {
                from: patient.place(-0.15, 0.12, 4.0),
                to: patient.place(-0.36, 0.0, 14.0),
                radius: 10.0,
            },
        ],
        blend: 8.0,
    };
    layers.push(Layer::new(pancreas, Material::plain(62.0, 16.0), NONE));
    layers
}

fn bowel_content(centre: Point, rng: &mut impl Rng) -> Material {
    let content = match rng.random_range(0..5) {
        0 => Material::plain(rng.random_range(120.0..200.0), 15.0),
        1 | 2 => Material::plain(rng.random_range(5.0..35.0), 15.0),
        3 => Material::plain(rng.random_range(-60.0..40.0), 70.0),
        _ => Material {
            gas_above: centre[1] + rng.random_range(-8.0..6.0),
            ..Material::plain(20.0, 10.0)
        },
    };
    content.shelled(rng.random_range(2.0..3.0), WALL_HU + 10.0)
}

/// Iliac wings and bladder, visible only if the field of view extends that far down.
pub(super) fn pelvis(patient: &Patient, rng: &mut impl Rng) -> Vec<Layer> {
    let scale = patient.scale;
    let mut layers = Vec::new();
    for side in [1.0, -1.0] {
        let wing = Shape::Ellipsoid {
            centre: patient.place(0.72 * side, -0.2, -185.0),
            radii: [8.0, 52.0 * scale, 58.0 * scale],
            turn: rotation([0.0, 22.0 * side, 32.0 * side]),
        };
        layers.push(Layer::new(
            wing,
            Material::plain(200.0, 40.0).shelled(2.5, 560.0),
            NONE,
        ));
    }
    let radius = rng.random_range(26.0..40.0);
    let bladder = Shape::ellipsoid(
        patient.place(0.0, 0.25, -215.0),
        [radius * 1.2, radius, radius],
    );
    let urine = Material::plain(rng.random_range(2.0..14.0), 3.0).shelled(3.0, WALL_HU);
    layers.push(Layer::new(bladder, urine, NONE));
    layers
}
