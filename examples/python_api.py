"""Use the zoo from Python: list models, load one, run it, measure it.

python examples/python_api.py
"""

from __future__ import annotations

import torch

import zoo
from zoo.errors import ZooError


def main() -> None:
    """Print the models at hand, and what the smallest one does on its test images."""
    for entry in zoo.list_models("*digits*"):
        print(entry.name)
    model = zoo.load("s-resnet20-digits")
    print(model)
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    run = model.run(images, timesteps=16, snapshots=(8, 16))
    logits = model(images, timesteps=16)
    print(run, logits.argmax(1).tolist() == run.logits[-1].argmax(1).tolist())
    if model.config is not None:
        print(model.config.arch, model.timesteps, model.class_names)
    for row in zoo.evaluate("s-resnet20-digits", timesteps=(4, 16)).rows:
        print(f"T = {row.timesteps}: {row.top1:.2f} %")
    try:
        zoo.load("s-resnet21")
    except ZooError as error:
        print(error)


if __name__ == "__main__":
    main()
