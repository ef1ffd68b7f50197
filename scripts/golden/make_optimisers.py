"""Golden values for the optimisers: tests/golden/optimisers/<case>.json, one file per case in CASES.

Six steps of torch.optim on three named parameters, in the order of nn.Module.named_parameters. Before each step the
gradient is clipped by clip_grad_norm_(max_norm=5), which takes effect in only some of the steps, and the learning
rate is set for that step. Everything is float32 on the CPU, one thread, PyTorch's loop over tensors
(foreach=False, fused=False).

Initial values and gradients come from formulas, evaluated in float64 and rounded to float32; they are stored too:

    parameter p (0, 1, 2), element i:          sin(0.7 i + 1.3 p + 0.4)
    its gradient in step s (0 to 5):           scale[s] cos(0.9 i + 1.1 p + 0.5 s)

Layout: `optimiser` and its settings, `clip_norm`, `parameters` (name, shape, initial), `steps` (learning_rate,
gradient_norm before clipping, clipped, gradients by name before clipping, parameters by name after the step).
Tensors are flat, the last axis fastest. Numbers are float32 values with the fewest digits that round-trip.

Run: python scripts/golden/make_optimisers.py    (PyTorch 2.11.0)
"""

import json
import math
from pathlib import Path

import torch

OUT = Path(__file__).resolve().parents[2] / "tests/golden/optimisers"
SHAPES = {"encoder.weight": (4, 3), "encoder.bias": (5,), "head.weight": (2, 2, 2)}
SCALES = [0.5, 3.0, 0.8, 10.0, 0.02, 1.7]  # gradient norms from 0.07 to 36, around the clipping norm
CLIP_NORM = 5.0

CASES = {
    "adam": (
        torch.optim.Adam,
        {"weight_decay": 0.01, "betas": [0.9, 0.999], "eps": 1e-8},
        [0.1, 0.09, 0.07, 0.05, 0.02, 0.01],
    ),
    "adamw": (
        torch.optim.AdamW,
        {"weight_decay": 0.01, "betas": [0.9, 0.999], "eps": 1e-8},
        [0.1, 0.09, 0.07, 0.05, 0.02, 0.01],
    ),
    "adamw_betas": (
        torch.optim.AdamW,
        {"weight_decay": 0.05, "betas": [0.8, 0.95], "eps": 1e-3},
        [0.1, 0.09, 0.07, 0.05, 0.02, 0.01],
    ),
    "sgd_nesterov": (
        torch.optim.SGD,
        {"momentum": 0.99, "dampening": 0.0, "nesterov": True, "weight_decay": 3e-5},
        [0.01, 0.009, 0.008, 0.007, 0.006, 0.005],
    ),
    # nnU-Net's 3e-5 hardly has an effect in six float32 steps; this has.
    "sgd_weight_decay": (
        torch.optim.SGD,
        {"momentum": 0.9, "dampening": 0.0, "nesterov": True, "weight_decay": 0.05},
        [0.05, 0.045, 0.04, 0.035, 0.03, 0.025],
    ),
    "rmsprop": (
        lambda parameters, fused, **settings: torch.optim.RMSprop(parameters, **settings),  # has no fused form
        {"weight_decay": 0.01, "alpha": 0.99, "eps": 1e-8},
        [0.02, 0.018, 0.016, 0.01, 0.005, 0.002],
    ),
    "sgd_momentum": (
        torch.optim.SGD,
        {"momentum": 0.9, "dampening": 0.0, "nesterov": False, "weight_decay": 0.0},
        [0.01, 0.009, 0.008, 0.007, 0.006, 0.005],
    ),
}


def made(shape, value):
    values = [value(i) for i in range(math.prod(shape))]
    return torch.tensor(values, dtype=torch.float64).to(torch.float32).reshape(shape)


def shortest(value):
    """The float32 `value` with the fewest digits that round-trip."""
    for digits in range(1, 10):
        text = f"{value:.{digits}g}"
        if torch.tensor(float(text), dtype=torch.float32).item() == value:
            return float(text)
    raise ValueError(value)


def flat(tensor):
    return [shortest(value) for value in tensor.detach().flatten().tolist()]


def case(name):
    optimiser, settings, rates = CASES[name]
    parameters = {
        key: torch.nn.Parameter(made(shape, lambda i, p=p: math.sin(0.7 * i + 1.3 * p + 0.4)))
        for p, (key, shape) in enumerate(SHAPES.items())
    }
    initial = [{"name": k, "shape": list(v.shape), "initial": flat(v)} for k, v in parameters.items()]
    steps = []
    stepper = optimiser(parameters.values(), lr=rates[0], foreach=False, fused=False, **settings)
    for s, (rate, scale) in enumerate(zip(rates, SCALES)):
        for p, parameter in enumerate(parameters.values()):
            parameter.grad = made(parameter.shape, lambda i: scale * math.cos(0.9 * i + 1.1 * p + 0.5 * s))
        gradients = {key: flat(parameter.grad) for key, parameter in parameters.items()}
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), CLIP_NORM, foreach=False).item()
        stepper.param_groups[0]["lr"] = rate
        stepper.step()
        steps.append(
            {
                "learning_rate": rate,
                "gradient_norm": shortest(norm),
                "clipped": norm > CLIP_NORM,
                "gradients": gradients,
                "parameters": {key: flat(parameter) for key, parameter in parameters.items()},
            }
        )
    clipped = sum(step["clipped"] for step in steps)
    assert 0 < clipped < len(steps), "clipping must take effect in some steps but not in all"
    return {
        "optimiser": type(stepper).__name__,
        **settings,
        "clip_norm": CLIP_NORM,
        "made_with": f"torch {torch.__version__.split('+')[0]}",
        "parameters": initial,
        "steps": steps,
    }


def main():
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    for name in CASES:
        (OUT / f"{name}.json").write_text(json.dumps(case(name), indent=1) + "\n")


if __name__ == "__main__":
    main()
