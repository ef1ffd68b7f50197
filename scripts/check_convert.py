"""Checks datasets written by 'ctseg convert'.

    check_convert.py verify FOLDER          fails unless nnU-Net accepts the dataset (verify_dataset_integrity of
                                            nnunetv2, which it needs)
    check_convert.py msd FOLDER             fails unless nnU-Net's converter for Decathlon datasets accepts the dataset
                                            and nnU-Net accepts the result
    check_convert.py pairs < PAIRS          compares files (needs numpy and nibabel) and prints the number of pairs. Each
                                            line is a JSON object
                                            {"kind": KIND, "source": [FILES], "target": [FILES], "values": {OLD: NEW}}
        kind image      one volume with the same stored voxels, type, scaling and geometry
        kind split      source: one 4D image; target: its channels, with the same properties
        kind join       source: channels; target: one 4D image with the same values
        kind labels     a label map; `values` maps source values to target values
        kind masks      source: masks in the order of their values from 1; the last one wins
"""

import json
import sys


def verify(folder):
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    verify_dataset_integrity(folder, num_processes=1)
    print("nnU-Net accepts it")


def msd(folder):
    import os
    import tempfile

    with tempfile.TemporaryDirectory() as raw:
        os.environ["nnUNet_raw"] = raw
        from nnunetv2.dataset_conversion.convert_MSD_dataset import convert_msd_dataset

        convert_msd_dataset(folder, num_processes=1)
        [dataset] = os.listdir(raw)
        verify(os.path.join(raw, dataset))


def stored(image):
    """Unscaled voxels as stored in the file."""
    import numpy as np

    return np.asanyarray(image.dataobj.get_unscaled())


def same_header(source, target):
    import numpy as np

    import nibabel as nib

    assert type(target) is nib.Nifti1Image, type(target)
    assert source.header.endianness == target.header.endianness
    skipped = {"dim", "vox_offset"}
    if type(source) is not type(target):
        # NIfTI-2 is written as NIfTI-1: 32-bit floats, no slice timing.
        skipped |= {"sizeof_hdr", "magic", "toffset", "dim_info", "slice_start", "slice_end", "slice_code", "slice_duration"}
    for name in set(source.header.keys()) & set(target.header.keys()) - skipped:
        a, b = source.header[name], target.header[name]
        assert np.array_equal(a.astype(b.dtype), b, equal_nan=a.dtype.kind == "f"), (name, a, b)
    rounded = source.affine if type(source) is type(target) else source.affine.astype(np.float32)
    assert np.array_equal(rounded, target.affine)
    extensions = [[(e.get_code(), e.content) for e in image.header.extensions] for image in (source, target)]
    assert extensions[0] == extensions[1], extensions


def same_place(source, target):
    import numpy as np

    assert source.shape[:3] == target.shape, (source.shape, target.shape)
    assert np.array_equal(source.affine, target.affine), (source.affine, target.affine)


def pair(kind, sources, targets, values):
    import nibabel as nib
    import numpy as np

    source, target = [nib.load(path) for path in sources], [nib.load(path) for path in targets]
    if kind == "image":
        assert target[0].ndim == 3, target[0].shape
        same_header(source[0], target[0])
        assert np.array_equal(stored(source[0]).reshape(target[0].shape), stored(target[0]), equal_nan=True)
    elif kind == "split":
        voxels = stored(source[0])
        assert voxels.ndim == 4 and voxels.shape[3] == len(target), (voxels.shape, len(target))
        for channel, one in enumerate(target):
            same_header(source[0], one)
            assert one.shape == voxels.shape[:3], (one.shape, voxels.shape)
            assert stored(one).dtype == voxels.dtype
            assert np.array_equal(stored(one), voxels[..., channel], equal_nan=True), channel
    elif kind == "join":
        voxels = target[0].get_fdata()
        assert voxels.ndim == 4 and voxels.shape[3] == len(source), (voxels.shape, len(source))
        for channel, one in enumerate(source):
            same_place(one, target[0].slicer[..., channel])
            assert np.array_equal(one.get_fdata(), voxels[..., channel], equal_nan=True), channel
        kinds = {str(one.get_data_dtype()) for one in source}
        if len(kinds) == 1 and all(one.dataobj.slope == 1 and one.dataobj.inter == 0 for one in source):
            assert {str(target[0].get_data_dtype())} == kinds
    elif kind == "labels":
        old, new = source[0].get_fdata(), np.asanyarray(target[0].dataobj)
        same_place(source[0], target[0])
        assert new.dtype.kind in "iu", new.dtype
        expected = old.copy()
        for before, after in values.items():
            expected[old == int(before)] = after
        assert np.array_equal(expected, new), np.argwhere(expected != new)[:3]
    elif kind == "masks":
        new = np.asanyarray(target[0].dataobj)
        expected = np.zeros(new.shape, int)
        for value, one in enumerate(source, 1):
            same_place(one, target[0])
            expected[one.get_fdata() != 0] = value
        assert np.array_equal(expected, new), np.argwhere(expected != new)[:3]
        assert len(np.unique(new)) > 2, "the check needs a map of several structures"
    else:
        raise ValueError(kind)


def pairs():
    count = 0
    for line in sys.stdin:
        described = json.loads(line)
        try:
            pair(described["kind"], described["source"], described["target"], described.get("values", {}))
        except AssertionError as error:
            raise AssertionError(line.strip()) from error
        count += 1
    print(f"{count} pairs")


if __name__ == "__main__":
    {"verify": verify, "msd": msd, "pairs": pairs}[sys.argv[1]](*sys.argv[2:])
