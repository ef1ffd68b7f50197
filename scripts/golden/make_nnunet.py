"""A tiny nnU-Net model and its prediction, for tests/with_engine/models/nnunet_import.rs: tests/golden/nnunet.

The volume is noise with two ellipsoids, axis-aligned, stored as LPS, with thick slices, and with a border of zeros that is
cropped. nnU-Net itself makes the network, trains it for some steps and predicts with it (scripts/nnunet_models.py).

Run: python scripts/golden/make_nnunet.py      (nnunetv2 2.8.1; changes the files, because weights depend on the machine)
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import numpy as np


def volume(folder):
    import nibabel

    generator = np.random.default_rng(5)
    shape = (30, 34, 14)
    x, y, z = np.meshgrid(*map(np.arange, shape), indexing="ij")
    values = generator.normal(0, 20, shape)
    labels = np.zeros(shape, np.uint8)
    for label, (hu, centre, radii) in enumerate([(150, (10, 12, 6), (6, 7, 4)), (-150, (19, 22, 8), (7, 6, 4))], 1):
        inside = sum(((axis - c) / r) ** 2 for axis, c, r in zip((x, y, z), centre, radii)) < 1
        values[inside] += hu
        labels[inside] = label
    values = np.round(values).astype(np.int16)
    values[:3], values[:, -2:], values[..., :1] = 0, 0, 0
    affine = np.array([[-1.0, 0, 0, 20], [0, -1.1, 0, 30], [0, 0, 4.0, -10], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(values, affine), folder / "case_0000.nii.gz")
    nibabel.save(nibabel.Nifti1Image(labels, affine), folder / "labels.nii.gz")
    return folder / "case_0000.nii.gz", folder / "labels.nii.gz"


def main():
    golden = Path(__file__).parent.parent.parent / "tests/golden/nnunet"
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for name in ("raw", "preprocessed", "results"):
            os.environ[f"nnUNet_{name}"] = str(work / name)
        os.environ["nnUNet_compile"] = "false"
        import nnunet_models as models

        network = models.architecture([4, 6], [[1, 3, 3], [3, 3, 3]], [[1, 1, 1], [1, 2, 2]])
        stage = models.configuration([6, 16, 16], [4.5, 1.2, 1.3], architecture=network)
        labels = {"background": 0, "bright": 1, "dark": 2}
        plans, dataset, _, _ = models.described("volumes")
        plans |= {"dataset_name": "Dataset900_tiny", "configurations": {"3d_fullres": stage}}
        dataset["labels"] = labels
        models.described = lambda name: (plans, dataset, [0], (1, 2))
        models.training_case = lambda name, data, folder: volume(folder)
        made = work / "made"
        made.mkdir()
        models.make("tiny", made, None, 150)
        shutil.rmtree(golden, ignore_errors=True)
        model = golden / "Dataset900_tiny/nnUNetTrainer__nnUNetPlans__3d_fullres"
        shutil.copytree(made / "results/Dataset900_tiny" / model.name, model)
        shutil.copy(made / "case_0000.nii.gz", golden)
        said = made / "nnunet-3d_fullres"
        shutil.copy(said / "case.nii.gz", golden / "nnunet.nii.gz")
        for what in ("input", "logits"):
            shutil.copy(said / f"case_{what}.npy", golden)
    print(json.dumps({str(path.relative_to(golden)): path.stat().st_size for path in golden.rglob("*") if path.is_file()}, indent=1))


if __name__ == "__main__":
    main()
