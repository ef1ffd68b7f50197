"""Golden values for augmentation: tests/golden/augmentation/index.json and values.bin.

Arrays are little-endian in values.bin (x fastest) and listed by offset in index.json:

- `placements`: scipy.ndimage.affine_transform, mode grid-constant, order 1 and 0, of one slice; the matrices
  are composed here in millimetres, from the angle, the scale, the flips and the spacing
- `intensities`: batchgenerators' and nnU-Net v2's formulas for brightness, contrast and gamma, written out;
  scipy.ndimage.gaussian_filter for blur; nearest-exact and linear interpolation for low resolution

Run: python scripts/golden/make_augmentation.py
"""

import json
from pathlib import Path

import numpy as np
from scipy import ndimage

OUT = Path(__file__).resolve().parents[2] / "tests/golden/augmentation"
values = bytearray()


def stored(array, dtype):
    array = np.ascontiguousarray(array, dtype=dtype)
    offset = len(values)
    values.extend(array.tobytes())
    return {"offset": offset, "shape_yx": list(array.shape)}


def placement_case(slice_, labels, corner, cut, patch, degrees, scale, flip, spacing):
    spacing = np.array(spacing)
    angle = np.deg2rad(degrees)
    # A counter-clockwise rotation as displayed: the right side (x) moves to the top (-y).
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    mirror = np.diag([-1.0 if f else 1.0 for f in flip])
    matrix = np.diag(1 / spacing) @ turn @ mirror @ np.diag(spacing) / scale
    pivot = (np.array(cut) - 1) / 2
    offset = np.array(corner) + pivot - matrix @ pivot
    sample = lambda a, order: ndimage.affine_transform(
        a, matrix, offset, output_shape=patch, order=order, mode="grid-constant", cval=0, prefilter=False
    )
    index = np.stack(np.meshgrid(*map(np.arange, patch), indexing="ij"), -1) @ matrix.T + offset
    tie = (np.abs(np.mod(index, 1) - 0.5) < 1e-9).any(-1)
    return {
        "corner": corner, "cut": cut, "degrees": degrees, "scale": scale, "flip": flip,
        "spacing_mm": spacing.tolist(),
        "linear": stored(sample(slice_.astype(np.float64), 1), "<f4"),
        "nearest": stored(sample(labels, 0), "<u2"),
        "tie": stored(tie, "u1"),
    }


def gamma(x, exponent, inverted):
    x = -x if inverted else x
    mean, sd, low, width = x.mean(), x.std(), x.min(), np.ptp(x)
    x = ((x - low) / (width + 1e-7)) ** exponent * width + low
    x = (x - x.mean()) / max(x.std(), 1e-8) * sd + mean
    return -x if inverted else x


def contrast(x, factor):
    return np.clip((x - x.mean()) * factor + x.mean(), x.min(), x.max())


def low_resolution(x, kept):
    small = [max(round(n * kept), 1) for n in x.shape]
    rows, columns = (np.floor((np.arange(s) + 0.5) * n / s).astype(int) for s, n in zip(small, x.shape))
    coarse = x[np.ix_(rows, columns)]
    at = [(np.arange(n) + 0.5) * s / n - 0.5 for s, n in zip(small, x.shape)]
    return ndimage.map_coordinates(coarse, np.meshgrid(*at, indexing="ij"), order=1, mode="nearest")


def main():
    rng = np.random.default_rng(5)
    shape = (21, 26)
    slice_ = np.clip(ndimage.gaussian_filter(rng.standard_normal(shape), 1.2) + 0.5, 0, 1).astype(np.float32)
    labels = (np.digitize(ndimage.gaussian_filter(rng.standard_normal(shape), 2.0), [-0.1, 0.0, 0.1]) * 7).astype(np.uint16)
    # corner, cut, patch (rows and columns), degrees, scale, flip (y, x), spacing (y, x)
    placements = [
        ([0, 0], [21, 26], [21, 26], 17.0, 1.0, [False, False], [1.0, 1.0]),
        ([4, 7], [12, 14], [12, 14], -29.0, 1.3, [False, False], [1.0, 1.0]),
        ([2, 3], [15, 11], [16, 16], 0.0, 0.75, [False, True], [2.0, 2.0]),
        ([0, 0], [21, 26], [32, 32], 41.0, 0.8, [True, False], [0.7, 1.9]),
        ([3, 5], [14, 14], [14, 14], 90.0, 1.0, [False, False], [1.5, 1.0]),
        ([9, 12], [12, 14], [12, 14], 180.0, 1.1, [True, True], [1.0, 3.0]),
    ]
    x = slice_.astype(np.float64)
    intensities = [
        ("brightness", 1.2, x * 1.2),
        ("contrast", 0.8, contrast(x, 0.8)),
        ("contrast", 1.25, contrast(x, 1.25)),
        ("gamma", 0.7, gamma(x, 0.7, False)),
        ("gamma", 1.5, gamma(x, 1.5, False)),
        ("inverted_gamma", 1.4, gamma(x, 1.4, True)),
        ("blur", 0.6, ndimage.gaussian_filter(x, 0.6)),
        ("blur", 1.0, ndimage.gaussian_filter(x, 1.0)),
        ("blur", 7.0, ndimage.gaussian_filter(x, 7.0)),
        ("low_resolution", 0.55, low_resolution(x, 0.55)),
        ("low_resolution", 0.93, low_resolution(x, 0.93)),
        ("low_resolution", 1.0, x),
    ]
    index = {
        "slice": stored(slice_, "<f4"),
        "labels": stored(labels, "<u2"),
        "placements": [placement_case(slice_, labels, *case) for case in placements],
        "intensities": [
            {"name": name, "value": value, "expected": stored(expected, "<f4")} for name, value, expected in intensities
        ],
    }
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "values.bin").write_bytes(values)
    (OUT / "index.json").write_text(json.dumps(index) + "\n")


if __name__ == "__main__":
    main()
