"""Golden values for the networks: tests/golden/networks/<case>.json, one file per case in CASES.

The networks are those of dynamic-network-architectures (nnU-Net's): PlainConvEncoder or ResidualEncoder with
UNetDecoder; attention gates are MONAI's AttentionBlock, applied to the skips before concatenation. Unless the norm
is batch normalisation, the gates' projections have the network's norm and the map has none, as in Oktay et al. 2018.
Convolutions before a normalisation have no bias. nnU-Net concatenates (upsampled, skip), ctseg (skip, upsampled): the
input channels of the decoder's convolutions are swapped.

Nothing is random. The tensors of a network are numbered from 0 in byte order of ctseg's names; element i of tensor n
is, with w = sin(1.618 i + 0.9 n) in float64, rounded to float32:

    convolution weights: 2 w / sqrt(fan-in), fan-in = inputs times kernel (of a transposed one: inputs)
    gamma: 1 + 0.2 w                biases, beta: 0.1 w

Input element i: sin(0.7391 i) + 0.3 cos(0.0137 i). With logits l_s of scale s (0 the finest), the gradients are
those of the sum over s and i of l_s[i] cos(0.61 i + s), in training mode.

Layout: `network` (as in a recipe), `channels`, `structures`, `input` (shape), `scales` (shape and every STEP-th
logit of each scale), `maps` (the same for each gate, finest first), `gradients` (by tensor: its Euclidean norm, and
its dot product with cos(0.3 i)).

Run: python scripts/golden/make_networks.py
(PyTorch 2.11.0, dynamic-network-architectures 0.4.4, MONAI 1.6.1; the first two with any NumPy)
"""

import json
import math
from pathlib import Path

import torch
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from monai.networks.nets.attentionunet import AttentionBlock
from torch import nn

OUT = Path(__file__).resolve().parents[2] / "tests/golden/networks"
STEP = 7

FLAT = ("unet2d", "unet2_5d", "resenc2d")
DEEP = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 1]]
KERNELS = [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]]

CASES = {
    "unet2d": dict(network=dict(kind="unet2d", widths=[4, 8, 12]), input=[2, 2, 1, 12, 8]),
    "unet2d_attention": dict(
        network=dict(kind="unet2d", widths=[4, 8, 12], attention=True), input=[2, 2, 1, 12, 8]
    ),
    "unet2_5d_group": dict(
        network=dict(
            kind="unet2_5d", widths=[4, 8, 12, 8], neighbours=1, norm="group", groups=2, deep_supervision=True
        ),
        input=[2, 2, 3, 16, 8],
    ),
    "unet3d": dict(
        network=dict(kind="unet3d", widths=[4, 6, 8, 8], kernels=KERNELS, strides=DEEP, deep_supervision=True),
        input=[2, 2, 4, 16, 8],
    ),
    "unet3d_attention": dict(
        network=dict(kind="unet3d", widths=[4, 6, 8], attention=True), input=[1, 2, 8, 12, 8]
    ),
    "resenc2d": dict(
        network=dict(kind="resenc2d", widths=[4, 8, 8], norm="batch", activation="relu", neighbours=1, attention=True),
        input=[2, 1, 3, 12, 8],
    ),
    "resenc3d": dict(
        network=dict(
            kind="resenc3d", widths=[4, 6, 8, 8], blocks=[1, 2, 2, 1], kernels=KERNELS, strides=DEEP,
            deep_supervision=True,
        ),
        input=[2, 2, 4, 16, 8],
    ),
}


class GroupNorm(nn.GroupNorm):
    def __init__(self, channels, groups):
        super().__init__(groups, channels)


class Network(nn.Module):
    """Encoder, decoder and gates of the packages, with their parameters under ctseg's names."""

    def __init__(self, config, channels, structures):
        super().__init__()
        widths, flat = config["widths"], config["kind"] in FLAT
        residual = config["kind"].startswith("resenc")
        axes, depth = 2 if flat else 3, len(widths)
        plain = flat and not residual
        norm = config.get("norm", "batch" if plain else "instance")
        ops = {"batch": [nn.BatchNorm2d, nn.BatchNorm3d], "instance": [nn.InstanceNorm2d, nn.InstanceNorm3d]}
        if norm == "group":
            norm_op, norm_arguments = GroupNorm, {"groups": config["groups"]}
        else:
            norm_op, norm_arguments = ops[norm][axes - 2], {"eps": 1e-5, "affine": True}
        leaky = config.get("activation", "relu" if plain else "leaky_relu") == "leaky_relu"
        shared = dict(
            input_channels=channels,
            n_stages=depth,
            features_per_stage=widths,
            conv_op=nn.Conv2d if flat else nn.Conv3d,
            kernel_sizes=config.get("kernels", [[3] * axes] * depth),
            strides=config.get("strides", [[1] * axes] + [[2] * axes] * (depth - 1)),
            conv_bias=False,
            norm_op=norm_op,
            norm_op_kwargs=norm_arguments,
            nonlin=nn.LeakyReLU if leaky else nn.ReLU,
            nonlin_kwargs={"inplace": True},
            return_skips=True,
        )
        if residual:
            blocks = config.get("blocks", [1, 3, 4, 6, 6, 6][:depth])
            self.encoder = ResidualEncoder(n_blocks_per_stage=blocks, **shared)
        else:
            self.encoder = PlainConvEncoder(n_conv_per_stage=2, pool="max" if plain else "conv", **shared)
        self.decoder = UNetDecoder(self.encoder, structures, 1 if residual else 2, deep_supervision=True)
        # In ctseg, unlike the encoder's convolutions, transposed convolutions and heads have a bias.
        for index, up in enumerate(self.decoder.transpconvs):
            up.bias = nn.Parameter(torch.zeros(up.weight.shape[1]))
        self.gates = nn.ModuleList()
        if config.get("attention"):
            for width in reversed(widths[:-1]):
                gate = AttentionBlock(axes, f_int=width // 2, f_g=width, f_l=width)
                if norm != "batch":
                    for projection in (gate.W_g, gate.W_x):
                        projection[1] = norm_op(width // 2, **norm_arguments)
                    gate.psi[1] = nn.Identity()
                for convolution in gate.modules():
                    if isinstance(convolution, (nn.Conv2d, nn.Conv3d)):
                        nn.init.zeros_(convolution.bias)
                self.gates.append(gate)
        self.scales = max(1, depth - 2) if config.get("deep_supervision") else 1
        self.residual = residual

    def forward(self, x):
        skips = self.encoder(x)
        decoder, x = self.decoder, skips[-1]
        logits, maps = [], []
        for d in range(len(decoder.stages)):
            x = decoder.transpconvs[d](x)
            skip = skips[-(d + 2)]
            if self.gates:
                gate = self.gates[d]
                maps.append(gate.psi(gate.relu(gate.W_g(x) + gate.W_x(skip))))
                skip = gate(g=x, x=skip)
            x = decoder.stages[d](torch.cat((x, skip), 1))
            logits.append(decoder.seg_layers[d](x))
        return logits[::-1][: self.scales], maps[::-1]

    def parts(self):
        """(ctseg's name, module) of every module with parameters."""
        for s, stage in enumerate(self.encoder.stages):
            if self.residual:
                for b, block in enumerate(stage.blocks):
                    yield f"encoder.{s}.{b}.layers.0", block.conv1
                    yield f"encoder.{s}.{b}.layers.1", block.conv2
                    if isinstance(block.skip, nn.Sequential) and hasattr(block.skip[-1], "conv"):
                        yield f"encoder.{s}.{b}.skip", block.skip[-1]
            else:
                for i, layer in enumerate(stage[-1].convs):
                    yield f"encoder.{s}.{i}", layer
        if self.residual:
            yield "stem.0", self.encoder.stem.convs[0]
        for d, stage in enumerate(self.decoder.stages):
            yield f"up.{d}", self.decoder.transpconvs[d]
            for i, layer in enumerate(stage.convs):
                yield f"decoder.{d}.{i}", layer
        yield "head", self.decoder.seg_layers[-1]
        for i in range(self.scales - 1):
            yield f"heads.{i}", self.decoder.seg_layers[-(i + 2)]

    def named(self):
        """{ctseg's name: parameter}"""
        found = {}
        for name, part in self.parts():
            if hasattr(part, "conv"):
                found[f"{name}.conv.weight"] = part.conv.weight
                found[f"{name}.norm.gamma"], found[f"{name}.norm.beta"] = part.norm.weight, part.norm.bias
            else:
                found[f"{name}.weight"], found[f"{name}.bias"] = part.weight, part.bias
        for d, gate in enumerate(self.gates):
            for name, part in (("signal", gate.W_g), ("skip", gate.W_x), ("map", gate.psi)):
                conv = part[0].conv
                found[f"gates.{d}.{name}.conv.weight"] = conv.weight
                if isinstance(part[1], nn.Identity):
                    found[f"gates.{d}.{name}.conv.bias"] = conv.bias
                else:
                    found[f"gates.{d}.{name}.norm.gamma"] = part[1].weight
                    found[f"gates.{d}.{name}.norm.beta"] = part[1].bias
        return dict(sorted(found.items()))


def swapped(name, tensor):
    """Swaps the input halves of the decoder's first convolutions."""
    if name.startswith("decoder.") and name.endswith(".0.conv.weight"):
        half = tensor.shape[1] // 2
        return torch.cat((tensor[:, half:], tensor[:, :half]), 1)
    return tensor


def value(name, shape, number):
    w = torch.sin(1.618 * torch.arange(math.prod(shape), dtype=torch.float64) + 0.9 * number).reshape(shape)
    if name.endswith("gamma"):
        return 1 + 0.2 * w
    if len(shape) == 1:
        return 0.1 * w
    fan_in = shape[0] if name.startswith("up.") else math.prod(shape[1:])
    return 2 * w / math.sqrt(fan_in)


def wave(shape, made):
    return made(torch.arange(math.prod(shape), dtype=torch.float64)).float().reshape(shape)


def shortest(values):
    return [float(f"{value:.8g}") for value in values]


def sampled(tensor):
    return {"shape": list(tensor.shape), "values": shortest(tensor.detach().flatten()[::STEP].tolist())}


def case(described):
    config, shape, structures = described["network"], described["input"], 3
    flat = config["kind"] in FLAT
    network = Network(config, shape[1] * (shape[2] if flat else 1), structures)
    parameters = network.named()
    with torch.no_grad():
        for number, (name, parameter) in enumerate(parameters.items()):
            parameter.copy_(swapped(name, value(name, list(parameter.shape), number)))
    network.train()
    x = wave(shape, lambda i: torch.sin(0.7391 * i) + 0.3 * torch.cos(0.0137 * i))
    logits, maps = network(x.flatten(1, 2) if flat else x)
    total = sum(
        (l * wave(l.shape, lambda i: torch.cos(0.61 * i + s))).sum() for s, l in enumerate(logits)
    )
    total.backward()
    gradients = {}
    for name, parameter in parameters.items():
        gradient = swapped(name, parameter.grad).flatten().double()
        along = torch.cos(0.3 * torch.arange(len(gradient), dtype=torch.float64))
        gradients[name] = shortest([gradient.norm().item(), (gradient * along).sum().item()])
    return {
        "made_with": f"torch {torch.__version__.split('+')[0]}, dynamic-network-architectures 0.4.4, MONAI 1.6.1",
        "network": config,
        "channels": shape[1],
        "structures": structures,
        "input": shape,
        "scales": [sampled(l.unsqueeze(2) if flat else l) for l in logits],
        "maps": [sampled(m.unsqueeze(2) if flat else m) for m in maps],
        "gradients": gradients,
    }


def main():
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    for name, described in CASES.items():
        (OUT / f"{name}.json").write_text(json.dumps(case(described)) + "\n")


if __name__ == "__main__":
    main()
