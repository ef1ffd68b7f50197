//! Postprocessing of label maps: chosen on out-of-fold predictions or by hand, and applied in prediction.

use super::*;

/// Cases with a ball and a pair of balls, and predictions: the ball with distant specks, the pair exact.
struct Balls {
    dataset: Dataset,
    maps: Vec<(usize, PathBuf)>,
}

fn ball(labels: &mut LabelMap, middle: [f64; 3], radius: f64, value: u16) {
    labels
        .data
        .indexed_iter_mut()
        .for_each(|((z, y, x), label)| {
            let away = [z, y, x]
                .into_iter()
                .zip(middle)
                .map(|(a, b)| (a as f64 - b).powi(2));
            if away.sum::<f64>() <= radius * radius {
                *label = value;
            }
        });
}

fn balls(folder: &Path, cases: usize) -> Balls {
    let grid = Grid::with_spacing([30, 24, 20], [2.0, 2.0, 3.0]);
    let header = NiftiHeader::for_grid(&grid).unwrap();
    let mut maps = Vec::new();
    for case in 0..cases {
        let mut reference = LabelMap::empty(grid);
        ball(&mut reference, [9.0, 8.0, 8.0 + case as f64 * 0.3], 5.0, 1);
        ball(&mut reference, [9.0, 18.0, 15.0], 3.0, 2);
        ball(&mut reference, [9.0, 18.0, 24.0], 3.0, 2);
        let name = format!("c{case}.nii.gz");
        let image = Volume {
            grid,
            data: Array3::zeros(grid.shape_zyx()),
        };
        write_volume(&folder.join("images").join(&name), &image, VoxelType::I16).unwrap();
        write_labels(&folder.join("labels").join(&name), &reference, &header).unwrap();
        let mut prediction = reference;
        ball(&mut prediction, [3.0, 4.0, 26.0], 1.5, 1);
        let path = folder.join("predicted").join(&name);
        write_labels(&path, &prediction, &header).unwrap();
        maps.push((case, path));
    }
    Balls {
        dataset: Dataset::open(folder).unwrap(),
        maps,
    }
}

fn chosen(balls: &Balls, recipe: &Recipe) -> Option<Postprocessing> {
    let search = PostprocessingSearch {
        dataset: &balls.dataset,
        maps: &balls.maps,
        recipe,
        stop: &AtomicBool::new(false),
    };
    search.choose(&Silent).unwrap().chosen
}

#[test]
fn a_step_is_kept_only_if_its_structure_improves() {
    let folder = tempfile::tempdir().unwrap();
    let balls = balls(folder.path(), 5);
    let recipe = small_recipe("single", &["spacing_mm=[2.0, 2.0, 3.0]"]);
    let found = chosen(&balls, &recipe).unwrap();
    assert_eq!((found.cases, found.smallest_gain), (5, 0.001));
    // Both components of the pair are correct: no step is chosen.
    assert_eq!(found.structures.keys().collect::<Vec<_>>(), ["structure_1"]);
    let cleaning = &found.structures["structure_1"];
    assert!(
        matches!(cleaning.steps[..], [Step::LargestComponent { .. }]),
        "{cleaning:?}"
    );
    assert_eq!(cleaning.dice_after, Some(1.0));
    // Dice before: 2·|ball| / (2·|ball| + |speck|), mean over the cases.
    let expected = balls.maps.iter().map(|(case, path)| {
        let count = |labels: &LabelMap| labels.data.iter().filter(|l| **l == 1).count() as f64;
        let (_, predicted) = read_labels(path).unwrap();
        let reference = balls
            .dataset
            .load_labels(&balls.dataset.cases[*case])
            .unwrap();
        2.0 * count(&reference) / (count(&reference) + count(&predicted))
    });
    let expected = expected.sum::<f64>() / 5.0;
    assert!((cleaning.dice_before.unwrap() - expected).abs() < 1e-12);

    // No step is chosen if the required gain is not reached, the choice is disabled, or there are too few cases.
    let none = [
        "postprocessing.smallest_gain=0.5",
        "postprocessing.choose=false",
    ];
    for setting in none {
        assert_eq!(
            chosen(&balls, &small_recipe("single", &[setting])),
            None,
            "{setting}"
        );
    }
    let few = Balls {
        maps: balls.maps[..4].to_vec(),
        dataset: balls.dataset,
    };
    assert_eq!(chosen(&few, &recipe), None);
}

#[test]
fn manual_steps_are_used_and_measured_regardless_of_their_gain() {
    let folder = tempfile::tempdir().unwrap();
    let balls = balls(folder.path(), 5);
    let set = [
        "postprocessing.steps.structure_2=[{step='largest_component', connectivity=6}]",
        "spacing_mm=[2.0, 2.0, 3.0]",
    ];
    let found = chosen(&balls, &small_recipe("single", &set)).unwrap();
    let cleaning = &found.structures["structure_2"];
    assert!(cleaning.by_hand && cleaning.dice_before == Some(1.0));
    assert!(
        (cleaning.dice_after.unwrap() - 2.0 / 3.0).abs() < 1e-9,
        "half of the pair is removed"
    );
    assert!(
        found.structures.contains_key("structure_1"),
        "steps of other structures are still chosen"
    );
    for (setting, expected) in [
        ("postprocessing.steps.a=[{step='median', voxels=4}]", "odd"),
        ("postprocessing.steps.a=[{step='melt'}]", "melt"),
        ("postprocessing.smallest_gain=-1", "smallest_gain"),
    ] {
        let error = Recipe::named("single", &[setting.to_owned()])
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
    }
    // A structure that the data lacks is refused before training.
    data(folder.path(), 4, 0);
    let mut arguments = vec!["fit", "--stage", "single", "--data", "data/dataset.toml"];
    arguments.extend(["--set", "postprocessing.steps.tail=[{step='fill_holes'}]"]);
    let log = stderr(&run(folder.path(), &arguments, 1));
    assert!(log.contains("tail") && log.contains("liver"), "{log}");
}

#[test]
fn prediction_applies_the_postprocessing_of_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    random_model(&model, &["roi.threshold=0.5"]);
    let steps = vec![
        Step::FillHoles {
            within: Default::default(),
        },
        Step::Median { voxels: 3 },
    ];
    clean_liver(&model, &steps);

    let sample = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/example_ct_sm.nii.gz"
    );
    let name = Path::new(sample).file_name().unwrap();
    let result = folder.path().join("out").join(name);
    let predict = |more: &[&str]| {
        run(
            folder.path(),
            &[&["predict", sample, "-o", "out"], more].concat(),
            0,
        );
        (
            read_labels(&result).unwrap().1,
            read_sidecar(&result).unwrap(),
        )
    };
    let (mut raw, sidecar) = predict(&["--no-postprocess"]);
    assert!(sidecar.cascade.postprocessing.is_empty());
    let (cleaned, sidecar) = predict(&[]); // predicted again: it was made without postprocessing
    assert_eq!(sidecar.cascade.postprocessing["liver"], steps);
    assert!(cleaned.data != raw.data, "the steps changed nothing");
    apply(&mut raw, &[(1, steps)]).unwrap();
    assert!(cleaned.data == raw.data);
    assert_eq!(
        cleaned.grid,
        read_volume(Path::new(sample)).unwrap().volume.grid
    );
    let described = run(folder.path(), &["inspect", "model"], 0);
    let described = String::from_utf8_lossy(&described.stdout).into_owned();
    assert!(described.contains("median filter, 3 voxels"), "{described}");
}

/// Adds postprocessing steps for the liver to the model.
fn clean_liver(model: &Path, steps: &[Step]) {
    let text = || std::fs::read_to_string(model.join("model.toml")).unwrap();
    assert!(
        !text().contains("postprocessing"),
        "older models without this section load"
    );
    let cleaning = StructurePostprocessing {
        steps: steps.to_vec(),
        ..StructurePostprocessing::default()
    };
    let structures = BTreeMap::from([("liver".to_owned(), cleaning)]);
    let before = Bundle::open(model).unwrap();
    let chosen = Postprocessing {
        cases: 5,
        smallest_gain: 0.001,
        structures,
    };
    before.set_postprocessing(Some(chosen.clone())).unwrap();
    let after = Bundle::open(model).unwrap();
    assert_eq!(after.manifest.postprocessing, Some(chosen));
    assert_eq!(after.stage_sha256(2), before.stage_sha256(2));
    assert!(
        text().contains("[postprocessing.structures.liver]"),
        "{}",
        text()
    );
}
