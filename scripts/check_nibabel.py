"""Checks ctseg's NIfTI files with nibabel (needs numpy and nibabel).

    check_nibabel.py describe IMAGE         prints what nibabel reads, as JSON
    check_nibabel.py labels SOURCE LABELS   fails unless LABELS is exactly on SOURCE's grid, is unscaled uint8 or
                                            uint16, and is 0, 1, 2 or 3 where SOURCE is at most -200, at most 0,
                                            at most 200, or above
    check_nibabel.py names LABELS           prints the label names stored in LABELS, as TotalSegmentator reads them
                                            (load_multilabel_nifti), and the CRC of its voxels, as JSON
"""

import json
import sys
import zlib
from xml.etree import ElementTree

import nibabel as nib
import numpy as np


def describe(path):
    image = nib.load(path)
    data = image.get_fdata().astype("<f4")
    print(
        json.dumps(
            {
                "shape": list(image.shape),
                "dtype": str(image.get_data_dtype()),
                "affine": image.affine[:3].ravel().tolist(),
                "voxels_crc32": zlib.crc32(data.tobytes(order="F")),
            }
        )
    )


def labels(source_path, labels_path):
    source, found = nib.load(source_path), nib.load(labels_path)
    assert type(found) is type(source), (type(found), type(source))
    assert found.shape == source.shape, (found.shape, source.shape)
    assert np.array_equal(found.affine, source.affine), (found.affine, source.affine)
    for name in ("sform_code", "qform_code", "xyzt_units"):
        assert found.header[name] == source.header[name], name
    stored = np.asanyarray(found.dataobj)
    assert stored.dtype in (np.uint8, np.uint16), stored.dtype
    assert len(found.header.extensions) == 0
    data = source.get_fdata()
    expected = sum((data > limit).astype(int) for limit in (-200, 0, 200))
    assert np.array_equal(stored, expected), np.argwhere(stored != expected)[:3]
    assert len(np.unique(expected)) > 1, "the check needs an image with several labels"
    print(f"{labels_path}: {stored.dtype} {found.shape} on {source_path}'s grid")


def names(path):
    image = nib.load(path)
    extension = image.header.extensions[0]
    assert extension.get_code() == 0, extension.get_code()
    assert image.header["vox_offset"] % 16 == 0, image.header["vox_offset"]
    content = extension.get_content()
    content = content if isinstance(content, bytes) else extension.content
    root = ElementTree.fromstring(content)
    assert root.tag == "CaretExtension", root.tag
    assert root.findtext("VolumeInformation/VolumeType") == "Label"
    table = root.findall("VolumeInformation/LabelTable/Label")
    for label in table:
        assert all(0 <= float(label.get(part)) <= 1 for part in ("Red", "Green", "Blue", "Alpha"))
    voxels = np.asanyarray(image.dataobj)
    print(
        json.dumps(
            {
                "names": {label.get("Key"): label.text for label in table},
                "dtype": str(voxels.dtype),
                "voxels_crc32": zlib.crc32(voxels.astype("<u2").tobytes(order="F")),
            }
        )
    )


if __name__ == "__main__":
    {"describe": describe, "labels": labels, "names": names}[sys.argv[1]](*sys.argv[2:])
