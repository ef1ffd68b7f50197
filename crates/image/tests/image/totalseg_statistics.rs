//! `statistics.json` compared with TotalSegmentator's, see scripts/golden/make_totalseg_statistics.py.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ndarray::Array3;
use serde::Deserialize;

use ctseg_image::nifti::{NiftiHeader, read_label_names, read_labels, read_volume};
use ctseg_image::space::{Grid, LabelMap, Volume};
use ctseg_image::statistics::totalsegmentator::{StatisticsJson, TableOptions, VolumeAndIntensity};

#[derive(Deserialize)]
struct Golden {
    cases: BTreeMap<String, BTreeMap<String, BTreeMap<String, VolumeAndIntensity>>>,
    generated: Generated,
}

#[derive(Deserialize)]
struct Generated {
    spacing_mm: [f64; 3],
    shape: [usize; 3],
    eighths_hu: Vec<i32>,
    labels: Vec<u16>,
}

fn file(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(name)
}

fn golden() -> Golden {
    let text = std::fs::read(file("tests/golden/totalseg/statistics.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// All options give TotalSegmentator's statistics, to the last digit that it keeps.
fn check(case: &str, names: &BTreeMap<u16, String>, (map, image): (&LabelMap, &Volume), mm3: f64) {
    let variants = &golden().cases[case];
    assert_eq!(variants.len(), 8);
    let structures: Vec<(u16, &str)> = names.iter().map(|(l, n)| (*l, n.as_str())).collect();
    for (options_text, expected) in variants {
        let options: TableOptions = options_text.parse().unwrap();
        assert_eq!(&options.to_string(), options_text);
        let found = StatisticsJson::measured(&structures, map, image, mm3, options);
        let mut cut = 0;
        for (name, found) in &found.0 {
            let Some(expected) = expected.get(name) else {
                assert_eq!(
                    (found.volume, found.intensity),
                    (0.0, 0.0),
                    "{options_text} {name}"
                );
                continue;
            };
            cut += usize::from(expected.volume == 0.0);
            assert_eq!(found.volume, expected.volume, "{options_text} {name}");
            let off = (found.intensity - expected.intensity).abs();
            assert!(
                off < 1e-9,
                "{options_text} {name}: {found:?}, expected {expected:?}"
            );
        }
        let known = expected
            .keys()
            .filter(|n| names.values().any(|known| known == *n));
        assert_eq!(known.count(), expected.len());
        assert_eq!(
            cut > 0,
            !options.incomplete,
            "{options_text}: must cover both kinds"
        );
    }
}

#[test]
fn statistics_of_a_ct_match_totalsegmentator() {
    let image = read_volume(&file("tests/data/example_ct_sm.nii.gz")).unwrap();
    let (_, map) = read_labels(&file("tests/data/example_seg.nii.gz")).unwrap();
    let names = read_label_names(&file("tests/data/example_seg.nii.gz")).unwrap();
    check(
        "example",
        &names,
        (&map, &image.volume),
        image.header.voxel_mm3(),
    );

    let three = [(1, "spleen"), (5, "liver"), (52, "aorta")];
    for (label, name) in three {
        assert_eq!(names[&label], name);
    }
    let options = "incomplete".parse().unwrap();
    let mm3 = image.header.voxel_mm3();
    let written = StatisticsJson::measured(&three, &map, &image.volume, mm3, options).text();
    let expected = std::fs::read_to_string(file("tests/golden/totalseg/three_structures.json"));
    assert_eq!(written.unwrap(), expected.unwrap());
}

#[test]
fn spacings_and_fractional_hounsfield_units_are_rounded_as_in_totalsegmentator() {
    let made = golden().generated;
    let grid = Grid::with_spacing(made.shape, made.spacing_mm);
    let hu = made.eighths_hu.iter().map(|eighths| *eighths as f32 / 8.0);
    let image = Volume {
        grid,
        data: Array3::from_shape_vec(grid.shape_zyx(), hu.collect()).unwrap(),
    };
    let map = LabelMap {
        grid,
        data: Array3::from_shape_vec(grid.shape_zyx(), made.labels).unwrap(),
    };
    let known = read_label_names(&file("tests/data/example_seg.nii.gz")).unwrap();
    let names = known.into_iter().filter(|(label, _)| *label <= 3).collect();
    let mm3 = NiftiHeader::for_grid(&grid).unwrap().voxel_mm3();
    assert_ne!(mm3, made.spacing_mm.iter().product::<f64>());
    check("generated", &names, (&map, &image), mm3);
}
