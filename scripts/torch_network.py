"""PyTorch implementation of the networks that 'ctseg export safetensors' writes (needs torch and safetensors).

    from torch_network import Network
    network = Network("exported/stage2_fold0.safetensors")     # or ("all.safetensors", prefix="stage2.fold_0.")
    logits = network(x)         # x: (batch, channel, z, y, x); for 2D networks z = 2 neighbours + 1
    network.described           # channels, normalisation, maps, spacing_mm, patch_size, recipe, ...

    torch_network.py FILE PREFIX BATCH Z Y X        prints the network's logits for a wave as JSON (for tests)
    torch_network.py onnx FILE PREFIX TARGET        writes ONNX for patches of the training size (needs onnx)
"""

import json
import math
import sys

import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

EPS = 1e-5


class Network(nn.Module):
    """A U-Net in inference mode, built from the names of its tensors."""

    def __init__(self, path, prefix=""):
        super().__init__()
        with safe_open(path, framework="pt") as file:
            self.metadata = json.loads(file.metadata()["ctseg"])
            networks = {one["prefix"]: one for one in self.metadata["networks"]}
            self.described = networks[prefix]
            names = [name for name in file.keys() if name.startswith(prefix)]
            self.tensors = {name[len(prefix) :]: file.get_tensor(name) for name in names}
        # Buffer names must not contain dots.
        for name, tensor in self.tensors.items():
            self.register_buffer(name.replace(".", "_"), tensor)
        self.config = self.described["network"]
        self.slices = self.config["kind"] in ("unet2d", "unet2_5d", "resenc2d")
        self.residual = self.config["kind"].startswith("resenc")
        self.depth = len(self.config["widths"])

    def get(self, name):
        return getattr(self, name.replace(".", "_")) if name in self.tensors else None

    def conv(self, x, name, stride=1):
        weight = self.get(f"{name}.weight")
        convolve = F.conv2d if self.slices else F.conv3d
        padding = [size // 2 for size in weight.shape[2:]]
        return convolve(x, weight, self.get(f"{name}.bias"), stride=stride, padding=padding)

    def norm(self, x, name):
        gamma, beta = self.get(f"{name}.gamma"), self.get(f"{name}.beta")
        kind = self.config["norm"]
        if kind == "batch":
            mean, variance = self.get(f"{name}.running_mean"), self.get(f"{name}.running_var")
            return F.batch_norm(x, mean, variance, gamma, beta, eps=EPS)
        if kind == "instance":
            return F.instance_norm(x, weight=gamma, bias=beta, eps=EPS)
        return F.group_norm(x, math.gcd(self.config["groups"], len(gamma)), gamma, beta, eps=EPS)

    def activated(self, x):
        return F.relu(x) if self.config["activation"] == "relu" else F.leaky_relu(x, 0.01)

    def layer(self, x, name, stride=1, activated=True):
        """Convolution, normalisation (if any), activation."""
        x = self.conv(x, f"{name}.conv", stride)
        if self.get(f"{name}.norm.gamma") is not None:
            x = self.norm(x, f"{name}.norm")
        return self.activated(x) if activated else x

    def layers(self, x, name, stride=1):
        """All layers with this prefix; only the first is strided."""
        index = 0
        while f"{name}.{index}.conv.weight" in self.tensors:
            x = self.layer(x, f"{name}.{index}", stride if index == 0 else 1)
            index += 1
        return x

    def residual_block(self, x, name, stride):
        around = x
        if any(side > 1 for side in stride):
            pool = F.avg_pool2d if self.slices else F.avg_pool3d
            around = pool(around, stride, stride)
        if f"{name}.skip.conv.weight" in self.tensors:
            around = self.layer(around, f"{name}.skip", activated=False)
        x = self.layer(x, f"{name}.layers.0", stride)
        x = self.layer(x, f"{name}.layers.1", activated=False)
        return self.activated(x + around)

    def level(self, x, index):
        stride = self.config["strides"][index]
        if self.residual:
            for block in range(self.config["blocks"][index]):
                x = self.residual_block(x, f"encoder.{index}.{block}", stride if block == 0 else [1] * len(stride))
            return x
        if self.config["downsampling"] == "pool" and index > 0:
            pool = F.max_pool2d if self.slices else F.max_pool3d
            x, stride = pool(x, stride, stride), 1
        return self.layers(x, f"encoder.{index}", stride if index > 0 else 1)

    def gated(self, skip, x, index):
        signal = self.layer(x, f"gates.{index}.signal", activated=False)
        seen = self.layer(skip, f"gates.{index}.skip", activated=False)
        return skip * torch.sigmoid(self.layer(F.relu(signal + seen), f"gates.{index}.map", activated=False))

    def forward(self, x):
        if self.slices:
            x = x.flatten(1, 2)
        x = self.layers(x, "stem")
        skips = []
        for index in range(self.depth):
            x = self.level(x, index)
            skips.append(x)
        skips.pop()
        up = F.conv_transpose2d if self.slices else F.conv_transpose3d
        for index in range(self.depth - 1):
            stride = self.config["strides"][self.depth - 1 - index]
            x = up(x, self.get(f"up.{index}.weight"), self.get(f"up.{index}.bias"), stride=stride)
            skip = skips.pop()
            if self.config.get("attention"):
                skip = self.gated(skip, x, index)
            x = self.layers(torch.cat((skip, x), 1), f"decoder.{index}")
        logits = self.conv(x, "head")
        return logits.unsqueeze(2) if self.slices else logits


def wave(shape):
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return (torch.sin(0.7391 * i) + 0.3 * torch.cos(0.0137 * i)).float().reshape(shape)


def main(path, prefix, batch, *sides):
    network = Network(path, prefix)
    with torch.no_grad():
        logits = network(wave([int(batch), len(network.described["channels"]), *map(int, sides)]))
    print(json.dumps({"shape": list(logits.shape), "values": logits.flatten().tolist()}))


def onnx(path, prefix, target):
    network = Network(path, prefix).eval()
    sides = network.described["patch_size"]
    if network.slices:
        sides = [2 * network.config["neighbours"] + 1, *sides]
    x = torch.zeros(1, len(network.described["channels"]), *sides)
    torch.onnx.export(network, (x,), target, input_names=["image"], output_names=["logits"], dynamo=False)


if __name__ == "__main__":
    {"onnx": onnx}[sys.argv[1]](*sys.argv[2:]) if sys.argv[1] == "onnx" else main(*sys.argv[1:])
