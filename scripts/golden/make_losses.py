"""Golden values for the losses: tests/golden/losses/losses.json.

Every case is a loss of PyTorch 2.11.0, MONAI 1.5.0 or nnU-Net 2.8.1 on one of INPUTS, in float64 on the CPU, with
its gradient with respect to the logits. Logits are one map per structure; for exclusive classes, a background with
logit 0 is prepended, and the gradient is with respect to the others.

Logits come from a formula, targets from a generator with a fixed seed; both are stored: `inputs` (shape = (batch,
structure, z, y, x); logits; targets, null where unknown; distances in mm for SPACING, by SciPy), `cases` (input,
outputs, loss and class_weights as in a recipe, value, gradient). Arrays are flat, the last axis fastest.

Run: python scripts/golden/make_losses.py    (PyTorch 2.11.0, MONAI 1.5.0, nnunetv2 2.8.1, SciPy)
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss, DiceLoss, FocalLoss, GeneralizedDiceLoss, TverskyLoss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.loss.robust_ce_loss import TopKLoss
from scipy.ndimage import distance_transform_edt

OUT = Path(__file__).resolve().parents[2] / "tests/golden/losses"
SHAPE = (2, 3, 3, 6, 5)
SPACING = (2.5, 1.0, 0.8)  # z, y, x in mm
WEIGHTS = [0.5, 1.0, 1.5]  # with a mean of 1: MONAI does not divide by the mean, ctseg does
BACKGROUND = 0.25


def signed_distance(mask):
    """Outside the distance to the nearest voxel inside, inside the negative distance to the nearest one outside."""
    if mask.all() or not mask.any():
        return np.zeros(mask.shape)
    return distance_transform_edt(~mask, sampling=SPACING) - distance_transform_edt(mask, sampling=SPACING)


def make_inputs():
    batch, structures, *space = SHAPE
    rng = np.random.default_rng(20)
    at = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    logits = (4 * np.sin(0.7 * at + 0.3) + np.cos(0.11 * at)).astype(np.float32)
    free = (rng.random(SHAPE) < 0.3).astype(np.float32)
    free[1, 2] = 0  # a structure that is absent in one sample
    absent = free.copy()
    absent[:, 1] = 0  # and one that is absent in both
    labels = rng.integers(0, structures + 1, (batch, *space))
    labels[1][labels[1] == 2] = 0
    classes = np.stack([labels == k + 1 for k in range(structures)], 1).astype(np.float32)
    ignored = rng.random((batch, 1, *space)) < 0.2
    some = rng.random(SHAPE) < 0.2  # independent structures may be unknown at different voxels
    targets = {
        "independent": free,
        "absent": absent,
        "exclusive": classes,
        "independent_ignored": np.where(some, np.nan, free),
        "exclusive_ignored": np.where(ignored, np.nan, classes),
    }
    return {name: (logits, target.astype(np.float32)) for name, target in targets.items()}


INPUTS = make_inputs()


class Case:
    """Logits with a gradient, and the targets in the forms that the reference losses need."""

    def __init__(self, name):
        logits, targets = INPUTS[name]
        self.exclusive = name.startswith("exclusive")
        self.x = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
        targets = torch.tensor(targets, dtype=torch.float64)
        self.known = ~targets.isnan()
        self.t = targets.nan_to_num(0.0)
        self.distances = torch.tensor(distances(name), dtype=torch.float64)
        if self.exclusive:
            self.all = torch.cat([torch.zeros_like(self.x[:, :1]), self.x], 1)
            self.one_hot = torch.cat([1 - self.t.sum(1, keepdim=True), self.t], 1)
            self.index = torch.where(self.known[:, 0], self.one_hot.argmax(1), -100)
            self.p = self.all.softmax(1)[:, 1:]
        else:
            self.p = self.x.sigmoid()

    def monai(self, loss, **settings):
        if self.exclusive:
            return loss(softmax=True, include_background=False, **settings)(self.all, self.one_hot)
        return loss(sigmoid=True, **settings)(self.x, self.t)


def distances(name):
    _, targets = INPUTS[name]
    return np.stack([[signed_distance(mask == 1) for mask in sample] for sample in targets]).astype(np.float32)


def dice(case, per_sample=False, smooth=1.0, **more):
    return case.monai(DiceLoss, batch=not per_sample, smooth_nr=smooth, smooth_dr=smooth, **more)


def masked_dice(case):
    """nnU-Net's Dice loss with a mask; it takes one mask for all structures, so each structure is computed alone."""
    loss = MemoryEfficientSoftDiceLoss(batch_dice=True, do_bg=True, smooth=1.0, ddp=False)
    parts = [
        1 + loss(case.p[:, k : k + 1], case.t[:, k : k + 1], case.known[:, k : k + 1].double()) for k in range(SHAPE[1])
    ]
    return sum(parts) / len(parts)


def bce(case, weights=None):
    row = torch.tensor(weights or [1.0] * SHAPE[1], dtype=torch.float64).view(1, -1, 1, 1, 1).expand(case.x.shape)
    known = case.known
    costs = F.binary_cross_entropy_with_logits(case.x[known], case.t[known], weight=row[known], reduction="sum")
    return costs / row[known].sum()


def ce(case, weights=None):
    weights = torch.tensor(weights, dtype=torch.float64) if weights else None
    return F.cross_entropy(case.all, case.index, weight=weights)


def dice_ce(case, dice_share, ce_share):
    return DiceCELoss(
        softmax=True, include_background=False, batch=True, smooth_nr=1, smooth_dr=1, lambda_dice=dice_share, lambda_ce=ce_share
    )(case.all, case.one_hot)


def focal(case, **settings):
    if case.exclusive:
        # MONAI also averages over the classes.
        return FocalLoss(use_softmax=True, **settings)(case.all, case.one_hot) * case.all.shape[1]
    return FocalLoss(**settings)(case.x, case.t)


def masked_focal(case, **settings):
    if case.exclusive:
        costs = FocalLoss(use_softmax=True, reduction="none", **settings)(case.all, case.one_hot).sum(1)
        return costs[case.known[:, 0]].mean()
    return FocalLoss(reduction="none", **settings)(case.x, case.t)[case.known].mean()


def tversky(case, **settings):
    return case.monai(TverskyLoss, batch=True, smooth_nr=1, smooth_dr=1, **settings)


def focal_tversky(case, gamma, **settings):
    return tversky(case, reduction="none", **settings).pow(1 / gamma).mean()


def generalised(case, per_sample=False):
    return case.monai(GeneralizedDiceLoss, batch=not per_sample)


def topk(case, percent):
    if case.exclusive:
        return TopKLoss(k=percent)(case.all, case.index[:, None])
    costs = F.binary_cross_entropy_with_logits(case.x, case.t, reduction="none").flatten()
    return torch.topk(costs, int(len(costs) * percent / 100)).values.mean()


def boundary(case):
    return (case.p * case.distances).mean()


NAMED = {"first": WEIGHTS[0], "second": WEIGHTS[1], "third": WEIGHTS[2]}
ALL = [BACKGROUND, *WEIGHTS]
FREE, CLASSES = "independent", "exclusive"

# input, the recipe's loss, its class weights, the reference
CASES = [
    (FREE, {"kind": "bce"}, {}, bce),
    (FREE, {"kind": "bce"}, NAMED, lambda c: bce(c, WEIGHTS)),
    ("independent_ignored", {"kind": "bce"}, {}, bce),
    ("independent_ignored", {"kind": "bce"}, NAMED, lambda c: bce(c, WEIGHTS)),
    (CLASSES, {"kind": "ce"}, {}, ce),
    (CLASSES, {"kind": "ce"}, {**NAMED, "background": BACKGROUND}, lambda c: ce(c, ALL)),
    ("exclusive_ignored", {"kind": "ce"}, {}, ce),
    ("exclusive_ignored", {"kind": "ce"}, {**NAMED, "background": BACKGROUND}, lambda c: ce(c, ALL)),
    *((name, {"kind": "dice"}, {}, dice) for name in (FREE, "absent", CLASSES)),
    *((name, {"kind": "dice"}, {}, masked_dice) for name in ("independent_ignored", "exclusive_ignored")),
    *((name, {"kind": "dice"}, NAMED, lambda c: dice(c, weight=WEIGHTS)) for name in (FREE, CLASSES)),
    *(
        (name, {"kind": "dice", "per_sample": True, "smooth": 1e-5}, {}, lambda c: dice(c, True, 1e-5))
        for name in (FREE, "absent", CLASSES)
    ),
    (FREE, {"kind": "bce_dice"}, {}, lambda c: bce(c) + dice(c)),
    (
        FREE,
        {"kind": "bce_dice", "cross_entropy_weight": 0.5, "dice_weight": 2.0, "smooth": 0.1},
        {},
        lambda c: 0.5 * bce(c) + 2 * dice(c, smooth=0.1),
    ),
    ("independent_ignored", {"kind": "bce_dice"}, {}, lambda c: bce(c) + masked_dice(c)),
    (CLASSES, {"kind": "ce_dice"}, {}, lambda c: dice_ce(c, 1, 1)),
    (CLASSES, {"kind": "ce_dice", "cross_entropy_weight": 0.5, "dice_weight": 2.0}, {}, lambda c: dice_ce(c, 2, 0.5)),
    ("exclusive_ignored", {"kind": "ce_dice"}, {}, lambda c: ce(c) + masked_dice(c)),
    *((name, {"kind": "focal"}, {}, lambda c: focal(c, gamma=2.0)) for name in (FREE, CLASSES)),
    *(
        (name, {"kind": "focal", "gamma": 1.5, "alpha": 0.25}, {}, lambda c: focal(c, gamma=1.5, alpha=0.25))
        for name in (FREE, CLASSES)
    ),
    *(
        (name, {"kind": "focal"}, {}, lambda c: masked_focal(c, gamma=2.0))
        for name in ("independent_ignored", "exclusive_ignored")
    ),
    *((name, {"kind": "tversky"}, {}, lambda c: tversky(c, alpha=0.3, beta=0.7)) for name in (FREE, "absent", CLASSES)),
    *(
        (name, {"kind": "focal_tversky"}, {}, lambda c: focal_tversky(c, 4 / 3, alpha=0.3, beta=0.7))
        for name in (FREE, CLASSES)
    ),
    *((name, {"kind": "generalised_dice"}, {}, generalised) for name in (FREE, "absent", CLASSES)),
    *(
        (name, {"kind": "generalised_dice", "per_sample": True}, {}, lambda c: generalised(c, True))
        for name in (FREE, "absent", CLASSES)
    ),
    *(
        (name, {"kind": "boundary", "weight": 0.2}, {}, lambda c: generalised(c) + 0.2 * boundary(c))
        for name in (FREE, "absent", CLASSES)
    ),
    (FREE, {"kind": "boundary", "region": "bce_dice"}, {}, lambda c: bce(c) + dice(c) + 0.01 * boundary(c)),
    *((name, {"kind": "topk"}, {}, lambda c: topk(c, 10)) for name in (FREE, CLASSES)),
    (CLASSES, {"kind": "topk", "share": 0.25, "dice_weight": 1.0}, {}, lambda c: topk(c, 25) + dice(c)),
]


def flat(values):
    """Float32 values with the fewest digits that round-trip, None for NaN."""
    values = np.asarray(values, dtype=np.float32).ravel()
    return [None if np.isnan(v) else float(str(v)) for v in values]


def main():
    torch.set_num_threads(1)
    inputs = {
        name: {"shape": SHAPE, "logits": flat(logits), "targets": flat(targets), "distances": flat(distances(name))}
        for name, (logits, targets) in INPUTS.items()
    }
    cases = []
    for name, loss, weights, reference in CASES:
        case = Case(name)
        value = reference(case)
        value.backward()
        outputs = "exclusive" if case.exclusive else "independent"
        cases.append(
            {
                "input": name,
                "outputs": outputs,
                "loss": loss,
                "class_weights": weights,
                "value": value.item(),
                "gradient": flat(case.x.grad),
            }
        )
    OUT.mkdir(parents=True, exist_ok=True)
    golden = {"spacing_mm": SPACING, "inputs": inputs, "cases": cases}
    text = json.dumps(golden, separators=(",", ":")).replace('{"input":', '\n{"input":')
    (OUT / "losses.json").write_text(text + "\n")
    print(f"{len(cases)} cases, {len(text) // 1024} KiB")


if __name__ == "__main__":
    main()
