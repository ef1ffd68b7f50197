"""Golden values for resampling and components: tests/golden/resample/index.json and values.bin.

Sources and expected results are little-endian arrays in values.bin (x fastest, then y, then z), listed
by offset in index.json. Kinds of cases:

- `resize`: scikit-image's resize as nnU-Net calls it (mode edge, no anti-aliasing, clip), order 1 and 3
- `coordinates`: scipy.ndimage.map_coordinates (mode nearest), order 0, 1 and 3, where the target is cut
  out, shifted beyond the border, flipped and permuted; the target is given by its affine alone
- `labels`: nnU-Net's resize_segmentation rule, excluding voxels with a tie
- `components`: scipy.ndimage.label

Run: python scripts/golden/make_resample.py
"""

import json
from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage.transform import resize

OUT = Path(__file__).resolve().parents[2] / "tests/golden/resample"
values = bytearray()


def stored(array, dtype):
    array = np.ascontiguousarray(array, dtype=dtype)
    offset = len(values)
    values.extend(array.tobytes())
    return {"offset": offset, "shape_zyx": list(array.shape)}


def ct(rng, shape_zyx):
    """Blobs between air and bone with noise, which make the spline overshoot."""
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape_zyx), [min(1.0, n / 6) for n in shape_zyx])
    volume = np.where(smooth > np.quantile(smooth, 0.7), 900, np.where(smooth > np.median(smooth), 40, -1000))
    return (volume + rng.normal(0, 20, shape_zyx)).astype(np.float32)


def resize_case(rng, name, source_zyx, target_zyx, unclipped=False):
    source = ct(rng, source_zyx)

    def call(order, clip=True):
        # float64, to avoid float32 rounding in the golden values.
        return resize(
            source.astype(np.float64), target_zyx, order, mode="edge", clip=clip, anti_aliasing=False,
            preserve_range=True,
        )

    return {
        "name": name,
        "source": stored(source, "<f4"),
        "target_shape_zyx": list(target_zyx),
        "linear": stored(call(1), "<f4"),
        "cubic": stored(call(3), "<f4"),
        # Only for some cases, to keep the file small.
        "cubic_unclipped": stored(call(3, clip=False), "<f4") if unclipped else None,
    }


def affine(columns_xyz, origin):
    return np.column_stack([*columns_xyz, origin]).astype(float)


def coordinates_case(rng, name, source_zyx, source_affine, target_xyz, target_affine):
    source = ct(rng, source_zyx)
    to4 = lambda a: np.vstack([a, [0, 0, 0, 1]])
    matrix = np.linalg.inv(to4(source_affine)) @ to4(target_affine)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in target_xyz), indexing="ij"), axis=-1)
    xyz = index @ matrix[:3, :3].T + matrix[:3, 3]
    # Coordinates beyond the border by more than SciPy's padding would not be its own edge mode.
    coordinates = np.moveaxis(xyz.transpose(2, 1, 0, 3), -1, 0)[::-1]
    assert np.abs(np.mod(coordinates, 1) - 0.5).min() > 1e-3, "a tie"
    sample = lambda order: ndimage.map_coordinates(source.astype(np.float64), coordinates, order=order, mode="nearest")
    return {
        "name": name,
        "source": stored(source, "<f4"),
        "source_affine": source_affine.tolist(),
        "target_shape_xyz": list(target_xyz),
        "target_affine": target_affine.tolist(),
        "nearest": stored(sample(0), "<f4"),
        "linear": stored(sample(1), "<f4"),
        "cubic_unclipped": stored(sample(3), "<f4"),
    }


def labels_case(rng, name, source_zyx, target_zyx, labels):
    fields = [ndimage.gaussian_filter(rng.standard_normal(source_zyx), 1.0) for _ in labels]
    source = np.array(labels)[np.argmax(fields, axis=0)]
    result = np.zeros(target_zyx, dtype=int)
    tie = np.zeros(target_zyx, dtype=bool)
    for label in np.unique(source):  # ascending, background included, as nnU-Net
        share = resize((source == label).astype(float), target_zyx, 1, mode="edge", clip=True, anti_aliasing=False)
        result[share >= 0.5] = label
        tie |= np.abs(share - 0.5) < 1e-6
    assert tie.mean() < 0.1
    return {
        "name": name,
        "source": stored(source, "<u2"),
        "target_shape_zyx": list(target_zyx),
        "labels": stored(result, "<u2"),
        "tie": stored(tie, "u1"),
    }


def components_case(rng, name, shape_zyx, fraction):
    mask = rng.random(shape_zyx) < fraction
    case = {"name": name, "mask": stored(mask, "u1")}
    for key, rank in (("six", 1), ("twenty_six", 3)):
        labels, count = ndimage.label(mask, ndimage.generate_binary_structure(3, rank))
        assert count < 256
        sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        case[key] = {
            "labels": stored(labels, "u1"),
            "sizes": sizes.tolist(),
            # Largest only, and those with at least a tenth of its size.
            "kept": [int((sizes >= part * sizes.max()).sum()) for part in (1.0, 0.1)],
        }
    return case


def main():
    rng = np.random.default_rng(20260)
    index = {
        "resize": [
            resize_case(rng, "up", (5, 6, 8), (8, 9, 10), unclipped=True),
            resize_case(rng, "down", (11, 13, 16), (6, 7, 9)),
            resize_case(rng, "anisotropic: slices up, in plane down", (4, 15, 14), (11, 8, 7)),
            resize_case(rng, "in plane up, slices down", (12, 6, 5), (4, 10, 13)),
            resize_case(rng, "one slice", (1, 9, 8), (1, 12, 6)),
            resize_case(rng, "one slice becomes three", (1, 5, 6), (3, 7, 4)),
            resize_case(rng, "two and three voxels", (2, 3, 5), (5, 8, 7), unclipped=True),
            resize_case(rng, "a single voxel", (1, 1, 1), (2, 3, 2)),
            resize_case(rng, "more than one block of lines", (3, 35, 37), (2, 29, 34)),
        ],
        "coordinates": [
            coordinates_case(
                rng, "flipped x and y", (7, 8, 9), affine(np.diag([1.0, 1.2, 2.5]), (-5, 3, 9)),
                (7, 8, 9), affine(np.diag([-0.9, -1.03, 1.61]), (2.87, 10.9, 9.3)),
            ),
            coordinates_case(
                rng, "x from z, y from x flipped, z from y", (8, 9, 7), affine(np.diag([0.8, 0.7, 3.0]), (1, -2, 4)),
                (9, 6, 8), affine([[0, 0, 2.13], [-0.77, 0, 0], [0, 0.53, 0]], (5.61, -1.71, 4.37)),
            ),
            coordinates_case(
                rng, "a region cut from a long axis", (8, 7, 70), affine(np.diag([1.0, 1.0, 1.0]), (0, 0, 0)),
                (7, 5, 4), affine(np.diag([1.37, 1.21, 1.77]), (34.2, 1.13, 1.29)),
            ),
            coordinates_case(
                rng, "reaching beyond every border", (5, 6, 7), affine(np.diag([1.0, 1.0, 1.0]), (0, 0, 0)),
                (10, 9, 9), affine(np.diag([1.13, 1.17, 1.07]), (-2.21, -2.41, -1.61)),
            ),
        ],
        "labels": [
            labels_case(rng, "up", (5, 6, 7), (8, 10, 9), [0, 1, 2, 7, 300]),
            labels_case(rng, "down", (11, 13, 12), (7, 9, 8), [0, 1, 2, 3, 5, 9]),
            labels_case(rng, "no background", (5, 10, 9), (8, 7, 11), [4, 2, 1000]),
            labels_case(rng, "one slice", (1, 12, 13), (3, 15, 9), [0, 1, 2]),
        ],
        "components": [
            components_case(rng, "sparse", (9, 11, 13), 0.12),
            components_case(rng, "dense", (8, 13, 12), 0.32),
            components_case(rng, "full row ends", (5, 6, 4), 0.6),
        ],
    }
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "values.bin").write_bytes(values)
    (OUT / "index.json").write_text(json.dumps(index) + "\n")
    print(f"{len(values)} bytes of values")


if __name__ == "__main__":
    main()
