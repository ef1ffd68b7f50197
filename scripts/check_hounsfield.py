"""Checks that `ctseg inspect` distinguishes CT in Hounsfield units from CT on other scales; prints a table.

    python scripts/check_hounsfield.py CTSEG DATA [DEMO]

CTSEG is the binary, DATA a folder with headneck/, sarcoma/ and totalseg/, DEMO the folder of a finished `ctseg demo`.
Needs nibabel and numpy. Unchanged images must not cause a warning. Modified copies of ten of them must: with 1024 added,
scaled to 0…1 and 0…255 (a soft-tissue window, and the full range), wrapped around at 16 bits, and constant. `--rescale-hu
auto` must restore the copies that can be restored. Exit code 1 if a check fails.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import nibabel as nib
import numpy as np

LOW, HIGH = -160, 240


def window(hu):
    return (np.clip(hu, LOW, HIGH) - LOW) / (HIGH - LOW)


def whole(hu):
    return (hu - hu.min()) / (hu.max() - hu.min())


# Name, values, voxel type, whether `--rescale-hu auto` can restore it.
COPIES = [
    ("+1024", lambda hu: hu + 1024, np.int16, True),
    ("0…1, window", window, np.float32, False),
    ("0…1, all", whole, np.float32, False),
    ("0…255, window", lambda hu: np.round(255 * window(hu)), np.uint8, False),
    ("0…255, all", lambda hu: np.round(255 * whole(hu)), np.uint8, False),
    ("wrapped", lambda hu: np.where(hu < 0, hu + 65536, hu), np.uint16, True),
    ("constant", lambda hu: np.full_like(hu, -1000), np.int16, False),
]


def warning(binary, path, *arguments):
    """The warning about Hounsfield units, or None."""
    output = subprocess.run(
        [binary, "inspect", "--json", path, *arguments], check=True, capture_output=True, text=True
    ).stdout
    said = [line for line in json.loads(output)["warnings"] if "Hounsfield" in line]
    return said[0].split("Hounsfield units: ")[1].split(";")[0] if said else None


def images(data, demo):
    found = sorted((data / "headneck/images").glob("*.nii.gz"))
    found += sorted((data / "sarcoma").glob("*/CT_image.nii.gz"))
    found += sorted((data / "totalseg").glob("example_ct*.nii.gz"))
    if demo:
        found += sorted((demo / "data/images").glob("*.nii.gz"))
    return found


def main():
    binary, data = sys.argv[1], pathlib.Path(sys.argv[2])
    found = images(data, pathlib.Path(sys.argv[3]) if len(sys.argv) > 3 else None)
    wrong = 0
    for path in found:
        said = warning(binary, path)
        if said:
            wrong += 1
            print(f"WRONG: {path} causes a warning: {said}")
    print(f"{len(found)} unchanged CT images, {wrong} with a warning")
    step = max(1, len(found) // 10)
    print("\n| CT | copy | warning | after `--rescale-hu auto` |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "copy.nii"
        for path in found[::step][:10]:
            image = nib.load(path)
            hu = np.round(np.asarray(image.dataobj, dtype=np.float64))
            for name, change, voxel_type, can_restore in COPIES:
                nib.save(nib.Nifti1Image(change(hu).astype(voxel_type), image.affine, dtype=voxel_type), copy)
                said = warning(binary, copy)
                after = warning(binary, copy, "--rescale-hu", "auto")
                is_right = bool(said) and (after is None) == can_restore
                wrong += not is_right
                verdict = "" if is_right else " WRONG"
                print(f"| {path.name} | {name} | {said}{verdict} | {'warned' if after else 'none'} |")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
