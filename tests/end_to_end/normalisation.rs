//! Normalisation in recipes: values like nnU-Net's in training and prediction, including the padding.

use std::collections::BTreeMap;
use std::sync::mpsc::sync_channel;

use crate::common::{phantoms, run};
use ctseg_augment::{Augmentation, Hounsfield, VolumeCrop, VolumeSource};
use ctseg_core::dataset::Dataset;
use ctseg_core::recipe::Recipe;
use ctseg_engine::batch::Batch;
use ctseg_image::preprocess::normalisation::{Normalisation, Scaling};
use ctseg_train::data::case_source::CaseSource;
use ctseg_train::data::sampler::send_epoch;
use ndarray::{Array3, Array4, Axis, s};

const CT: &str = "normalisation={ kind = 'ct', mean_hu = 45, sd_hu = 80.5 }";

fn scaling() -> Scaling {
    Scaling {
        window: [-160.0, 240.0].into(),
        mean_hu: 45.0,
        sd_hu: 80.5,
    }
}

/// Hounsfield units from −300 to 500.
fn volume(shape: [usize; 3]) -> Array3<f32> {
    Array3::from_shape_fn(shape, |(z, y, x)| {
        ((z * 131 + y * 37 + x * 53) % 801) as f32 - 300.0
    })
}

/// A patch of `size` at `corner`, with Hounsfield units for augmentation of them.
fn augmented_patch(
    augmentation: &Augmentation,
    seed: u64,
    (channel, above): (&Array3<f32>, Option<Array3<f32>>),
    scalings: &[Scaling],
    (corner, size): ([usize; 3], [usize; 3]),
) -> Array3<f32> {
    let cut = VolumeCrop {
        corner,
        size,
        spacing_mm: [2.0, 1.0, 1.0],
        image_channels: 1,
    };
    let labels = Array3::zeros(channel.dim());
    let channels = channel.view().insert_axis(Axis(0));
    let source = VolumeSource {
        channels,
        labels: labels.view(),
        hu: above.as_ref().map(|above| Hounsfield {
            above: above.view(),
            zero_hu: scaling().mean_hu,
        }),
        scalings,
    };
    let [z, y, x] = size;
    let mut patch = Array4::zeros((1, z, y, x));
    let mut marked = Array3::zeros(size);
    augmentation.fill_volume(&cut, seed, &source, (patch.view_mut(), marked.view_mut()));
    patch.index_axis_move(Axis(0), 0)
}

/// Every augmentation except those of Hounsfield units, each in half of the patches.
fn all_intensity_and_spatial() -> Augmentation {
    Augmentation {
        rotation_probability: 0.5,
        rotation_degrees: 30.0,
        scale_probability: 0.5,
        elastic_probability: 0.5,
        noise_probability: 0.5,
        blur_probability: 0.5,
        brightness_probability: 0.5,
        contrast_probability: 0.5,
        low_resolution_probability: 0.5,
        gamma_probability: 0.5,
        inverted_gamma_probability: 0.5,
        field_of_view_probability: 0.5,
        coarse_dropout_probability: 0.5,
        ..Augmentation::none()
    }
}

#[test]
fn intensity_augmentation_matches_windows_and_padding_is_the_mean() {
    let (shape, margin) = ([14, 30, 34], [40, 80, 80]);
    let hu = volume(shape);
    let values = hu.mapv(|hu| scaling().of_hu(hu));
    // The same volume in a wide margin of the mean, in fractions of the window, so that no rotation leaves the margin.
    let [z, y, x] = [0, 1, 2].map(|axis| shape[axis] + 2 * margin[axis]);
    let mut padded = Array3::from_elem((z, y, x), scaling().share(0.0));
    padded
        .slice_mut(s![40..54, 80..110, 80..114])
        .assign(&hu.mapv(|hu| scaling().window.scaled(hu)));
    let size = [16, 32, 32];
    let mut changed = 0;
    for seed in 0..40 {
        let found = augmented_patch(
            &all_intensity_and_spatial(),
            seed,
            (&values, None),
            &[scaling()],
            ([0; 3], size),
        );
        let expected = augmented_patch(
            &all_intensity_and_spatial(),
            seed,
            (&padded, None),
            &[],
            (margin, size),
        );
        let expected = expected.mapv(|share| scaling().of_share(share));
        let difference = (&found - &expected).mapv(f32::abs);
        let furthest = difference.iter().fold(0f32, |a, b| a.max(*b));
        assert!(furthest < 2e-3, "{seed}: {furthest}");
        let (low, high) = (scaling().of_share(0.0), scaling().of_share(1.0));
        assert!(found.iter().all(|v| (low - 1e-5..=high + 1e-5).contains(v)));
        changed += usize::from(found.slice(s![..14, ..30, ..32]) != values.slice(s![.., .., ..32]));
    }
    assert!(changed > 30, "{changed}");
    // Unchanged patches: the padding is exactly 0.
    let unchanged = augmented_patch(
        &Augmentation::none(),
        1,
        (&values, None),
        &[scaling()],
        ([0; 3], size),
    );
    let difference = &unchanged.slice(s![..14, ..30, ..]) - &values.slice(s![.., .., ..32]);
    assert!(difference.iter().all(|v| v.abs() < 1e-6));
    assert!(
        unchanged
            .slice(s![14.., .., ..])
            .iter()
            .all(|v| v.abs() < 1e-6)
    );
}

#[test]
fn shifts_and_metal_act_before_windowing_and_not_in_the_padding() {
    let (shape, size) = ([10, 30, 30], [12, 36, 36]);
    let hu = volume(shape);
    let values = hu.mapv(|hu| scaling().of_hu(hu));
    let above = hu.mapv(|hu| if hu == 45.0 { 1e-3 } else { hu - 45.0 });
    for (metal, shift) in [(0.0, 60.0f32), (1.0, -30.0)] {
        let augmentation = Augmentation {
            hu_shift_probability: 1.0,
            hu_shift: [f64::from(shift); 2],
            metal_probability: metal,
            ..Augmentation::none()
        };
        for seed in 0..6 {
            let source = (&values, Some(above.clone()));
            let found = augmented_patch(&augmentation, seed, source, &[scaling()], ([0; 3], size));
            let inside = found.slice(s![..10, ..30, ..30]);
            let expected = hu.mapv(|hu| scaling().of_hu(hu + shift));
            let difference = (&inside - &expected).mapv(f32::abs);
            let same = difference.iter().filter(|v| **v < 1e-4).count();
            assert!(same > 5000, "{seed}: {same}");
            assert_eq!(same == 9000, metal == 0.0, "{seed}: {same}");
            for padding in [
                found.slice(s![10.., .., ..]),
                found.slice(s![.., 30.., ..]),
                found.slice(s![.., .., 30..]),
            ] {
                assert!(padding.iter().all(|v| v.abs() < 1e-6), "{seed}");
            }
        }
    }
}

/// The first training batch with these settings.
fn first_batch(dataset: &Dataset, settings: &[&str]) -> Batch {
    let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
    let recipe = Recipe::named("single", &settings).unwrap();
    let structures = dataset.structures.iter().map(|s| s.value).collect();
    let source = CaseSource::new(dataset, &recipe, structures, BTreeMap::new());
    let (to, batches) = sync_channel(100);
    assert!(send_epoch(&source, &[0], 1, 0, &to));
    batches.recv().unwrap().unwrap().unwrap()
}

#[test]
fn a_recipes_batches_are_normalised_and_padded_with_the_mean() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::open(&phantoms(folder.path(), 1, 0)).unwrap();
    let common = [
        "windows_hu=[[-160, 240]]",
        "spacing_mm=[7, 7, 7]",
        "network.kind='unet2d'",
        "network.neighbours=0",
        "network.widths=[4, 4, 4, 4, 4]",
        "training.batch_size=4",
        "training.augmentation.enabled=false",
    ];
    let shown = first_batch(&dataset, &common);
    let mut with_ct = common.to_vec();
    with_ct.push(CT);
    let normalised = first_batch(&dataset, &with_ct);
    assert_eq!(shown.input_shape, normalised.input_shape);
    let (mut inside, mut padding) = (0, 0);
    for (share, value) in shown.input.iter().zip(&normalised.input) {
        let expected = (-160.0 + share * 400.0 - 45.0) / 80.5;
        if (value - expected).abs() < 1e-4 {
            inside += 1;
        } else {
            assert_eq!((*share, *value), (0.0, 0.0));
            padding += 1;
        }
    }
    assert!(inside > 1000 && padding > 100, "{inside} {padding}");
    // The mean and deviation of each volume differ from these.
    let mut with_z_score = common.to_vec();
    with_z_score.push("normalisation={ kind = 'z_score' }");
    assert_ne!(first_batch(&dataset, &with_z_score).input, normalised.input);
}

#[test]
fn inspect_shows_the_channel_normalisation() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = Recipe::named("refine", &[CT.to_owned()]).unwrap();
    std::fs::write(folder.path().join("ct.toml"), recipe.to_toml().unwrap()).unwrap();
    let output = run(folder.path(), &["inspect", "ct.toml"], 0);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("-160 to 240 and -200 to 1200 HU, minus 45 HU, divided by 80.5 HU"),
        "{text}"
    );
    let output = run(folder.path(), &["inspect", "refine"], 0);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("1200 HU, each scaled to 0 to 1"), "{text}");
    assert_eq!(
        Normalisation::default().described(),
        "each scaled to 0 to 1"
    );
}
