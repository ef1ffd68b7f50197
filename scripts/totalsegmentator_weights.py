"""Makes weights of small networks with known behaviour, in the layout of TotalSegmentator's downloads, for
tests/with_engine/models/totalsegmentator.rs.

    totalsegmentator_weights.py OUT IMAGE                     makes OUT/results/Dataset…/…/fold_0/checkpoint_final.pth for
                                                              the tasks total, total_fast and lung_vessels; OUT/scan.nii.gz
                                                              (IMAGE in a frame of air, reoriented to LPI); and nnU-Net's
                                                              predictions, merged as in TotalSegmentator (nnunet.py,
                                                              nnUNet_predict_image): OUT/total.nii.gz, OUT/spleen.nii.gz
                                                              (only the parts that `--roi_subset spleen` runs) and
                                                              OUT/lung_vessels.nii.gz

Each network separates bands of intensity: the first channel passes through all layers, and the head assigns a label to each
band. Plans are in the older style for the parts and in the newer one for the rest. Needs nnunetv2 (scripts/setup-nnunet).
OUT/boxes.json contains the crops; names and labels are those of datasets/totalsegmentator/tasks.toml.
"""

import argparse
import json
import os
import tomllib
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nnunet_models import CUBE, ONCE, TWICE, architecture, configuration, older_style

ROOT = Path(__file__).resolve().parents[1]
TABLE = tomllib.loads((ROOT / "datasets/totalsegmentator/tasks.toml").read_text())
PARTS = [291, 292, 293, 294, 295]
FEATURES = [4, 8]
KERNELS, STRIDES = [CUBE] * 2, [ONCE, TWICE]
SHIFT = 3.0
# The spacing of IMAGE, so that nothing is resampled.
SPACING_MM = 3.0


def structures_of(number):
    """Names of a network's labels, in order."""
    for task in TABLE["tasks"].values():
        for part in task["parts"]:
            if part["model"] == number:
                return part.get("structures", task["structures"])
    raise SystemExit(f"no model {number}")


def network(heads):
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    return PlainConvUNet(
        1, 2, FEATURES, torch.nn.Conv3d, KERNELS, STRIDES, 2, heads, 2, True, torch.nn.InstanceNorm3d,
        {"eps": 1e-5, "affine": True}, None, None, torch.nn.LeakyReLU, {"inplace": True}, deep_supervision=False,
    )


def pass_through(net):
    """Sets the weights so that only the first channel passes, through the skip connection."""
    with torch.no_grad():
        for name, tensor in net.named_parameters():
            if "norm" in name or "all_modules.1" in name:
                # The shift keeps nearly all values positive, where the activation is the identity.
                tensor.fill_(1.0 if name.endswith("weight") else SHIFT)
            else:
                tensor.zero_()
            if name.endswith("conv.weight") and ("encoder.stages.0" in name or "decoder.stages" in name):
                # In a decoder's first layer, the upsampled features come before the skip connection.
                joined = name.startswith("decoder") and ".convs.0." in name
                tensor[0, FEATURES[0] if joined else 0, 1, 1, 1] = 1.0


def set_head(net, arriving, heads, labels, lowest):
    """Background is below a quantile of the input, `labels` are bands above it; other labels never occur."""
    levels = np.quantile(arriving, np.linspace(lowest, 0.9995, len(labels) + 1)) - SHIFT
    head = net.decoder.seg_layers[-1]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(-500.0)
        for label, level in zip([0, *labels], levels):
            head.weight[label, 0] = float(40 * level)
            head.bias[label] = float(-20 * level * level - 40 * level * SHIFT)


def plans(number, spacing, intensities):
    patch = [32, 32, 32]
    if number in PARTS:
        stage = configuration(patch, spacing, **older_style(FEATURES, KERNELS, STRIDES))
    else:
        stage = configuration(patch, spacing, architecture=architecture(FEATURES, KERNELS, STRIDES))
    return {
        "dataset_name": TABLE["models"][str(number)]["folder"],
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": spacing,
        "original_median_shape_after_transp": [64, 64, 64],
        "image_reader_writer": "NibabelIOWithReorient" if number == 298 else "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": stage},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensities},
    }


def make(number, results, image, spacing):
    entry = TABLE["models"][str(number)]
    model = results / entry["folder"] / entry["model"]
    names = structures_of(number)
    values = image.get_fdata()
    intensities = {
        "mean": 20.0, "median": 10.0, "std": 300.0, "min": -1024.0, "max": 1500.0,
        "percentile_00_5": -950.0, "percentile_99_5": 900.0,
    }
    described = plans(number, [spacing] * 3, intensities)
    # As in some of TotalSegmentator's models, the names in dataset.json differ from the task's.
    labels = {"background": 0} | {f"class_{index + 1}": index + 1 for index in range(len(names))}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    (model / "fold_0").mkdir(parents=True, exist_ok=True)
    (model / "plans.json").write_text(json.dumps(described))
    (model / "dataset.json").write_text(json.dumps(dataset))
    net = network(len(names) + 1)
    pass_through(net)
    seen = []
    hook = net.decoder.seg_layers[-1].register_forward_hook(lambda _, taken, __: seen.append(taken[0][0, 0].numpy()))
    part = np.clip(values, -950, 900)[tuple(slice(min(96, length // 2 * 2)) for length in values.shape)]
    with torch.no_grad():
        net(torch.from_numpy(((part - 20) / 300).astype(np.float32).transpose(2, 1, 0).copy())[None, None])
    hook.remove()
    # The structures that rough models find are bright and near the centre.
    sought = ["spleen", *TABLE["tasks"]["lung_vessels"]["rough"]["of"]]
    labels = [names.index(name) + 1 for name in (sought if number in (297, 298) else names) if name in names]
    if number not in (297, 298):
        labels = np.random.default_rng(number).permutation(labels)[: 3 if number in PARTS else 4]
        if number == 291:
            labels[-1] = 1  # the spleen
    # Later parts mark fewer voxels, so that labels of earlier parts remain visible.
    lowest = 0.3 + 0.13 * PARTS.index(number) if number in PARTS else 0.99 if number in (297, 298) else 0.5
    set_head(net, seen[0], len(names) + 1, labels, lowest)
    checkpoint = {
        "network_weights": net.state_dict(),
        "optimizer_state": None,
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float32(0.5)]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1,
        "init_args": {"plans": described, "configuration": "3d_fullres", "fold": 0, "dataset_json": dataset},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(checkpoint, model / "fold_0/checkpoint_final.pth")
    return model


def predicted(model, image, step):
    """nnU-Net's label map of an image reoriented to RAS."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(tile_step_size=step, use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), (0,))
    canonical = nib.as_closest_canonical(image)
    data = canonical.get_fdata().astype(np.int32).transpose(2, 1, 0)[None].astype(np.float32)
    spacing = [float(mm) for mm in canonical.header.get_zooms()[::-1]]
    # nnU-Net sums logits in 16 bits, whose rounding would decide at the borders of bands.
    half, torch.half = torch.half, torch.float32
    try:
        found = predictor.predict_single_npy_array(data, {"spacing": spacing}, None, None, False)
    finally:
        torch.half = half
    map_back = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.io_orientation(image.affine)
    )
    return nib.orientations.apply_orientation(found.transpose(2, 1, 0), map_back)


def cropped(image, mask):
    """cropping.py, crop_to_mask(): 20 mm in whole voxels around the mask."""
    addon = (np.array([20, 20, 20]) / image.header.get_zooms()).astype(int)
    where = np.where(mask)
    box = [
        (max(0, int(w.min()) - a), min(s, int(w.max()) + 1 + a)) for w, a, s in zip(where, addon, mask.shape)
    ]
    return image.slicer[tuple(slice(*ends) for ends in box)], box


def pasted(labels, box, shape):
    whole = np.zeros(shape, np.uint8)
    whole[tuple(slice(*ends) for ends in box)] = labels
    return whole


def total(models, image, numbers):
    names = TABLE["tasks"]["total"]["structures"]
    merged = np.zeros(image.shape, np.uint8)
    for number in numbers:
        lookup = np.array([0] + [names.index(name) + 1 for name in structures_of(number)], np.uint8)
        found = lookup[predicted(models[number], image, 0.8)]
        merged[found > 0] = found[found > 0]
    return merged


def framed(image):
    """Pads the image with ten voxels of noise on every side, and reorients it. A patch of constant air would only contain
    normalised rounding errors; in this noise nothing is bright, even in a patch without anything else."""
    values = np.pad(image.get_fdata(), 10, constant_values=-2000)
    noise = np.clip(-600 - np.random.default_rng(3).exponential(80, values.shape), -940, None)
    values = np.where(values < -940, noise, values).astype(np.int16)
    affine = image.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ [10, 10, 10]
    turned = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt("LPI")
    )
    return nib.Nifti1Image(values, affine).as_reoriented(turned)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--weights-only", action="store_true", help="without nnU-Net's label maps")
    arguments = parser.parse_args()
    out = arguments.out
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str((out / name).resolve())
    os.environ["nnUNet_compile"] = "false"
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    canonical = nib.as_closest_canonical(nib.load(arguments.image))
    image = framed(canonical)
    nib.save(image, out / "scan.nii.gz")
    models = {n: make(n, out / "results", canonical, SPACING_MM) for n in [*PARTS, 297, 298, 117]}
    if arguments.weights_only:
        return
    names = TABLE["tasks"]["total"]["structures"]
    save = lambda labels, name: nib.save(nib.Nifti1Image(labels.astype(np.uint8), image.affine), out / f"{name}.nii.gz")

    save(total(models, image, PARTS), "total")
    rough = predicted(models[298], image, 0.8)
    part, box = cropped(image, rough == names.index("spleen") + 1)
    spleen = pasted(total(models, part, [291]), box, image.shape)
    save(np.where(spleen == names.index("spleen") + 1, spleen, 0), "spleen")
    rough = predicted(models[297], image, 0.8)
    lung = [names.index(name) + 1 for name in TABLE["tasks"]["lung_vessels"]["rough"]["of"]]
    part, lung_box = cropped(image, np.isin(rough, lung))
    save(pasted(predicted(models[117], part, 0.5), lung_box, image.shape), "lung_vessels")
    boxes = {"spleen": box, "lung_vessels": lung_box}
    (out / "boxes.json").write_text(json.dumps(boxes, default=int))


if __name__ == "__main__":
    main()
