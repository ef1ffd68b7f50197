"""Makes small CT-like volumes with two structures that a network of a few features learns in seconds.

    volumes.py FOLDER TRAIN TEST     writes FOLDER/dataset.toml, images/ and labels/: TRAIN volumes to train on, TEST to
                                     test on; needs numpy and nibabel
"""

import sys
from pathlib import Path

import nibabel
import numpy as np

SHAPE = (40, 36, 24)
SPACING_MM = (8.0, 8.0, 10.0)


def inside(centre, radii):
    """Voxels of an ellipsoid, in voxels."""
    grid = np.indices(SHAPE)
    return sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, centre, radii)) <= 1.0


def volume(random):
    """HU and labels of one case."""
    middle = np.array(SHAPE) / 2
    labels = np.zeros(SHAPE, np.uint8)
    labels[inside(middle + (-7, 0, 0) + random.uniform(-2, 2, 3), random.uniform(4, 6, 3))] = 1
    labels[inside(middle + (8, 3, 1) + random.uniform(-2, 2, 3), random.uniform(2.5, 4, 3))] = 2
    hu = np.where(inside(middle, (18, 16, 14)), 20.0, -1000.0)
    hu[labels == 1] = 120.0
    hu[labels == 2] = 220.0
    return hu + random.normal(0, 10, SHAPE), labels


def main(folder, train, test):
    folder = Path(folder)
    names = [f"case_{index:03}" for index in range(train + test)]
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    affine = np.diag([*SPACING_MM, 1.0])
    for index, name in enumerate(names):
        hu, labels = volume(np.random.default_rng(index))
        for part, voxels in (("images", hu.astype(np.int16)), ("labels", labels)):
            nibabel.save(nibabel.Nifti1Image(voxels, affine), folder / part / f"{name}.nii.gz")
    tested = ", ".join(f'"{name}"' for name in names[train:])
    (folder / "dataset.toml").write_text(
        'name = "ellipsoids"\nimages = "images/*.nii.gz"\nlabels = "labels/{case}.nii.gz"\n'
        f"test = [{tested}]\n\n[structures]\nliver = 1\nspleen = 2\n"
    )


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
