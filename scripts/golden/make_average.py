"""Golden values for the weight average: tests/golden/average/<case>.json, one file per case in CASES.

torch.optim.swa_utils.AveragedModel with get_ema_multi_avg_fn and use_buffers=True, over a parameter and a running
statistic that change with each step. Before step t (from 1 on) its decay is set to that of TensorFlow's
ExponentialMovingAverage with num_updates: min(decay, (1 + t) / (10 + t)). The first call copies the initial values.
Everything is float32 on the CPU, one thread.

Values come from formulas, evaluated in float64 and rounded to float32; step 0 is the initial state:

    weight, element i, after step t:        sin(0.7 i + 0.9 t + 0.4)
    running_mean, element i, after step t:  3 + cos(1.1 i + 0.5 t)

Layout: `decay`, `initial` and `steps` (decay_used, weight, running_mean, average_weight, average_running_mean).

Run: python scripts/golden/make_average.py    (PyTorch 2.11.0)
"""

import json
import math
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

OUT = Path(__file__).resolve().parents[2] / "tests/golden/average"
ELEMENTS = 7
STEPS = 6
# In six steps the decay never reaches 0.999; it reaches 0.3 in the third step.
CASES = {"rising": 0.999, "risen": 0.3}


class Values(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(ELEMENTS))
        self.register_buffer("running_mean", torch.zeros(ELEMENTS))
        self.set(0)

    @torch.no_grad()
    def set(self, t):
        made = lambda value: torch.tensor([value(i) for i in range(ELEMENTS)], dtype=torch.float64)
        self.weight.copy_(made(lambda i: math.sin(0.7 * i + 0.9 * t + 0.4)))
        self.running_mean.copy_(made(lambda i: 3 + math.cos(1.1 * i + 0.5 * t)))


def shortest(value):
    """The float32 `value` with the fewest digits that round-trip."""
    for digits in range(1, 10):
        text = f"{value:.{digits}g}"
        if torch.tensor(float(text), dtype=torch.float32).item() == value:
            return float(text)
    raise ValueError(value)


def flat(model):
    return {
        "weight": [shortest(value) for value in model.weight.tolist()],
        "running_mean": [shortest(value) for value in model.running_mean.tolist()],
    }


def case(decay):
    model = Values()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    average.update_parameters(model)
    initial, steps = flat(model), []
    for t in range(1, STEPS + 1):
        model.set(t)
        used = min(decay, (1 + t) / (10 + t))
        average.multi_avg_fn = get_ema_multi_avg_fn(used)
        average.update_parameters(model)
        averages = {f"average_{key}": values for key, values in flat(average.module).items()}
        steps.append({"decay_used": used, **flat(model), **averages})
    made_with = f"torch {torch.__version__.split('+')[0]}"
    return {"decay": decay, "made_with": made_with, "initial": initial, "steps": steps}


def main():
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    for name, decay in CASES.items():
        (OUT / f"{name}.json").write_text(json.dumps(case(decay), indent=1) + "\n")


if __name__ == "__main__":
    main()
