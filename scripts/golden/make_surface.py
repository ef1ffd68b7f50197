"""Golden values for distances between surfaces: tests/golden/surface/masks.json and real.json.

For pairs of masks, by google-deepmind/surface-distance: Hausdorff distance, HD95 and HD50, average distances in both
directions, the areas of both surfaces, surface Dice at several tolerances, Dice. Also by MONAI: Dice, surface Dice with
subvoxels, and its Hausdorff and average surface distances, which have another definition (voxels of the masks' edges
instead of surface elements, all with the same weight).

masks.json: small masks (thresholded smooth noise from fixed seeds, single voxels, full and empty masks, touching and
nested ones) as strings of 0 and 1, x fastest. real.json: masks of public CT by file and label, not the data itself;
the prediction is a label of another file, or the reference moved by whole voxels.

Run: python -m venv venv && venv/bin/pip install -r scripts/golden/surface.txt torch==2.11.0
     venv/bin/python scripts/golden/make_surface.py --data DATA
"""

import argparse
import json
from pathlib import Path

import nibabel
import numpy as np
import surface_distance
import torch
from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance
from monai.metrics import compute_surface_dice
from scipy.ndimage import gaussian_filter

OUT = Path(__file__).resolve().parents[2] / "tests/golden/surface"
TOLERANCES_MM = [0.0, 1.0, 2.0, 3.5]

# name: shape and spacing in mm (x, y, z), fractions of voxels inside (prediction, reference)
NOISE = {
    "isotropic": ((14, 12, 10), (1.0, 1.0, 1.0), (0.3, 0.25)),
    "anisotropic": ((17, 13, 6), (0.78, 0.78, 3.27), (0.2, 0.3)),
    "coarse_x": ((6, 15, 12), (4.0, 0.9, 1.1), (0.4, 0.35)),
    "touches_the_border": ((9, 8, 7), (1.2, 0.8, 2.0), (0.8, 0.9)),
    "one_slice": ((16, 15, 1), (0.9, 0.9, 5.0), (0.3, 0.3)),
}

# name: folder in the data, two file indices, two labels, and the shift (x, y, z) of the reference that gives the prediction
REAL = {
    "mandibles_of_two": ("headneck/labels", 0, 1, 5, 5, None),
    "parotids_of_two": ("headneck/labels", 2, 3, 3, 3, None),
    "stem_and_cord_touch": ("headneck/labels", 4, 4, 1, 2, None),
    "cord_moved": ("headneck/labels", 5, 5, 2, 2, (1, -2, 1)),
    "tumour_moved": ("sarcoma", 0, 0, 1, 1, (3, -2, 1)),
    "tumour_and_itself": ("sarcoma", 1, 1, 1, 1, (0, 0, 0)),
}


def number(value):
    return float(value) if np.isfinite(value) else None


def monai(prediction, reference, spacing):
    pair = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (prediction, reference)]
    both = [torch.cat([1 - mask, mask], 1) for mask in pair]
    kwargs = {"include_background": False, "spacing": spacing}
    surface = [
        compute_surface_dice(*both, class_thresholds=[mm], spacing=spacing, use_subvoxels=True).item()
        for mm in TOLERANCES_MM
    ]
    return {
        "dice": number(compute_dice(*pair, include_background=True, ignore_empty=True).item()),
        "surface_dice": [number(value) for value in surface],
        "hausdorff_mm": number(compute_hausdorff_distance(*both, **kwargs).item()),
        "hd95_mm": number(compute_hausdorff_distance(*both, percentile=95, **kwargs).item()),
        "assd_mm": number(compute_average_surface_distance(*both, symmetric=True, **kwargs).item()),
    }


def figures(prediction, reference, spacing):
    found = surface_distance.compute_surface_distances(reference, prediction, spacing)
    sides = [
        (found["distances_gt_to_pred"], found["surfel_areas_gt"]),
        (found["distances_pred_to_gt"], found["surfel_areas_pred"]),
    ]
    with np.errstate(invalid="ignore"):
        both = sum(np.sum(d * a) for d, a in sides) / sum(np.sum(a) for _, a in sides)
        dice = surface_distance.compute_dice_coefficient(reference, prediction)
        surface = [surface_distance.compute_surface_dice_at_tolerance(found, mm) for mm in TOLERANCES_MM]
        averages = surface_distance.compute_average_surface_distance(found)
    defined = prediction.any() and reference.any()
    hausdorff = lambda percent: number(surface_distance.compute_robust_hausdorff(found, percent)) if defined else None
    return {
        "hausdorff_mm": hausdorff(100),
        "hd95_mm": hausdorff(95),
        "hd50_mm": hausdorff(50),
        "averages_mm": [number(value) for value in averages],
        "assd_mm": number(both),
        "areas_mm2": [float(np.sum(area)) for _, area in sides],
        "tolerances_mm": TOLERANCES_MM,
        "surface_dice": [number(value) for value in surface],
        "dice": number(dice),
        "monai": monai(prediction, reference, spacing),
    }


def small():
    for seed, (name, (shape, spacing, shares)) in enumerate(NOISE.items()):
        random = np.random.default_rng(seed)
        base = random.normal(size=shape)
        masks = []
        for share in shares:
            noise = gaussian_filter(base + 0.6 * random.normal(size=shape), 1.3)
            masks.append(noise >= np.quantile(noise, 1 - share))
        yield name, masks[0], masks[1], spacing
    shape, spacing = (7, 6, 5), (0.9, 1.1, 2.5)
    nothing, one, other, full = (np.zeros(shape, bool) for _ in range(4))
    one[1, 2, 3], other[5, 3, 1], full[:] = True, True, True
    block, beside, inner = (np.zeros(shape, bool) for _ in range(3))
    block[1:3, 1:5, 1:4], beside[3:6, 1:5, 1:4], inner[2:5, 2:4, 2:3] = True, True, True
    for name, prediction, reference in [
        ("both_empty", nothing, nothing),
        ("empty_prediction", nothing, one),
        ("empty_reference", block, nothing),
        ("one_voxel_each", one, other),
        ("same_voxel", one, one),
        ("full_and_one", full, one),
        ("full_and_full", full, full),
        ("side_by_side", block, beside),
        ("nested", inner, full),
    ]:
        yield name, prediction, reference, spacing


def moved(mask, by):
    result = np.zeros_like(mask)
    to = tuple(slice(max(0, step), mask.shape[axis] + min(0, step)) for axis, step in enumerate(by))
    source = tuple(slice(max(0, -step), mask.shape[axis] - max(0, step)) for axis, step in enumerate(by))
    result[to] = mask[source]
    return result


def real(data):
    for name, (folder, first, second, label, other, by) in REAL.items():
        pattern = "*.nii.gz" if folder == "headneck/labels" else "*/*[Mm]ask*.nii*"
        files = sorted((data / folder).glob(pattern))
        reference_file, prediction_file = files[first], files[second]
        image = nibabel.load(reference_file)
        reference = np.asarray(image.dataobj) == label
        prediction = np.asarray(nibabel.load(prediction_file).dataobj) == other
        if by is not None:
            prediction = moved(reference, by)
        spacing = tuple(float(f"{side:.4f}") for side in image.header.get_zooms()[:3])
        yield {
            "name": name,
            "reference": [str(reference_file.relative_to(data)), label],
            "prediction": [str(prediction_file.relative_to(data)), other],
            "moved": by,
            "spacing_mm": spacing,
            **figures(prediction, reference, spacing),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with headneck/ and sarcoma/")
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    digits = lambda mask: "".join(map(str, mask.astype(int).ravel("F")))
    masks = [
        {
            "name": name,
            "shape_xyz": prediction.shape,
            "spacing_mm": spacing,
            "prediction": digits(prediction),
            "reference": digits(reference),
            **figures(prediction, reference, spacing),
        }
        for name, prediction, reference, spacing in small()
    ]
    for name, cases in [("masks", masks), ("real", list(real(args.data)))]:
        lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
        (OUT / f"{name}.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
