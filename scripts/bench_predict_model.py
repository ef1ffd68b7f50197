"""Makes phantoms, an nnU-Net model and volumes for scripts/bench_predict.py.

The phantom: a water-density body in air that fills most of the volume, with ellipsoids that do not touch, about equally
many of each structure, 117 per 2.4 litres. They are so small that a patch contains several of them and their surroundings;
otherwise instance normalisation would remove their level. A structure is identified by its Hounsfield units (at most 14
levels, 120 HU apart) and, if there are more structures than levels, by its texture (stripes along an axis, 3 or 4.5 mm wide,
or a chequerboard). So every label can be derived from the image, as far as a network learns it in some hundred steps.

The network: nnU-Net's PlainConvUNet from its plans, trained briefly with cross-entropy on patches of one phantom. It learns
a head for levels and one for textures, which takes far fewer steps than one for all classes; the head of a class is the sum
of its level's and its texture's head.

Run: python scripts/bench_predict_model.py FOLDER --classes 10 … (bench_predict.py does)
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np

LEVELS = np.arange(14) * 120 - 360  # HU; includes the body's 0, for structures with a texture
TEXTURES = 9
LITRES_PER_ELLIPSOID = 2.36 / 117
WINDOW, MEAN_HU, SD_HU = (-600.0, 1300.0), 250.0, 420.0  # foreground statistics in plans.json
NETWORK_SPACING = 1.5
TRAINING_MM = (128, 128, 144)


def appearances(structures):
    """(HU, texture) of each structure: levels first."""
    levels = [hu for hu in LEVELS if hu != 0]
    found = [(hu, 0) for hu in levels]
    found += [(hu, texture) for texture in range(1, TEXTURES) for hu in LEVELS]
    if structures > len(found):
        raise SystemExit(f"at most {len(found) + 1} classes are possible, requested {structures + 1}")
    # Few structures: levels as far apart as possible.
    few = levels[:: max(1, len(levels) // structures)] if structures <= len(levels) else None
    return [(hu, 0) for hu in few[:structures]] if few is not None else found[:structures]


def stripes(texture, mm):
    """-1 or 1 at positions (x, y, z) in mm; 0 without a texture."""
    if texture == 0:
        return 0.0
    if texture <= 6:
        axis, wide = (texture - 1) % 3, (3.0, 4.5)[(texture - 1) // 3]
        return np.where(np.floor(mm[axis] / wide) % 2 == 0, -1.0, 1.0)
    wide = (3.0, 4.5)[texture - 7]
    return np.where((np.floor(mm[0] / wide) + np.floor(mm[1] / wide) + np.floor(mm[2] / wide)) % 2 == 0, -1.0, 1.0)


def centres(count, extent_mm, generator):
    """Positions in the body, each the farthest of 300 candidates from earlier ones; (position, 3) in mm from the corner."""
    middle, radii = extent_mm / 2, extent_mm * [0.48, 0.46, 0.5]
    chosen = np.empty((0, 3))
    for _ in range(count):
        drawn = generator.uniform(-1, 1, (2000, 3))
        drawn = middle + radii * 0.9 * drawn[(drawn[:, :2] ** 4).sum(1) < 1][:300]
        if len(chosen):
            apart = ((drawn[:, None] - chosen[None]) ** 2).sum(2).min(1)
            drawn = drawn[[apart.argmax()]]
        chosen = np.vstack((chosen, drawn[:1]))
    return chosen, middle, radii


def phantom(shape, spacing_mm, structures, seed):
    """int16 HU and uint8 labels, (x, y, z)."""
    from scipy.ndimage import gaussian_filter

    generator = np.random.default_rng(seed)
    extent = np.multiply(shape, spacing_mm)
    count = max(structures, round(np.prod(extent) / 1e6 / LITRES_PER_ELLIPSOID))
    places, middle, radii = centres(count, extent, generator)
    mm = np.meshgrid(*[(np.arange(n) + 0.5) * s for n, s in zip(shape, spacing_mm)], indexing="ij", sparse=True)
    body = sum(((mm[axis] - middle[axis]) / radii[axis]) ** 4 for axis in (0, 1)) < 1
    hu = np.where(np.broadcast_to(body, shape), 0.0, -1000.0).astype(np.float32)
    labels = np.zeros(shape, np.uint8)
    apart = np.sqrt(((places[:, None] - places[None]) ** 2).sum(2) + 1e9 * np.eye(count)).min(1)
    look = appearances(structures)
    for index, place, room in zip(generator.permutation(count) % structures, places, apart):
        level, texture = look[index]
        radius = np.minimum(0.47 * room, 60) * generator.uniform(0.75, 1.0, 3)
        box = tuple(
            slice(max(0, int((place[a] - radius[a]) / spacing_mm[a])), int((place[a] + radius[a]) / spacing_mm[a]) + 2)
            for a in range(3)
        )
        near = [mm[axis][tuple(box[a] if a == axis else slice(None) for a in range(3))] for axis in range(3)]
        inside = sum(((near[axis] - place[axis]) / radius[axis]) ** 2 for axis in range(3)) < 1
        inside &= np.broadcast_to(body, shape)[box]
        labels[box][inside] = index + 1
        shown = level + 50.0 * stripes(texture, near) * np.ones(inside.shape)
        hu[box][inside] = shown[inside]
    hu = gaussian_filter(hu, [0.8 / s for s in spacing_mm]) + generator.normal(0, 12, shape).astype(np.float32)
    return np.clip(np.round(hu), -1024, 3071).astype(np.int16), labels


def plans(arguments):
    widths, patch = arguments.widths, [arguments.patch] * 3
    convolutions = {
        "n_stages": len(widths),
        "features_per_stage": widths,
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * len(widths),
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (len(widths) - 1),
        "n_conv_per_stage": [2] * len(widths),
        "n_conv_per_stage_decoder": [2] * (len(widths) - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    resampling = {"is_seg": False, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": patch,
        "median_image_size_in_voxels": patch,
        "spacing": [NETWORK_SPACING] * 3,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {**resampling, "order": 3},
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": convolutions,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": True,
    }
    intensities = {"mean": MEAN_HU, "median": MEAN_HU, "std": SD_HU, "min": -1024.0, "max": 3071.0}
    intensities |= {"percentile_00_5": WINDOW[0], "percentile_99_5": WINDOW[1]}
    return {
        "dataset_name": "Dataset900_Phantom",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [NETWORK_SPACING] * 3,
        "original_median_shape_after_transp": patch,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensities},
    }


def factors(classes):
    """Index of each class among the levels and among the textures; the background is the last of both."""
    known = list(LEVELS)
    found = [(known.index(hu), texture) for hu, texture in appearances(classes - 1)]
    return np.array([(len(known), TEXTURES), *found])


def untrained(described, heads):
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    architecture = described["configurations"]["3d_fullres"]["architecture"]
    return get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        1,
        heads,
        deep_supervision=False,
    )


def composed(network, described, levels, textures):
    """The network with a head for each class; `levels` and `textures` are indices of the trained heads."""
    final = untrained(described, len(levels))
    weights = final.state_dict()
    weights |= {name: value for name, value in network.state_dict().items() if ".seg_layers." not in name}
    last = f"decoder.seg_layers.{len(network.decoder.seg_layers) - 1}"
    for part in ("weight", "bias"):
        heads = network.state_dict()[f"{last}.{part}"]
        weights[f"{last}.{part}"] = heads[levels] + heads[textures]
    final.load_state_dict(weights)
    return final


def trained(arguments, described):
    """Trains the network; returns it and its accuracy on structure voxels of the last patches."""
    import torch

    torch.manual_seed(arguments.seed)
    generator = np.random.default_rng(arguments.seed)
    first = len(LEVELS) + 1
    network = untrained(described, first + TEXTURES + 1)
    of_class = torch.from_numpy(factors(arguments.classes))
    levels, textures = of_class[:, 0], of_class[:, 1] + first
    # 2.4 litres contain all structures, and a small phantom is quick to make.
    shape = [round(mm / NETWORK_SPACING) for mm in TRAINING_MM]
    hu, labels = phantom(shape, [NETWORK_SPACING] * 3, arguments.classes - 1, arguments.seed)
    image = (np.clip(hu.astype(np.float32), *WINDOW) - MEAN_HU) / SD_HU
    places = [np.argwhere(labels == label) for label in range(1, arguments.classes)]
    side, right = arguments.training_patch, []
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=arguments.steps)
    for step in range(arguments.steps):
        # Around a voxel of a structure; all structures equally often.
        around = places[generator.integers(len(places))]
        around = around[generator.integers(len(around))]
        corner = [int(np.clip(c - generator.integers(side), 0, n - side)) for c, n in zip(around, labels.shape)]
        cut = tuple(slice(c, c + side) for c in corner)
        x = torch.from_numpy(np.ascontiguousarray(image[cut].transpose(2, 1, 0)))[None, None]
        y = torch.from_numpy(np.ascontiguousarray(labels[cut].transpose(2, 1, 0)).astype(np.int64))[None]
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bf16):
            logits = network(x).float()
        loss = 0.0
        for at, part in enumerate((logits[:, :first], logits[:, first:])):
            # Most voxels are background.
            weights = torch.tensor([1.0] * (part.shape[1] - 1) + [0.3])
            loss = loss + torch.nn.functional.cross_entropy(part, of_class[:, at][y], weights)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            found = (logits[:, levels] + logits[:, textures]).argmax(1)
        right.append(((found == y) & (y > 0)).sum().item() / max(1, (y > 0).sum().item()))
        if step % 10 == 9:
            print(f"step {step + 1}: loss {loss.item():.3f}, accuracy on structures {np.mean(right[-10:]):.3f}", flush=True)
    return composed(network, described, levels, textures), float(np.mean(right[-20:]))


def write_nnunet(folder, network, described, classes):
    import torch

    results = folder / "model-nnunet"
    (results / "fold_0").mkdir(parents=True, exist_ok=True)
    (results / "plans.json").write_text(json.dumps(described, indent=1))
    labels = {"background": 0} | {f"structure_{label}": label for label in range(1, classes)}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    (results / "dataset.json").write_text(json.dumps(dataset, indent=1))
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "3d_fullres", "fold": 0},
        "inference_allowed_mirroring_axes": None,
    }
    torch.save(checkpoint, results / "fold_0/checkpoint_final.pth")


MODEL = """format = 2
ctseg_version = "0.1.0"

[structures]
{structures}

[stage2]
dataset = "phantom"
data_fingerprint = "phantom"
seed = {seed}
engine = "PyTorch"

[[stage2.folds]]
fold = 0
epoch = 1
validation_dice = 0.0
held_out = []
trained_on = []

[stage2.recipe]
name = "bench"
stage = 2
structures = "each"
outputs = "{outputs}"
region = "whole"
spacing_mm = [{spacing}, {spacing}, {spacing}]
interpolation = "cubic"
windows_hu = [[{low}, {high}]]
normalisation = {{ kind = "ct", mean_hu = {mean}, sd_hu = {sd} }}
folds = 2

[stage2.recipe.network]
kind = "unet3d"
widths = {widths}

[stage2.recipe.training]
loss = "{loss}"
batch_size = 1
patch_size = [{patch}, {patch}, {patch}]
"""


def safetensors(tensors):
    """The bytes of a safetensors file of float32 arrays."""
    described, end = {}, 0
    for name, values in tensors.items():
        begin, end = end, end + values.nbytes
        described[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [begin, end]}
    header = json.dumps(described).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + b"".join(values.tobytes() for values in tensors.values())


def write_ctseg(bundle, tensors, structures, outputs, loss, widths, patch, seed):
    bundle.mkdir(exist_ok=True, parents=True)
    names = "\n".join(f'"{label}" = "structure_{label}"' for label in range(1, structures + 1))
    text = MODEL.format(
        structures=names, seed=seed, outputs=outputs, spacing=NETWORK_SPACING, low=WINDOW[0], high=WINDOW[1],
        mean=MEAN_HU, sd=SD_HU, widths=widths, loss=loss, patch=patch,
    )
    (bundle / "model.toml").write_text(text)
    (bundle / "stage2.safetensors").write_bytes(safetensors(tensors))
    names = ("model.toml", "stage2.safetensors")
    sums = [f"{hashlib.sha256((bundle / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (bundle / "SHA256SUMS").write_text("".join(sums))


def write_volumes(folder, arguments):
    import nibabel

    (folder / "volumes").mkdir(exist_ok=True)
    for number in range(1, arguments.volumes + 1):
        hu, labels = phantom(arguments.shape, arguments.spacing, arguments.classes - 1, arguments.seed + number)
        for name, data in ((f"volumes/volume{number}", hu), (f"truth{number}", labels)):
            image = nibabel.Nifti1Image(data, np.diag([*arguments.spacing, 1.0]))
            image.header.set_xyzt_units("mm")
            nibabel.save(image, folder / f"{name}.nii.gz")
    tiny = nibabel.Nifti1Image(np.full([8] * 3, -1000, np.int16), np.diag([NETWORK_SPACING] * 3 + [1.0]))
    nibabel.save(tiny, folder / "tiny.nii.gz")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", type=int, required=True, help="including background")
    parser.add_argument("--volumes", type=int, default=2)
    parser.add_argument("--shape", type=int, nargs=3, default=[256, 256, 160])
    parser.add_argument("--spacing", type=float, nargs=3, default=[1.0, 1.0, 1.5])
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--training-patch", type=int, default=48)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--f32", dest="bf16", action="store_false", help="train in f32 instead of bf16")
    return parser.parse_args()


def main():
    arguments = parse()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    described = plans(arguments)
    network, right = trained(arguments, described)
    write_nnunet(arguments.folder, network, described, arguments.classes)
    write_volumes(arguments.folder, arguments)
    made = {**vars(arguments), "folder": None, "of_structures_right": right}
    (arguments.folder / "made.json").write_text(json.dumps(made) + "\n")


if __name__ == "__main__":
    main()
