"""Measure what the recipes of public CIFAR networks make, and collect what zoo list prints of them.

    python -m benchmarks.recipes CHECKPOINTS WORK [--only s-resnet20] [--cifar10 DATA]
        [--cifar100 DATA]
    python -m benchmarks.recipes --collect [--check]

The first follows each recipe whose checkpoint is in CHECKPOINTS as `zoo pull` does, under WORK, and
measures it on all 10,000 test images; what is measured is left as it is, and what was interrupted
goes on. Results: benchmarks/results/recipes, one file a recipe. The last writes
zoo/models/figures.json from these and from the data-free rows of benchmarks/results/imagenet, or
says whether it is so already.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "recipes"
IMAGENET = HERE / "results" / "imagenet"
FIGURES = HERE.parent / "zoo" / "models" / "figures.json"
STEPS = {"if": (8, 16, 32), "multi-level": (1, 2, 4)}
# Recipes whose checkpoints were at hand.
AT_HAND = tuple(
    name.format(kind)
    for kind in ("", "-multi-level")
    for name in (
        *(f"s-resnet{depth}{{}}.akamaster_c10" for depth in (20, 32, 44, 56)),
        "s-resnet56{}.chenyaofo_c100",
    )
)


def measure(name: str, data: str, work: Path) -> None:
    """Follow one recipe, measure the artifact and write its result file."""
    from zoo.data.open import open_images
    from zoo.evaluation.evaluate import evaluate
    from zoo.files import replaced_file
    from zoo.models import recipes

    folder = recipes.make(name, log=lambda line: print(line, file=sys.stderr, flush=True)).folder
    images = open_images(data, "test")
    recipe = recipes.RECIPES[name]
    steps = STEPS[recipe.neuron]
    result = evaluate(folder, images, steps, state=work / f"{name}.state")
    if result.data.dataset != recipe.dataset or result.ann is None:
        raise SystemExit(f"{data} is not the test split of {recipe.dataset}")
    result.name = name
    result.command = (
        f"zoo pull {name} && zoo eval {name} --timesteps {','.join(map(str, steps))} "
        f"--data {recipe.dataset}"
    )
    RESULTS.mkdir(parents=True, exist_ok=True)
    facts = {"recipe": recipe.digest, **result.model_dump(mode="json")}
    with replaced_file(RESULTS / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n")
    print(name, result.ann.top1, {row.timesteps: row.top1 for row in result.rows}, flush=True)


def _figures(result: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": result["data"]["images"],
        "ann": round(result["ann"]["top1"], 2),
        "top1": {str(row["timesteps"]): round(row["top1"], 2) for row in result["rows"]},
    }


def collect() -> str:
    """Return figures.json: figures by recipe, and of like networks where there are none."""
    from zoo.models.recipes import RECIPES

    found: dict[str, Any] = {}
    for name, recipe in sorted(RECIPES.items()):
        own = RESULTS / f"{name}.json"
        like = IMAGENET / f"{recipe.arch}-data-free-{recipe.neuron}-causal.json"
        if own.is_file():
            result = json.loads(own.read_text())
            pinned = {key: result[key] for key in ("recipe", "weights_sha256")}
            found[name] = pinned | _figures(result)
        elif name in AT_HAND:
            found[name] = "not measured yet"
        elif recipe.dataset == "imagenet" and like.is_file():
            none = dict.fromkeys(("recipe", "weights_sha256"))
            found[name] = none | _figures(json.loads(like.read_text()))
    return json.dumps(found, indent=1) + "\n"


def main() -> None:
    """Run the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", type=Path, nargs="?")
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--only", default="", help="recipes whose name begins so")
    parser.add_argument("--cifar10", default="cifar10")
    parser.add_argument("--cifar100", default="cifar100")
    parser.add_argument("--collect", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.collect:
        text = collect()
        if args.check and text != FIGURES.read_text():
            raise SystemExit(f"{FIGURES} is not what the results say: run --collect")
        FIGURES.write_text(text)
        return
    if args.work is None:
        parser.error("give CHECKPOINTS and WORK, or --collect")
    kept = args.work / "torch" / "hub" / "checkpoints"
    kept.mkdir(parents=True, exist_ok=True)
    os.environ |= {"TORCH_HOME": str(args.work / "torch"), "ZOO_HOME": str(args.work / "zoo")}
    from zoo.models.recipes import RECIPES
    from zoo.pretrained.published import RELEASES

    for name, recipe in RECIPES.items():
        one = RELEASES.get(recipe.source)
        source = args.checkpoints / one.file if one is not None else None
        if source is None or not source.is_file() or (RESULTS / f"{name}.json").is_file():
            continue
        if name.startswith(tuple(args.only.split(","))):
            link = kept / source.name
            if not link.exists():
                link.symlink_to(source.resolve())
            measure(
                name,
                {"cifar10": args.cifar10, "cifar100": args.cifar100}[recipe.dataset],
                args.work,
            )


if __name__ == "__main__":
    main()
