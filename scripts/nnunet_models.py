"""Makes small models with nnU-Net and predicts with them, for tests/with_engine/models/nnunet.rs.

Each model is built by nnU-Net's trainer from its plans, trained for some steps on a real labelled CT (so that label maps are
smooth and large enough to compare), saved by the trainer's own `save_checkpoint`, and used by `nnUNetPredictor` like
`nnUNetv2_predict`. The network's input and output are saved beside the label map: the preprocessed array, and the logits on
the network's grid, blended in 32 bits (nnU-Net blends in 16 bits, and its label map is from those).

    slices     2d, transposed, mirrored, one fold of all cases
    volumes    3d_fullres, three folds, mirrored, plans in the older style
    thick      3d_fullres, transposed, thick slices that are resampled slice by slice (separate z), LPS
    cascade    3d_lowres and 3d_cascade_fullres
    regions    residual encoder, regions and an ignore label, masked z-score, cropped to non-zero

Run: python scripts/nnunet_models.py OUT --data DATA MODEL …        (an interpreter with nnunetv2; DATA as in CTSEG_TEST_DATA)
     python scripts/nnunet_models.py OUT --predict RESULTS_MODEL_FOLDER IMAGE…   predicts with a model folder;
         --earlier FOLDER: label maps of a cascade's first stage, for its second stage
"""

import argparse
import functools
import json
import os
import shutil
from pathlib import Path

import numpy as np

RESAMPLING = "resample_data_or_seg_to_shape"


def configuration(patch, spacing, scheme="CTNormalization", masked=False, **further):
    kwargs = {"is_seg": False, "order_z": 0, "force_separate_z": None}
    found = {
        "data_identifier": "nnUNetPlans",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": patch,
        "median_image_size_in_voxels": patch,
        "spacing": spacing,
        "normalization_schemes": [scheme],
        "use_mask_for_norm": [masked],
        "batch_dice": True,
    }
    for what, order, is_seg in (("data", 3, False), ("seg", 1, True), ("probabilities", 1, False)):
        found[f"resampling_fn_{what}"] = RESAMPLING
        found[f"resampling_fn_{what}_kwargs"] = {**kwargs, "order": order, "is_seg": is_seg}
    return found | further


def architecture(features, kernels, strides, residual=False, convolutions=2):
    axes = len(kernels[0])
    stages = len(features)
    counts = {"n_conv_per_stage": [convolutions] * stages, "n_conv_per_stage_decoder": [convolutions] * (stages - 1)}
    module = "unet.PlainConvUNet"
    if residual:
        counts = {"n_blocks_per_stage": [1, 2, 2, 2][:stages], "n_conv_per_stage_decoder": [1] * (stages - 1)}
        module = "unet.ResidualEncoderUNet"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.{module}",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": features,
            "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
            "kernel_sizes": kernels,
            "strides": strides,
            **counts,
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def older_style(features, kernels, strides):
    return {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": features[0],
        "unet_max_num_features": max(features),
        "n_conv_per_stage_encoder": [2] * len(features),
        "n_conv_per_stage_decoder": [2] * (len(features) - 1),
        "num_pool_per_axis": [len(features) - 1] * 3,
        "pool_op_kernel_sizes": strides,
        "conv_kernel_sizes": kernels,
    }


CUBE, TWICE, ONCE = [3, 3, 3], [2, 2, 2], [1, 1, 1]


def described(name):
    """Plans without intensities, dataset.json, folds and mirrored axes."""
    transpose, labels, order = [0, 1, 2], {"background": 0, "spleen": 1, "kidneys": 2, "liver": 3}, None
    folds, mirrored = [0], None
    if name == "slices":
        transpose = [1, 0, 2]
        labels = {"background": 0, "brainstem": 1, "cord": 2, "parotids": 3, "mandible": 4}
        network = architecture([8, 16, 24], [[3, 3]] * 3, [[1, 1], [2, 2], [2, 2]], convolutions=1)
        stages = {"2d": configuration([40, 48], [4.0, 5.5], architecture=network)}
        folds, mirrored = ["all"], (0, 1)
    elif name == "volumes":
        network = older_style([8, 16, 24], [CUBE] * 3, [ONCE, TWICE, TWICE])
        stages = {"3d_fullres": configuration([24, 32, 32], [8.0, 7.6, 7.9], **network)}
        folds, mirrored = [0, 1, 2], (0, 2)
    elif name == "thick":
        transpose = [1, 0, 2]
        labels = {"background": 0, "tumour": 1}
        network = architecture([8, 16, 24], [[3, 1, 3], CUBE, CUBE], [ONCE, [2, 1, 2], TWICE])
        stages = {"3d_fullres": configuration([40, 16, 40], [2.2, 4.0, 2.4], architecture=network)}
        folds, mirrored = [0], (0, 2)
    elif name == "cascade":
        network = architecture([8, 16, 24], [CUBE] * 3, [ONCE, TWICE, TWICE])
        stages = {
            "3d_lowres": configuration([16, 24, 24], [9.0, 8.0, 8.0], architecture=network, next_stage="3d_cascade_fullres"),
            "3d_fullres": configuration([24, 32, 32], [5.5, 5.5, 5.5], architecture=network),
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        }
    elif name == "regions":
        labels = {"background": 0, "organs": [1, 2, 3], "paired": [2, 3], "liver": [3], "ignore": 4}
        order = [2, 3, 1]
        network = architecture([8, 16, 24], [CUBE] * 3, [ONCE, TWICE, TWICE], residual=True)
        stages = {"3d_fullres": configuration([24, 32, 32], [6.0, 6.0, 6.0], "ZScoreNormalization", True, architecture=network)}
        mirrored = (1,)
    else:
        raise SystemExit(f"no model {name}")
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    if order:
        dataset["regions_class_order"] = order
    plans = {
        "dataset_name": f"Dataset900_{name}",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [64, 64, 64],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": transpose,
        "transpose_backward": [int(axis) for axis in np.argsort(transpose)],
        "configurations": stages,
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
    }
    return plans, dataset, folds, mirrored


def training_case(name, data, folder):
    """Paths of an image and its labels."""
    import nibabel

    image, labels = folder / "images/case_0000.nii.gz", folder / "labels.nii.gz"
    image.parent.mkdir(parents=True, exist_ok=True)
    if name == "slices":
        source, marked = data / "headneck/images/kbp_002.nii.gz", data / "headneck/labels/kbp_002.nii.gz"
        table = {1: 1, 2: 2, 3: 3, 4: 3, 5: 4}
    elif name == "thick":
        source, marked = data / "sarcoma/STS_002/CT_image.nii.gz", data / "sarcoma/STS_002/CT_mask.nii.gz"
        table = {1: 1}
    else:
        source = data / "totalseg/example_ct.nii.gz"
        marked = data / "totalseg/example_seg_fast_force_split.nii.gz"
        table = {1: 1, 2: 2, 3: 2, 5: 3}
    volume, seen = nibabel.load(source), nibabel.load(marked)
    if name == "slices":
        # Crop: a part is enough, and there are many slices across y.
        part = (slice(24, 104), slice(44, 84), slice(60, 124))
        volume, seen = volume.slicer[part], seen.slicer[part]
    found = np.asanyarray(seen.dataobj)
    new = np.zeros(found.shape, np.uint8)
    for old, label in table.items():
        new[found == old] = label
    nibabel.save(nibabel.Nifti1Image(new, seen.affine), labels)
    if name == "regions":
        # Zeros to crop away, and zeros inside the image to keep.
        values = np.asanyarray(volume.dataobj).astype(np.int16)
        values[:9], values[:, -7:], values[..., :5] = 0, 0, 0
        values[40:60, 40:60, 40:60][values[40:60, 40:60, 40:60] > 40] = 0
        nibabel.save(nibabel.Nifti1Image(values, volume.affine), image)
    elif name == "slices":
        nibabel.save(volume, image)
    else:
        shutil.copy(source, image)
    return image, labels


def intensities(image, labels):
    import nibabel

    values = nibabel.load(image).get_fdata()[nibabel.load(labels).get_fdata() > 0]
    ends = np.percentile(values, [0.5, 99.5])
    return {
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "std": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
        "percentile_00_5": float(ends[0]),
        "percentile_99_5": float(ends[1]),
    }


def learn(trainer, data, labels, steps, generator):
    """Trains some steps with cross-entropy on patches around labelled voxels."""
    import torch

    network, manager = trainer.network, trainer.label_manager
    patch = trainer.configuration_manager.patch_size
    flat = len(patch) == 2
    sides = [1, *patch] if flat else patch
    pad = [(0, max(0, side - length)) for side, length in zip(sides, labels.shape)]
    data, labels = np.pad(data, [(0, 0), *pad]), np.pad(labels, pad)
    places = [np.argwhere(labels == label) for label in np.unique(labels) if label > 0]
    regions = manager.foreground_regions if manager.has_regions else None
    optimiser = torch.optim.Adam(network.parameters(), 4e-3)
    # Most voxels are background; label maps without structures would always agree.
    weights = torch.tensor([0.2] + [1.0] * (manager.num_segmentation_heads - 1))
    network.train()
    for _ in range(steps):
        around = places[generator.integers(len(places))]
        around = around[generator.integers(len(around))]
        corner = [int(np.clip(c - generator.integers(s), 0, n - s)) for c, s, n in zip(around, sides, labels.shape)]
        cut = tuple(slice(c, c + s) for c, s in zip(corner, sides))
        x = torch.from_numpy(np.ascontiguousarray(data[(slice(None), *cut)]))[None]
        y = torch.from_numpy(np.ascontiguousarray(np.maximum(labels[cut], 0).astype(np.int64)))[None]
        if flat:
            x, y = x[:, :, 0], y[:, 0]
        said = network(x)
        said = said[0] if isinstance(said, (list, tuple)) else said
        if regions:
            wanted = torch.stack([torch.isin(y, torch.tensor(np.atleast_1d(region))) for region in regions], 1).float()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(said, wanted)
        else:
            loss = torch.nn.functional.cross_entropy(said, y, weights)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float(loss.detach())


def make(name, folder, data, steps):
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans, dataset, folds, mirrored = described(name)
    image, labels = training_case(name, data, folder)
    plans["foreground_intensity_properties_per_channel"] = {"0": intensities(image, labels)}
    results = folder / "results"
    trained = [stage for stage in plans["configurations"] if name != "cascade" or stage != "3d_fullres"]
    for stage in trained:
        model = results / plans["dataset_name"] / f"nnUNetTrainer__nnUNetPlans__{stage}"
        model.mkdir(parents=True, exist_ok=True)
        (model / "plans.json").write_text(json.dumps(plans, indent=1))
        (model / "dataset.json").write_text(json.dumps(dataset, indent=1))
        manager = PlansManager(json.loads((model / "plans.json").read_text()))
        handled = manager.get_configuration(stage)
        preprocessor = handled.preprocessor_class(verbose=False)
        seen, marked, _ = preprocessor.run_case([str(image)], str(labels), manager, handled, dataset)
        if handled.previous_stage_name:
            known = manager.get_label_manager(dataset).foreground_labels
            seen = np.vstack((seen, np.stack([(marked[0] == label).astype(seen.dtype) for label in known])))
        # The trainer detects the file format of the preprocessed cases.
        preprocessed = Path(os.environ["nnUNet_preprocessed"]) / plans["dataset_name"] / handled.data_identifier
        preprocessed.mkdir(parents=True, exist_ok=True)
        np.savez(preprocessed / "case.npz", data=seen[:, :1, :1, :1])
        for number, fold in enumerate(folds):
            torch.manual_seed(7 + number)
            given = json.loads((model / "plans.json").read_text()) | {"continue_training": False}
            trainer = nnUNetTrainer(given, stage, fold, dataset, torch.device("cpu"))
            trainer.initialize()
            trainer.inference_allowed_mirroring_axes = mirrored
            loss = learn(trainer, seen, marked[0], steps * (6 if len(handled.patch_size) == 2 else 1), np.random.default_rng(number))
            trainer._best_ema = np.float64(0.5)
            trainer.logger.log("mean_fg_dice", np.float32(0.25), 0)
            (model / f"fold_{fold}").mkdir(exist_ok=True)
            trainer.save_checkpoint(str(model / f"fold_{fold}/checkpoint_final.pth"))
            print(f"{name} {stage} fold {fold}: loss {loss:.3f}", flush=True)
    earlier = None
    for stage in trained:
        model = results / plans["dataset_name"] / f"nnUNetTrainer__nnUNetPlans__{stage}"
        predict(model, [image], folder / f"nnunet-{stage}", tuple(folds), earlier)
        earlier = folder / f"nnunet-{stage}"


def predict(model, images, out, folds=None, earlier=None):
    """Writes label maps like nnUNetv2_predict, and the network's input and logits for each."""
    import torch
    from nnunetv2.inference import predict_from_raw_data
    from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot

    predictor = predict_from_raw_data.nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), folds)
    out.mkdir(parents=True, exist_ok=True)
    for image in images:
        case = image.name.split(".nii")[0].removesuffix("_0000")
        before = str(earlier / f"{case}.nii.gz") if earlier else None
        predictor.predict_from_files_sequential(
            [[str(image)]], [str(out / case)], folder_with_segs_from_prev_stage=str(earlier) if earlier else None
        )
        plans, handled = predictor.plans_manager, predictor.configuration_manager
        preprocessor = handled.preprocessor_class(verbose=False)
        data, seg, _ = preprocessor.run_case([str(image)], before, plans, handled, predictor.dataset_json)
        if earlier:
            data = np.vstack((data, convert_labelmap_to_one_hot(seg[0], predictor.label_manager.foreground_labels, data.dtype)))
        half, gaussian = torch.half, predict_from_raw_data.compute_gaussian
        torch.half = torch.float32
        predict_from_raw_data.compute_gaussian = functools.partial(gaussian, dtype=torch.float32)
        try:
            logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).numpy()
        finally:
            torch.half, predict_from_raw_data.compute_gaussian = half, gaussian
        np.save(out / f"{case}_input.npy", data.astype(np.float32))
        np.save(out / f"{case}_logits.npy", logits.astype(np.float32))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("what", nargs="+")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--predict", action="store_true", help="predict: WHAT is a model folder and images")
    parser.add_argument("--earlier", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(arguments.out.resolve() / name)
    os.environ["nnUNet_compile"] = "false"
    import torch

    torch.set_num_threads(arguments.threads)
    if arguments.predict:
        model, *images = map(Path, arguments.what)
        predict(model, images, arguments.out, earlier=arguments.earlier)
        return
    for name in arguments.what:
        make(name, arguments.out / name, arguments.data, arguments.steps)


if __name__ == "__main__":
    main()
