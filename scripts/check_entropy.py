"""Checks ctseg's entropy map with NumPy and nibabel.

    check_entropy.py FOLDER CASE exclusive|independent    fails unless FOLDER/CASE_entropy.nii.gz contains the entropies,
                                                          in bits, of the probabilities in FOLDER/CASE_probabilities.npy,
                                                          within half a quantisation step and the precision of 16 bits
"""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np


def surprise(p):
    return np.where(p > 0, -p * np.log2(np.where(p > 0, p, 1)), 0)


def entropy(p, outputs):
    """`p`: (x, y, z, structure), in 64 bits."""
    if outputs == "exclusive":
        background = np.clip(1 - p.sum(axis=-1), 0, 1)
        return surprise(p).sum(axis=-1) + surprise(background)
    return (surprise(p) + surprise(1 - p)).max(axis=-1)


def main(folder, case, outputs):
    labels, image = (nib.load(folder / f"{case}{end}.nii.gz") for end in ("", "_entropy"))
    p = np.load(folder / f"{case}_probabilities.npy").astype(float).transpose(3, 2, 1, 0)
    assert image.get_data_dtype() == np.uint8 and image.shape == labels.shape, (image.shape, labels.shape)
    assert np.array_equal(image.affine, labels.affine)
    # Outside the region of interest all probabilities are 0.
    inside = (p > 0).any(axis=-1)
    most = np.log2(p.shape[-1] + 1) if outputs == "exclusive" else 1.0
    step = float(image.dataobj.slope)
    assert abs(step - most / 255) < 1e-8, (step, most)
    found, expected = image.get_fdata(), np.where(inside, entropy(p, outputs), 0)
    apart = np.abs(found - expected)
    # Near 1, 16-bit probabilities are off by up to 2.5e-4, and the entropy changes by up to 12 bits per unit.
    assert apart.max() <= 0.5 * step + 4e-3, apart.max()
    assert apart.mean() <= 0.3 * step, (apart.mean(), step)
    assert found.max() > 0.5 * most, "nothing is uncertain: the test checks nothing"
    print(f"{found.size} entropies equal NumPy's, up to {found.max():.3f} bits")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:4])
