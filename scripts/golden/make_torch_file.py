"""Golden files of torch.save, and hostile ones: tests/golden/torch/*.pth, with the expected content in expected.json.

weights.pth: a checkpoint like nnU-Net's: weights of several dtypes, two names for one tensor, a view of a storage, NumPy
scalars, a device, nested settings. The hostile ones: a pickle that calls os.system, a decompression bomb, overlapping
tensors, a tensor larger than its storage, a storage larger than its entry, a dict that contains itself, a truncated archive.

Run: python scripts/golden/make_torch_file.py    (PyTorch, NumPy: scripts/golden/surface.txt)
"""

import collections
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import torch

OUT = Path(__file__).resolve().parents[2] / "tests/golden/torch"


def weights():
    torch.manual_seed(0)
    shared = torch.randn(4, 3)
    state = collections.OrderedDict()
    state["encoder.weight"] = shared
    state["decoder.encoder.weight"] = shared
    state["half"] = torch.randn(2, 5).half()
    state["bfloat16"] = torch.randn(3).bfloat16()
    state["double"] = torch.randn(2, 2, dtype=torch.float64)
    state["steps"] = torch.tensor(7)
    state["empty"] = torch.zeros(0, 3)
    state["part"] = torch.arange(12.0)[4:10].reshape(2, 3)
    state["parameter"] = torch.nn.Parameter(torch.randn(1, 2, 1))
    return state


def rebuilt(source, to, change):
    """Copies an archive and modifies its pickle."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(to, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data) if name.endswith("data.pkl") else data)


class Call:
    def __reduce__(self):
        return os.system, ("touch /tmp/this-must-not-be",)


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    state = weights()
    extra = {
        "current_epoch": 1000,
        "_best_ema": np.float64(0.8125),
        "logging": {"losses": [np.float32(0.5), 0.25, float("nan")], "lrs": [np.int64(3), True, None]},
        "init_args": {"fold": 0, "device": torch.device("cuda"), "plans": {"spacing": [3.0, 1.0, 1.0], "keys": {"1": -5}}},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save({"network_weights": state, **extra}, OUT / "weights.pth")
    plain = {name: tensor.detach().double().numpy() for name, tensor in state.items()}
    expected = {name: {"shape": value.shape, "values": value.ravel().tolist()} for name, value in plain.items()}
    (OUT / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")

    source = OUT / "one.tmp"
    torch.save({"network_weights": {"a": torch.arange(6.0).reshape(2, 3)}}, source)
    rebuilt(source, OUT / "hostile_call.pth", lambda _: pickle.dumps({"network_weights": Call()}, protocol=2))
    rebuilt(source, OUT / "hostile_size.pth", lambda data: data.replace(b"K\x02K\x03\x86", b"K\x02K\x7f\x86"))
    rebuilt(source, OUT / "hostile_storage.pth", lambda data: data.replace(b"K\x06t", b"K\x7ft").replace(b"K\x02K\x03\x86", b"K\x02K\x09\x86").replace(b"K\x03K\x01\x86", b"K\x09K\x01\x86"))
    # An empty tensor at offset 2**62 of a storage that claims as many elements.
    far = b"\x8a\x08" + (1 << 62).to_bytes(8, "little")
    rebuilt(
        source, OUT / "hostile_far.pth",
        lambda data: data.replace(b"K\x06t", far + b"t").replace(b"QK\x00", b"Q" + far).replace(b"K\x02K\x03\x86", b"K\x00K\x03\x86"),
    )
    rebuilt(source, OUT / "hostile_stride.pth", lambda data: data.replace(b"K\x03K\x01\x86", b"K\x01K\x01\x86"))
    rebuilt(source, OUT / "hostile_itself.pth", lambda _: b"\x80\x02}q\x00X\x0f\x00\x00\x00network_weightsh\x00s.")
    base = torch.arange(8.0)
    torch.save({"network_weights": {"a": base[:5], "b": base[3:]}}, OUT / "hostile_overlap.pth")
    with zipfile.ZipFile(OUT / "hostile_bomb.pth", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as bomb:
        bomb.writestr("archive/data.pkl", b"\x80\x02" + b"N0" * (8 << 20) + b"N.")
    whole = (OUT / "weights.pth").read_bytes()
    (OUT / "hostile_end.pth").write_bytes(whole[: len(whole) // 2])
    source.unlink()


if __name__ == "__main__":
    main()
