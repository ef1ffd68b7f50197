"""Golden values for planned networks: tests/golden/plan/topology.json.

Strides, kernels and patch come from nnU-Net's `get_pool_and_conv_props` (nnunetv2 2.8.1, file
experiment_planning/experiment_planners/network_topology.py, which only needs NumPy).

Run: python scripts/golden/make_plan.py path/to/network_topology.py
"""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np

OUT = Path(__file__).resolve().parents[2] / "tests/golden/plan/topology.json"


def main():
    spec = importlib.util.spec_from_file_location("network_topology", sys.argv[1])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rng = np.random.default_rng(20241124)
    cases = [
        ([5.0, 0.75, 0.75], [20, 320, 256]),
        ([1.0, 1.0, 1.0], [128, 128, 128]),
        ([3.0, 0.8, 0.8], [28, 256, 256]),
        ([2.5, 4.0, 4.0], [56, 96, 96]),
        ([0.8, 0.8], [512, 512]),
        ([1.0, 3.0], [192, 60]),
    ]
    for axes in (2, 3):
        for _ in range(40):
            spacing = np.round(np.exp(rng.uniform(np.log(0.4), np.log(8.0), axes)), 2)
            patch = rng.integers(17, 300, axes)
            cases.append((spacing.tolist(), patch.tolist()))
    golden = []
    for spacing, patch in cases:
        _, strides, kernels, padded, multiple = module.get_pool_and_conv_props(spacing, patch, 4, 999)
        if len(strides) == 1:
            continue  # a single level
        golden.append({
            "spacing_mm": spacing,
            "patch": patch,
            "strides": [list(s) for s in strides],
            "kernels": [list(k) for k in kernels],
            "padded": [int(v) for v in padded],
            "multiple": [int(v) for v in multiple],
        })
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
