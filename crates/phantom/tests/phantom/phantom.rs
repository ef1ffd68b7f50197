//! Phantoms: determinism, variety, correct anatomy in world coordinates, exact labels.

use std::collections::{BTreeMap, HashSet, VecDeque};

use ctseg_image::metrics::overlap::volume_ml;
use ctseg_image::space::{LabelMap, Orientation, Volume};
use ctseg_phantom::{PhantomOptions, STRUCTURES, generate};

/// Half the default resolution: an eighth of the voxels, the same anatomy.
fn coarse() -> PhantomOptions {
    PhantomOptions {
        in_plane_mm: (4.5, 6.0),
        slice_mm: (6.0, 8.0),
        ..PhantomOptions::default()
    }
}

/// Volume in mL, mean HU and centroid (world, mm) of one structure.
struct Measured {
    ml: f64,
    mean_hu: f64,
    centre_mm: [f64; 3],
}

fn measure(volume: &Volume, labels: &LabelMap) -> BTreeMap<&'static str, Measured> {
    let sum_of = |wanted: u16| {
        let (mut count, mut hu, mut sum) = (0u64, 0.0, [0.0; 3]);
        for ((z, y, x), label) in labels.data.indexed_iter() {
            if *label == wanted {
                count += 1;
                hu += f64::from(volume.data[[z, y, x]]);
                let place = labels.grid.world_mm([x, y, z].map(|v| v as f64));
                (0..3).for_each(|i| sum[i] += place[i]);
            }
        }
        assert!(count > 0, "no voxel of structure {wanted}");
        Measured {
            ml: volume_ml(count, &labels.grid),
            mean_hu: hu / count as f64,
            centre_mm: sum.map(|v| v / count as f64),
        }
    };
    STRUCTURES
        .iter()
        .map(|(label, name)| (*name, sum_of(*label)))
        .collect()
}

#[test]
fn the_same_seeds_give_the_same_bytes_for_any_thread_count() {
    let with_threads = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| generate(11, &PhantomOptions::default()))
    };
    let (volume, labels) = with_threads(1);
    for threads in [2, 5] {
        let (other_volume, other_labels) = with_threads(threads);
        assert_eq!(other_volume.grid, volume.grid);
        assert!(other_volume.data == volume.data);
        assert!(other_labels == labels);
    }
}

#[test]
fn case_seed_and_set_seed_both_matter() {
    let with_seeds = |case, seed| generate(case, &PhantomOptions { seed, ..coarse() }).0;
    let volumes = [(0, 0), (1, 0), (0, 1), (1, 1)].map(|(case, seed)| with_seeds(case, seed));
    for (i, a) in volumes.iter().enumerate() {
        for b in &volumes[..i] {
            assert!(a.data != b.data && a.grid != b.grid);
        }
    }
}

#[test]
fn patients_scans_and_files_vary() {
    let (mut spacings, mut orientations, mut oblique) = (HashSet::new(), HashSet::new(), 0);
    let mut liver_ml = Vec::new();
    for case in 0..40 {
        let (volume, labels) = generate(case, &coarse());
        spacings.insert(format!("{:.3?}", volume.grid.spacing_mm()));
        orientations.insert(volume.grid.orientation());
        let on_axis = volume
            .grid
            .affine
            .iter()
            .all(|row| row[..3].iter().filter(|v| v.abs() > 1e-9).count() == 1);
        oblique += usize::from(!on_axis);
        assert!(volume.grid.is_orthogonal(1e-9));
        liver_ml.push(measure(&volume, &labels)["liver"].ml);
    }
    assert_eq!(spacings.len(), 40);
    assert!(orientations.len() >= 10, "{orientations:?}");
    for usual in ["RAS", "LPS", "LAS"] {
        assert!(orientations.contains(&usual.parse().unwrap()), "no {usual}");
    }
    assert!(
        orientations.iter().any(|o| o.axes != [0, 1, 2]),
        "none permuted"
    );
    assert!((4..=20).contains(&oblique), "{oblique} of 40 oblique");
    let [low, high] = [f64::min, f64::max].map(|f| liver_ml.iter().copied().reduce(f).unwrap());
    assert!(high > 1.4 * low, "livers of {low:.0} to {high:.0} mL");
}

#[test]
fn every_structure_has_plausible_size_and_attenuation() {
    // Adults and children: ranges of volume in mL, and of mean HU including edges and contents (stomach gas).
    let expected = [
        ("liver", 350.0..1700.0, 45.0..78.0),
        ("spleen", 45.0..300.0, 28.0..66.0),
        ("kidney_left", 35.0..230.0, 95.0..180.0),
        ("kidney_right", 35.0..230.0, 95.0..180.0),
        ("stomach", 90.0..500.0, -260.0..45.0),
    ];
    for case in 0..10 {
        let (volume, labels) = generate(case, &PhantomOptions::default());
        assert!(
            volume
                .data
                .iter()
                .all(|v| v.fract() == 0.0 && (-1024.0..=3071.0).contains(v))
        );
        let known: HashSet<u16> = STRUCTURES.iter().map(|s| s.0).chain([0]).collect();
        assert!(labels.data.iter().all(|label| known.contains(label)));
        let found = measure(&volume, &labels);
        for (name, ml, hu) in &expected {
            let organ = &found[name];
            assert!(
                ml.contains(&organ.ml),
                "case {case}: {name} {} mL",
                organ.ml
            );
            assert!(
                hu.contains(&organ.mean_hu),
                "case {case}: {name} {} HU",
                organ.mean_hu
            );
        }
    }
}

#[test]
fn no_threshold_finds_an_organ() {
    // Of the voxels as bright as the bulk of an organ, most belong to something else.
    let (volume, labels) = generate(2, &PhantomOptions::default());
    for (label, name) in STRUCTURES {
        let pairs = || volume.data.iter().zip(&labels.data);
        let mut hu: Vec<f32> = pairs().filter(|p| p.1 == label).map(|p| *p.0).collect();
        hu.sort_by(f32::total_cmp);
        let (low, high) = (hu[hu.len() / 10], hu[hu.len() * 9 / 10]);
        let bright = pairs().filter(|p| (low..=high).contains(p.0));
        let (own, all) = bright.fold((0, 0), |(own, all), p| {
            (own + u32::from(p.1 == label), all + 1)
        });
        assert!(
            2 * own < all,
            "{name}: {own} of {all} voxels in {low} to {high} HU"
        );
    }
}

#[test]
fn anatomy_is_correct_in_world_coordinates_for_every_file_orientation() {
    for (case, orientation) in Orientation::all().enumerate() {
        let options = PhantomOptions {
            orientation: Some(orientation),
            oblique_share: 0.5,
            ..coarse()
        };
        let (volume, labels) = generate(case as u64, &options);
        assert_eq!(volume.grid.orientation(), orientation);
        let organs = measure(&volume, &labels);
        // World coordinates are RAS+: x increases to the patient's right, y anterior, z superior.
        let at = |name: &str, axis: usize| organs[name].centre_mm[axis];
        assert!(
            at("kidney_right", 0) > at("kidney_left", 0) + 60.0,
            "{orientation}"
        );
        assert!(at("liver", 0) > at("spleen", 0) + 60.0, "{orientation}");
        assert!(at("liver", 0) > at("stomach", 0) + 30.0, "{orientation}");
        for kidney in ["kidney_left", "kidney_right"] {
            assert!(at("stomach", 1) > at(kidney, 1) + 15.0, "{orientation}");
            assert!(at("spleen", 2) > at(kidney, 2) + 20.0, "{orientation}");
        }
    }
}

#[test]
fn the_file_orientation_only_changes_the_order_of_the_voxels() {
    let stored_as = |code: &str| {
        let orientation = Some(code.parse().unwrap());
        generate(
            7,
            &PhantomOptions {
                orientation,
                ..coarse()
            },
        )
    };
    let (ras, ras_labels) = stored_as("RAS");
    for code in ["LPS", "SRA", "PIL", "ASR"] {
        let (volume, labels) = stored_as(code);
        let map = volume.grid.map_to(&ras.grid).unwrap();
        for ((z, y, x), hu) in volume.data.indexed_iter() {
            let mut index = [0; 3];
            for (axis, i) in map.iter().zip([x, y, z]) {
                index[axis.axis] = (axis.scale * i as f64 + axis.offset) as usize;
            }
            let [i, j, k] = index;
            assert_eq!(*hu, ras.data[[k, j, i]], "{code}");
            assert_eq!(labels.data[[z, y, x]], ras_labels.data[[k, j, i]], "{code}");
        }
    }
}

#[test]
fn the_region_of_interest_is_small_and_not_cut_off() {
    for case in 0..20 {
        let (volume, labels) = generate(case, &PhantomOptions::default());
        let region = labels.bounding_box(|label| label != 0).unwrap();
        let share = region.voxels() as f64 / volume.grid.voxels() as f64;
        assert!((0.05..0.35).contains(&share), "case {case}: {share:.3}");
        for axis in 0..3 {
            let inside = region.start[axis] > 0 && region.end[axis] < volume.grid.shape[axis];
            assert!(
                inside,
                "case {case}: {region:?} is cut by the field of view"
            );
        }
        let mut shape = volume.grid.shape;
        shape.sort_unstable();
        assert!(shape[0] >= 50 && shape[2] <= 150, "case {case}: {shape:?}");
    }
}

/// Air voxels connected to the corners of the volume.
fn outer_air(volume: &Volume) -> Vec<bool> {
    let [nx, ny, nz] = volume.grid.shape;
    let mut outside = vec![false; volume.data.len()];
    let mut queue = VecDeque::new();
    let mut visit = |[x, y, z]: [usize; 3], queue: &mut VecDeque<[usize; 3]>| {
        let index = (z * ny + y) * nx + x;
        if !outside[index] && volume.data[[z, y, x]] < -500.0 {
            outside[index] = true;
            queue.push_back([x, y, z]);
        }
    };
    for corner in 0..8 {
        let end = |bit: usize, n: usize| if corner >> bit & 1 == 1 { n - 1 } else { 0 };
        visit([end(0, nx), end(1, ny), end(2, nz)], &mut queue);
    }
    while let Some(voxel) = queue.pop_front() {
        for axis in 0..3 {
            for step in [-1, 1] {
                let mut next = voxel;
                match next[axis].checked_add_signed(step) {
                    Some(index) if index < volume.grid.shape[axis] => next[axis] = index,
                    _ => continue,
                }
                visit(next, &mut queue);
            }
        }
    }
    outside
}

#[test]
fn organs_lie_inside_the_body() {
    for case in 0..4 {
        // In the axial planes of a RAS file; thin skin must not leak.
        let options = PhantomOptions {
            orientation: Some(Orientation::RAS),
            ..PhantomOptions::default()
        };
        let (volume, labels) = generate(case, &options);
        let outside = outer_air(&volume);
        let [nx, ny, _] = volume.grid.shape;
        let reach = 3;
        let share = outside.iter().filter(|v| **v).count() as f64 / outside.len() as f64;
        assert!(
            (0.2..0.7).contains(&share),
            "case {case}: {share:.2} outside"
        );
        for ((z, y, x), label) in labels.data.indexed_iter() {
            if *label != 0 {
                for (a, b) in [
                    (x - reach, y),
                    (x + reach, y),
                    (x, y - reach),
                    (x, y + reach),
                ] {
                    assert!(
                        !outside[(z * ny + b) * nx + a],
                        "case {case} at {x} {y} {z}"
                    );
                }
            }
        }
    }
}

#[test]
fn structure_volumes_do_not_depend_on_the_voxel_size() {
    // The same patient at a finer resolution.
    let scanned = |in_plane: f64, slice: f64| {
        let options = PhantomOptions {
            in_plane_mm: (in_plane, in_plane),
            slice_mm: (slice, slice),
            ..PhantomOptions::default()
        };
        let (volume, labels) = generate(5, &options);
        measure(&volume, &labels)
    };
    let (fine, usual) = (scanned(1.5, 2.0), scanned(2.5, 4.0));
    for (name, organ) in &fine {
        let ratio = usual[name].ml / organ.ml;
        assert!((ratio - 1.0).abs() < 0.02, "{name}: {ratio:.3}");
    }
}
