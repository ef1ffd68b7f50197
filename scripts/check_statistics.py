"""Checks ctseg's statistics.csv and masks with numpy, SciPy and nibabel.

    check_statistics.py INPUTS OUTPUTS    fails unless every row of OUTPUTS/statistics.csv equals numpy's values for
                                          INPUTS/<case>.nii.gz inside the label map OUTPUTS/<case>.nii.gz, and every
                                          OUTPUTS/<case>/<structure>.nii.gz is a uint8 mask of that structure
"""

import csv
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage


def close(row, name, expected, tolerance):
    if expected is None:
        assert row[name] == "", (row["case"], row["structure"], name, row[name])
        return
    found = float(row[name])
    assert abs(found - expected) <= tolerance, (row["case"], row["structure"], name, found, expected)


def check(row, hu, label_map):
    mask = np.asanyarray(label_map.dataobj) == int(row["label"])
    values = hu[mask]
    some = len(values) > 0
    voxel_ml = abs(np.linalg.det(label_map.affine[:3, :3])) / 1000
    assert int(row["voxels"]) == mask.sum(), (row["case"], row["structure"])
    close(row, "volume_ml", mask.sum() * voxel_ml, 1e-4)
    close(row, "mean_hu", values.mean() if some else None, 0.006)
    close(row, "median_hu", np.median(np.round(values)) if some else None, 0.051)
    close(row, "sd_hu", values.std() if some else None, 0.006)
    centre = ndimage.center_of_mass(mask) if some else None
    for axis, name in enumerate(("x_mm", "y_mm", "z_mm")):
        place = nib.affines.apply_affine(label_map.affine, centre)[axis] if some else None
        close(row, name, place, 0.006)
    edge = np.ones(mask.shape, bool)
    edge[1:-1, 1:-1, 1:-1] = False
    assert row["touches_border"] == str(bool((mask & edge).any())).lower(), (row["case"], row["structure"])
    return mask


def main(inputs, outputs):
    with open(outputs / "statistics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows, "no rows"
    for row in rows:
        image = nib.load(inputs / f"{row['case']}.nii.gz")
        label_map = nib.load(outputs / f"{row['case']}.nii.gz")
        mask = check(row, image.get_fdata(), label_map)
        path = outputs / row["case"] / f"{row['structure']}.nii.gz"
        if path.parent.exists():
            split = nib.load(path)
            assert split.get_data_dtype() == np.uint8, path
            assert np.array_equal(split.affine, label_map.affine), path
            assert np.array_equal(np.asanyarray(split.dataobj), mask.astype("u1")), path
    print(f"{len(rows)} rows equal numpy's")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
