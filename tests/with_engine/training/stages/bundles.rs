//! Bundles as stages and folds are added.

use super::*;

#[test]
fn folds_trained_separately_are_merged_and_foreign_folders_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    let recipe = small_recipe("1", &[]);
    publish_random(&model, &recipe, &[&["a"], &["b"]]);
    let both = std::fs::read(model.join("stage1.safetensors")).unwrap();
    // The same recipe again with its first fold only: the second fold stays.
    publish_random(&model, &recipe, &[&["a"]]);
    assert_eq!(
        Bundle::open(&model).unwrap().stage(1).unwrap().folds.len(),
        2
    );
    assert!(std::fs::read(model.join("stage1.safetensors")).unwrap() == both);
    // Another recipe replaces the model.
    publish_random(
        &model,
        &small_recipe("1", &["training.epochs=3"]),
        &[&["a"]],
    );
    assert_eq!(
        Bundle::open(&model).unwrap().stage(1).unwrap().folds.len(),
        1
    );

    let foreign = folder.path().join("results");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("thesis.txt"), "years").unwrap();
    let error = Bundle::check_target(&foreign, 1, &two_structures())
        .unwrap_err()
        .to_string();
    assert!(error.contains("thesis.txt"), "{error}");
    let fewer = &two_structures()[..1];
    assert!(Bundle::check_target(&model, 1, fewer).is_ok());
    assert!(
        Bundle::check_target(&model, 2, fewer)
            .unwrap_err()
            .to_string()
            .contains("other structures")
    );
}

#[test]
fn a_new_stage_1_removes_the_stage_2_trained_on_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    random_model(&model, &[]);
    let bundle = Bundle::open(&model).unwrap();
    assert_eq!(bundle.structures().unwrap(), two_structures());
    let compute = common::compute();
    Cascade::load(&bundle, &compute).unwrap();
    publish_random(&model, &small_recipe("1", &["roi.threshold=0.4"]), &[&[]]);
    let bundle = Bundle::open(&model).unwrap();
    assert!(bundle.stage(2).is_none());
    let error = Cascade::load(&bundle, &compute).err().unwrap().to_string();
    assert!(error.contains("fit --stage 2"), "{error}");
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["model"], "no other files may be left");
}

#[test]
fn a_single_stage_model_needs_no_stage_1() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(&phantoms(&folder.path().join("data"), 1, 0)).unwrap();
    let model = folder.path().join("model");
    publish_random(
        &model,
        &small_recipe("single", &["train_folds=[0]"]),
        &[&[]],
    );
    let cascade = Cascade::load(&Bundle::open(&model).unwrap(), &common::compute()).unwrap();
    let volume = dataset.load_image(&dataset.cases[0]).unwrap().volume;
    let (labels, report) = cascade.segment(&volume, &|_, _| Ok(())).unwrap();
    assert_eq!(labels.grid, volume.grid);
    assert_eq!(report.roi, None);
}
