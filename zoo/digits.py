"""Makes `s-resnet20-digits`, the artifact the package ships: trains ResNet-20 on scikit-learn's digits and converts it.

    python -m zoo.digits OUT        # OUT/resnet20-digits.safetensors (the ANN) and OUT/s-resnet20-digits (the artifact)

1,437 real handwritten digits of 8 x 8 pixels train it (`zoo.readers` fixes the split), 360 are held out. About 30 seconds on two
CPU cores. One seed fixes everything; another torch or processor can still differ in a last digit.
"""

from __future__ import annotations

import sys
from pathlib import Path

from zoo.checkpoint import Checkpoint, read_checkpoint
from zoo.convert import Conversion, convert
from zoo.data import Preprocess, open_images
from zoo.resnet import topology
from zoo.train import Plan, Trainer, save_checkpoint

NAME = "resnet20-digits"
PLAN = Plan(epochs=60, batch_size=64, peak_rate=0.1, shift=1, mirror=False)
# Of the training images, for pixels in 0 to 1.
MEAN, STD = (0.3055,), (0.3759,)


def train_digits(folder: Path, plan: Plan = PLAN) -> Checkpoint:
    """Trains the ANN and writes it to `folder`."""
    images = open_images("digits", "train")
    net = topology("resnet20", num_classes=10, in_channels=1)

    trainer = Trainer(net, images, Preprocess((1, 8, 8)), plan, MEAN, STD)

    def talk(trainer: Trainer) -> None:
        epoch, rest = divmod(trainer.step, trainer.steps_an_epoch)
        if rest == 0:
            end = "" if trainer.step < trainer.steps else "\n"
            print(f"\repoch {epoch}/{plan.epochs}, loss {trainer.log[-1].loss:.3f}", end=end, file=sys.stderr, flush=True)

    trainer.run(talk)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{NAME}.safetensors"
    save_checkpoint(trainer.state(), path)
    return read_checkpoint(path, net.arch)


def convert_digits(ann: Checkpoint, **options: object) -> Conversion:
    """Converts the ANN with its own training images."""
    images = open_images("digits", "train")
    return convert(ann, images, mean=MEAN, std=STD, input_size=8, license="apache-2.0", **options)  # type: ignore[arg-type]


def main() -> None:
    """Trains, converts and saves; see the module's docstring."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m zoo.digits OUT")
    folder = Path(sys.argv[1])
    made = convert_digits(train_digits(folder))
    made.save(folder / f"s-{NAME}", force=True)
    print(folder / f"s-{NAME}")


if __name__ == "__main__":
    main()
