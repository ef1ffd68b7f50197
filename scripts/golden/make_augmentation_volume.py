#!/usr/bin/env python3
"""Golden values for augmentation in volumes: SciPy's affine_transform, Gaussian smoothing along z, and nnU-Net's
low resolution along z as PyTorch's interpolate does it (nearest-exact down, linear up, written out in NumPy).

    python scripts/golden/make_augmentation_volume.py tests/golden/augmentation/volume.json

Needs NumPy and SciPy.
"""

import json
import sys

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

rng = np.random.default_rng(7)
SHAPE = (9, 11, 13)
image = rng.random(SHAPE).astype(np.float32)
labels = ndimage.zoom(rng.integers(0, 4, (3, 4, 4)), [3, 2.75, 3.25], order=0).astype(np.uint16)
assert labels.shape == SHAPE


def matrix(degrees, scale, flip, spacing):
    """Maps steps in the patch (z, y, x) to steps in the volume: rotations about x, then y, then z, in millimetres."""
    # SciPy's rotations act on (x, y, z) vectors; a positive rotation about z moves y towards -x in an image
    # whose y points down, as scipy.ndimage.rotate does.
    about_z, about_y, about_x = np.radians(degrees)
    as_zyx = lambda r: r.as_matrix()[::-1, ::-1]
    turn = as_zyx(Rotation.from_rotvec([0, 0, -about_z])).T
    turn = turn @ as_zyx(Rotation.from_rotvec([0, about_y, 0])).T
    turn = turn @ as_zyx(Rotation.from_rotvec([-about_x, 0, 0])).T
    signs = np.where(flip, -1.0, 1.0)
    spacing = np.asarray(spacing)
    return turn * signs[None, :] * spacing[None, :] / spacing[:, None] / scale


def placed(corner, size, degrees, scale, flip, spacing):
    m = matrix(degrees, scale, flip, spacing)
    pivot = (np.asarray(size) - 1) / 2
    centre = np.asarray(corner) + pivot
    offset = centre - m @ pivot
    linear = ndimage.affine_transform(image.astype(np.float64), m, offset, size, order=1, mode="grid-constant")
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1)
    at = np.floor(grid @ m.T + offset + 0.5).astype(int)
    inside = ((at >= 0) & (at < SHAPE)).all(-1)
    clipped = np.clip(at, 0, np.array(SHAPE) - 1)
    nearest = np.where(inside, labels[tuple(np.moveaxis(clipped, -1, 0))], 0)
    # Voxels whose nearest neighbour depends on rounding errors are not compared.
    doubtful = (np.abs((grid @ m.T + offset + 0.5) % 1.0 - 0.5) > 0.5 - 1e-6).any(-1)
    return {
        "corner": corner, "size": size, "degrees": degrees, "scale": scale, "flip": flip, "spacing_mm": spacing,
        "linear": np.round(linear, 7).ravel().tolist(), "nearest": nearest.ravel().tolist(),
        "doubtful": doubtful.ravel().tolist(),
    }


def low_resolution_depth(kept):
    depth = SHAPE[0]
    count = max(1, round(depth * kept))
    few = image[[min(int((i + 0.5) * depth / count), depth - 1) for i in range(count)]]
    at = np.maximum((np.arange(depth) + 0.5) * count / depth - 0.5, 0)
    low = np.minimum(at.astype(int), count - 1)
    high = np.minimum(low + 1, count - 1)
    share = (at - low)[:, None, None]
    return few[low] + share * (few[high] - few[low])


golden = {
    "shape": SHAPE,
    "image": np.round(image.astype(np.float64), 8).ravel().tolist(),
    "labels": labels.ravel().tolist(),
    "placements": [
        placed([0, 0, 0], list(SHAPE), [0, 0, 0], 1.0, [False, False, True], [1, 1, 1]),
        placed([2, 1, 3], [5, 8, 7], [20, 0, 0], 1.0, [False] * 3, [3.0, 1.0, 1.0]),
        placed([2, 1, 3], [5, 8, 7], [0, 25, 0], 1.0, [False] * 3, [2.5, 3.0, 3.0]),
        placed([1, 1, 1], [6, 8, 8], [0, 0, -30], 1.0, [False] * 3, [1.0, 2.0, 3.0]),
        placed([0, 2, 2], [8, 8, 9], [-15, 10, 28], 0.8, [True, False, False], [2.0, 1.0, 1.5]),
        placed([3, 0, 0], [6, 10, 12], [150, -5, 7], 1.3, [False, True, True], [1.0, 1.0, 1.0]),
    ],
    "blur_depth": {
        "sigma": 0.9,
        "expected": np.round(ndimage.gaussian_filter1d(image.astype(np.float64), 0.9, axis=0), 7).ravel().tolist(),
    },
    "low_resolution_depth": {"kept": 0.6, "expected": np.round(low_resolution_depth(0.6), 7).ravel().tolist()},
}
with open(sys.argv[1], "w") as out:
    json.dump(golden, out, separators=(",", ":"))
