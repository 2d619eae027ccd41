"""Early exit of a CIFAR-10 network: mean timesteps for a stated loss of accuracy.

`python -m benchmarks.exits --data cifar10 [--model s-resnet20] [--train 5000] [--limit N]`

The rules are calibrated on drawn training images, then read off one run of all test images, whose
logits exist at every timestep: accuracy, mean timesteps, images by timestep of exit, and operations
on some of them. Rules calibrated on the test images themselves stand beside: what the best
threshold would have been, not what one can know.
Writes benchmarks/results/exits.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch

import zoo
from zoo.data.open import open_images
from zoo.environment import versions
from zoo.evaluation.exits import apply_rule, calibrate_rule, observe_exits
from zoo.networks.exits import RuleName, exiting_run
from zoo.networks.preprocess import Preprocess

LOSSES = (0.0, 0.2, 0.5)
RULES: tuple[RuleName, ...] = ("margin", "entropy")
RESULTS = Path(__file__).parent / "results" / "exits.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="s-resnet20")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--timesteps", type=int, default=32)
    parser.add_argument(
        "--train", type=int, default=3000, help="training images, drawn with seed 0"
    )
    parser.add_argument("--counted", type=int, default=1500, help="test images for operations")
    parser.add_argument("--limit", type=int, help="test images; default: all")
    parser.add_argument("--check", type=int, default=500, help="images of runs that stop")
    args = parser.parse_args()
    network = zoo.load(args.model)
    assert network.config is not None
    train, test = (open_images(args.data, split) for split in ("train", "test"))
    train = train.take(args.train, seed=0)
    test = test if args.limit is None else test.take(args.limit, seed=0)

    def tell(stage: str, done: int, total: int) -> None:
        print(f"\r{stage} {done}/{total}", end="", flush=True)

    seen = observe_exits(network, train, args.timesteps, count_operations=False, progress=tell)
    shown = observe_exits(network, test, args.timesteps, count_operations=False, progress=tell)
    some = test.take(args.counted, seed=0)
    counted = observe_exits(network, some, args.timesteps, progress=tell)
    print()
    rows = []
    for origin, source in (("training images", seen), ("the test images, in hindsight", shown)):
        for name in RULES:
            for loss in LOSSES:
                rule = calibrate_rule(source, name, loss)
                row, cost = apply_rule(shown, rule, loss), apply_rule(counted, rule, loss)
                assert sum(row.images) == len(test)
                assert cost.operations is not None and cost.whole_operations is not None
                rows.append(
                    {
                        "calibrated_on": origin,
                        **asdict(row),
                        "operations": cost.operations,
                        "whole_operations": cost.whole_operations,
                        "operations_images": len(some),
                    }
                )
                print(
                    f"{origin}: {name}, at most {loss:.1f} points: {row.top1:.2f} % of "
                    f"{row.whole:.2f} %, {row.mean_timesteps:.2f} of {args.timesteps} timesteps, "
                    f"operations {cost.operations / cost.whole_operations:.3f} of all"
                )
    rule = calibrate_rule(seen, "margin", LOSSES[1])
    part = test.take(args.check, seed=0).batch(slice(None), Preprocess.of(network.config))
    stopped = exiting_run(network, part, rule)
    whole = network.run(part, args.timesteps).logits
    equal = torch.equal(stopped.logits, rule.read(whole)) and torch.equal(
        stopped.timesteps, rule.exit_times(whole)
    )
    assert equal
    print(f"runs that stop: logits and timesteps of {len(part)} images are those of whole runs")
    result = {
        "model": args.model,
        "weights_sha256": network.config.weights_sha256,
        "timesteps": args.timesteps,
        "train": {"images": len(train), "description": train.description, "top1": seen.accuracy},
        "test": {"images": len(test), "description": test.description, "sha256": test.sha256()},
        "rows": rows,
        "stopped_runs_equal": {"images": len(part), "equal": equal},
        "versions": versions(network.backend, "cpu"),
        "command": f"python -m benchmarks.exits --data cifar10 --train {args.train} "
        f"--counted {args.counted}",
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
