"""An artifact without the zoo: safetensors, json and torch give the same spikes and logits.

    python examples/plain_safetensors.py zoo/models/s-resnet20-digits

Takes networks of the CIFAR form with `if` neurons and the causal schedule; the format is described
in `zoo/artifact/folder.py`. All numbers are integers, which float64 holds exactly, so any order of
summing gives the same.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn.functional import conv2d, pad


def run(folder, images, timesteps):
    """Return logits `[T, B, classes]` after each timestep, and spikes, of uint8 images.

    Images are `[B, C, H, W]`, spikes `[T, B, C, H, W]`.
    """
    config = json.loads((Path(folder) / "config.json").read_text())
    assert config["arch"] in ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110"), (
        "not of the CIFAR form"
    )
    assert (config["neuron"], config["schedule"]) == ("if", "causal"), "other neurons"
    p = {
        name: tensor.double()
        for name, tensor in load_file(Path(folder) / "model.safetensors").items()
    }
    layers, before = (
        [("conv1", "image", 1, None)],
        "conv1",
    )  # name, what it reads, stride, where its shortcut begins
    for stage in (1, 2, 3):
        for block in range((int(config["arch"][6:]) - 2) // 6):
            first, second = (f"layer{stage}.{block}.conv{n}" for n in (1, 2))
            layers += [
                (first, before, 2 if stage > 1 and block == 0 else 1, None),
                (second, first, 1, before),
            ]
            before = second
    image = torch.stack([table[images[:, c].long()] for c, table in enumerate(p["image.table"])], 1)
    v = {name: p[f"{name}.v_init"].view(-1, 1, 1) for name, *_ in layers}
    spikes = {name: [] for name in v}
    for t in range(timesteps):
        out = {"image": image}
        for name, source, stride, shortcut in layers:
            z = conv2d(
                out[source], p[f"{name}.weight"], None, stride, p[f"{name}.weight"].shape[-1] // 2
            )
            if shortcut is not None:
                x = out[shortcut][
                    :, :, :: (step := -(-out[shortcut].shape[-1] // z.shape[-1])), ::step
                ]
                if f"{name}.shortcut.weight" in p:
                    z += conv2d(x, p[f"{name}.shortcut.weight"])
                else:
                    edge = (z.shape[1] - x.shape[1]) // 2
                    z += p[f"{name}.shortcut.gain"].view(-1, 1, 1) * pad(
                        x, (0, 0, 0, 0, edge, edge)
                    )
            v[name] = (
                v[name] + z + p[f"{name}.bias"][min(t, len(p[f"{name}.bias"]) - 1)].view(-1, 1, 1)
            )
            threshold = p[f"{name}.threshold"].view(-1, 1, 1)
            out[name] = (v[name] >= threshold).double()
            v[name] -= out[name] * threshold  # soft reset
            spikes[name].append(out[name].to(torch.int8))
    spikes = {name: torch.stack(steps) for name, steps in spikes.items()}
    counts = (
        torch.cat(
            [torch.zeros(1, len(images), p["fc.weight"].shape[1]), spikes[before].sum((3, 4))]
        )
        .double()
        .cumsum(0)
    )
    logits = []
    for t in range(1, timesteps + 1):  # the read-out leaves out the first steps
        known = [(int(at), steps) for at, steps in config["readout_delay"].items() if int(at) <= t]
        skip = min(max(known, default=(0, 0))[1], t - 1)
        logits.append(
            (counts[t] - counts[skip]) @ p["fc.weight"].T * (p["fc.scale"] / (t - skip))
            + p["fc.bias"]
        )
    return torch.stack(logits), spikes


if __name__ == "__main__":
    size = json.loads((Path(sys.argv[1]) / "config.json").read_text())["preprocess"]["input_size"]
    logits, spikes = run(sys.argv[1], torch.randint(0, 256, (2, *size), dtype=torch.uint8), 32)
    print("classes of two images of noise:", logits[-1].argmax(1).tolist())
    print("spikes:", sum(int(steps.sum()) for steps in spikes.values()))
