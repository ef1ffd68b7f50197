"""Golden values for distances: tests/golden/distance/<case>.json, one file per case in CASES.

Signed distance to the surface of a mask by scipy.ndimage.distance_transform_edt with the case's spacing: outside the
distance to the nearest voxel inside, inside the negative distance to the nearest voxel outside; 0 if there is no surface.
Masks are thresholded smooth noise with a fixed seed, in a single slice and in volumes.

Layout: `shape` and `spacing_mm` (z, y, x), `inside` (0 or 1) and `distance_mm`, both flat, x fastest.

Run: python scripts/golden/make_distance.py    (NumPy, SciPy: scripts/references.txt)
"""

import json
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

OUT = Path(__file__).resolve().parents[2] / "tests/golden/distance"

# shape, spacing in mm (z, y, x), fraction of voxels inside
CASES = {
    "slice": ((1, 23, 31), (5.0, 1.0, 1.0), 0.2),
    "anisotropic": ((9, 14, 11), (3.0, 0.7, 0.9), 0.15),
    "mostly_inside": ((8, 9, 10), (1.25, 2.5, 1.0), 0.93),
    "one_voxel": ((6, 7, 8), (2.0, 1.5, 0.5), 0.0),
    "nothing": ((3, 4, 5), (1.0, 1.0, 1.0), None),
}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for seed, (name, (shape, spacing, share)) in enumerate(CASES.items()):
        noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.2)
        if share is None:
            inside = np.zeros(shape, bool)
            distance = np.zeros(shape)
        else:
            inside = noise >= np.quantile(noise, 1 - share)
            outward = distance_transform_edt(~inside, sampling=spacing)
            distance = outward - distance_transform_edt(inside, sampling=spacing)
        case = {
            "shape": shape,
            "spacing_mm": spacing,
            "inside": inside.astype(int).ravel().tolist(),
            "distance_mm": [float(f"{v:.7g}") for v in distance.ravel()],
        }
        (OUT / f"{name}.json").write_text(json.dumps(case, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
