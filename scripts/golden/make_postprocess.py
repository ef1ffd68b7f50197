"""Golden values for postprocessing of masks: tests/golden/postprocess/masks.json.

Components come from scikit-image (`measure.label`, `morphology.remove_small_objects`), holes, Gaussian and median
from scipy.ndimage. Masks are strings of 0 and 1, x fastest, then y, then z.

Run: python scripts/golden/make_postprocess.py
"""

import json
from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage import measure, morphology

OUT = Path(__file__).resolve().parents[2] / "tests/golden/postprocess/masks.json"
SPACING_ZYX = (3.0, 1.5, 0.8)
CONNECTIVITY = {6: 1, 18: 2, 26: 3}


def text(mask):
    return "".join("1" if v else "0" for v in mask.ravel())


def largest(mask, connectivity):
    labels, count = measure.label(mask, connectivity=CONNECTIVITY[connectivity], return_num=True)
    if count == 0:
        return mask
    return labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1


def without_small(mask, ml, connectivity):
    voxel_ml = np.prod(SPACING_ZYX) / 1000.0
    smallest = int(np.ceil(ml / voxel_ml - 1e-9))
    return morphology.remove_small_objects(
        mask, max_size=smallest - 1, connectivity=CONNECTIVITY[connectivity]
    )


def by_slice(mask, axis):
    filled = [ndimage.binary_fill_holes(part) for part in np.moveaxis(mask, axis, 0)]
    return np.moveaxis(np.stack(filled), 0, axis)


def blurred(mask, sigma_mm):
    sd = [sigma_mm / mm for mm in SPACING_ZYX]
    return ndimage.gaussian_filter(mask.astype(float), sd, mode="nearest", truncate=4.0) > 0.5


def results(mask):
    steps = []
    for connectivity in CONNECTIVITY:
        steps.append({"step": {"step": "largest_component", "connectivity": connectivity},
                      "result": text(largest(mask, connectivity))})
        for ml in (0.0108, 0.03, 0.5):
            step = {"step": "smallest_volume", "ml": ml, "connectivity": connectivity}
            steps.append({"step": step, "result": text(without_small(mask, ml, connectivity))})
    steps.append({"step": {"step": "fill_holes", "within": "volume"},
                  "result": text(ndimage.binary_fill_holes(mask))})
    steps.append({"step": {"step": "fill_holes", "within": "slice"}, "result": text(by_slice(mask, 0))})
    for sigma_mm in (0.6, 1.0, 2.5):
        steps.append({"step": {"step": "gaussian", "sigma_mm": sigma_mm}, "result": text(blurred(mask, sigma_mm))})
    for voxels in (3, 5):
        filtered = ndimage.median_filter(mask.astype(np.uint8), size=voxels, mode="nearest") > 0
        steps.append({"step": {"step": "median", "voxels": voxels}, "result": text(filtered)})
    return steps


def main():
    rng = np.random.default_rng(20241123)
    masks = {}
    for name, shape, width, level in (
        ("scattered", (7, 9, 11), 0.6, 0.25),
        ("blobs", (9, 14, 17), 1.3, 0.1),
        ("sponge", (8, 12, 13), 0.8, -0.2),
        ("noise", (6, 8, 10), 0.0, 0.4),
    ):
        field = ndimage.gaussian_filter(rng.standard_normal(shape), width) if width else rng.standard_normal(shape)
        masks[name] = field / field.std() > level
    shell = np.zeros((11, 13, 15), bool)
    shell[2:9, 2:11, 3:12] = True
    shell[4:7, 5:8, 6:9] = False  # an enclosed hole
    shell[3, 4, 4] = False
    shell[2:5, 9, 10] = False  # open at one end
    masks["shell"] = shell
    masks["empty"] = np.zeros((3, 4, 5), bool)
    masks["one slice"] = rng.random((1, 9, 9)) > 0.4
    cases = [
        {"name": name, "shape_zyx": list(mask.shape), "mask": text(mask), "steps": results(mask)}
        for name, mask in masks.items()
    ]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"spacing_zyx": SPACING_ZYX, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
