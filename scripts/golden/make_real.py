"""Writes tests/golden/real.json: the values that nibabel and SimpleITK read from the files in tests/data/real.

Run from the repository root with numpy, nibabel and SimpleITK installed (made with nibabel 5.4.2, SimpleITK 2.5.7):

    python scripts/golden/make_real.py

For each file: `nibabel` with shape, voxel type, affine (16 numbers, row by row) and the SHA-256 of `get_fdata()` as
float32, x fastest (every NaN as the bytes 00 00 c0 7f), or `error`; `itk` with the same affine from spacing, direction and
origin (in RAS+), or `error`, or null if the image is not 3D.
"""

import hashlib
import json
import pathlib
import warnings

import nibabel as nib
import numpy as np
import SimpleITK as sitk

DATA = pathlib.Path("tests/data/real")
OUT = pathlib.Path("tests/golden/real.json")


def of_nibabel(path):
    try:
        image = nib.load(path)
        known = {
            "kind": type(image).__name__,
            "shape": list(image.shape),
            "type": image.get_data_dtype().name if image.get_data_dtype().fields is None else "colours",
            "affine": [float(value) for value in image.affine.ravel()],
        }
        if known["type"] == "colours" or known["type"].startswith("complex"):
            return known
        values = image.get_fdata().astype("<f4")
        values[np.isnan(values)] = np.nan
        known["sha256"] = hashlib.sha256(values.tobytes(order="F")).hexdigest()
        return known
    except Exception as error:  # any error means that the file cannot be read
        return {"error": type(error).__name__}


def of_itk(path):
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError:
        return {"error": "RuntimeError"}
    if image.GetDimension() != 3:
        return None
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    affine = np.diag([-1, -1, 1, 1]) @ affine  # from LPS+
    return {"size": list(image.GetSize()), "affine": [float(value) for value in affine.ravel()]}


def main():
    warnings.simplefilter("ignore")
    sitk.ProcessObject_SetGlobalWarningDisplay(False)
    files = sorted(path for path in DATA.rglob("*") if path.is_file() and not path.name.startswith("ATTRIBUTION"))
    cases = [
        {"file": path.relative_to(DATA).as_posix(), "nibabel": of_nibabel(path), "itk": of_itk(path)} for path in files
    ]
    lines = ",\n".join(json.dumps(case) for case in cases)
    OUT.write_text(f"[\n{lines}\n]\n")
    print(f"{len(cases)} files, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
