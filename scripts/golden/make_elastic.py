#!/usr/bin/env python3
"""Golden values for elastic deformation: scipy.ndimage.map_coordinates with a displacement field followed by a rotation.

The field is a cubic B-spline of random control points, evaluated with SciPy's map_coordinates with order 3 and no
prefilter. Positions in the slice or volume are the rotated displaced positions of the patch; images use order 1, labels
order 0, mode grid-constant.

    python scripts/golden/make_elastic.py tests/golden/augmentation/elastic.json

Needs NumPy and SciPy.
"""

import json
import sys

import numpy as np
from scipy import ndimage

rng = np.random.default_rng(11)


def points_along(length, distance):
    return int((length - 1) / distance) + 4


def displacement(points, size, distance):
    """The B-spline at every voxel of the patch; the second control point is at the first voxel."""
    grid = np.meshgrid(*map(np.arange, size), indexing="ij")
    at = [axis / d + 1 for axis, d in zip(grid, distance)]
    return np.stack([ndimage.map_coordinates(p, at, order=3, prefilter=False) for p in points], -1)


def case(shape, corner, size, distance, strength, matrix):
    image = rng.random(shape).astype(np.float32)
    blocks = tuple(-(-n // 4) for n in shape)
    labels = np.kron(rng.integers(0, 4, blocks), np.ones((4,) * len(shape)))[tuple(map(slice, shape))].astype(np.uint16)
    counts = [points_along(n, d) for n, d in zip(size, distance)]
    points = (rng.standard_normal((len(shape), *counts)) * strength).astype(np.float32)
    moved = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1) + displacement(points.astype(float), size, distance)
    pivot = (np.asarray(size) - 1) / 2
    at = (moved - pivot) @ np.asarray(matrix).T + np.asarray(corner) + pivot
    sample = lambda a, order: ndimage.map_coordinates(
        a, np.moveaxis(at, -1, 0), order=order, mode="grid-constant", cval=0, prefilter=False
    )
    # Voxels whose nearest neighbour depends on rounding errors are not compared.
    doubtful = (np.abs((at + 0.5) % 1.0 - 0.5) > 0.5 - 1e-5).any(-1)
    flat = lambda a: np.asarray(a).ravel().tolist()
    return {
        "shape": shape, "corner": corner, "size": size, "distance": distance, "matrix": matrix,
        "image": flat(image.astype(float).round(8)), "labels": flat(labels),
        "points": [flat(p.astype(float).round(8)) for p in points],
        "linear": flat(sample(image.astype(float), 1).round(7)), "nearest": flat(sample(labels, 0)),
        "doubtful": flat(doubtful),
    }


def turn(degrees, scale):
    angle = np.radians(degrees)
    return [[np.cos(angle) / scale, np.sin(angle) / scale], [-np.sin(angle) / scale, np.cos(angle) / scale]]


golden = {
    "slices": [
        case([19, 23], [0, 0], [19, 23], [6.5, 5.0], 1.5, [[1.0, 0.0], [0.0, 1.0]]),
        case([21, 18], [3, 2], [14, 12], [4.0, 7.25], 2.0, turn(25, 1.2)),
    ],
    "volumes": [
        case([9, 11, 12], [0, 0, 0], [9, 11, 12], [3.0, 5.5, 4.0], 1.2, np.eye(3).tolist()),
        case([10, 12, 11], [2, 1, 1], [7, 9, 8], [2.5, 4.0, 6.0], 1.5, [[0.9, 0.1, -0.2], [0.05, 1.1, 0.3], [0.2, -0.3, 0.8]]),
    ],
}
with open(sys.argv[1], "w") as out:
    json.dump(golden, out, separators=(",", ":"))
