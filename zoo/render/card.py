"""The model card: a README.md with the hub's metadata.

It is rendered from what `zoo eval` measured and from nothing else.

A figure that is missing is an error; there are no placeholders.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.artifact.config import EVALUATION
from zoo.errors import GateError
from zoo.render import facts

if TYPE_CHECKING:
    from zoo.artifact.config import Config, TrainingConfig
    from zoo.artifact.results import Evaluation

TIMESTEPS = (1, 2, 4, 8, 16, 32, 64)


_POOR = 2.0  # points below the ANN that make a number of timesteps too low


def for_folder(folder: Path) -> str:
    """Return the card of an artifact folder, from its eval.json.

    Raises:
        NotFoundError: it was never measured.
        IntegrityError: eval.json is no evaluation.
        GateError: it is of other weights, or misses something a card must say.
    """
    from zoo.artifact.folder import read_config
    from zoo.artifact.results import read_evaluation

    path = folder / EVALUATION
    steps = ",".join(map(str, TIMESTEPS))
    found = read_evaluation(path, f"run zoo eval {folder} --timesteps {steps} --output {path}")
    if found.weights_sha256 != read_config(folder).weights_sha256:
        raise GateError(
            f"{path} measured other weights: run zoo eval {folder} --output {path} again"
        )
    return render_card(found)


def render_card(found: Evaluation) -> str:
    """Return the card of one evaluation. Raises GateError for whatever is missing."""
    import jinja2

    from zoo.data.datasets import KNOWN
    from zoo.render.chart import columns
    from zoo.text import human_count

    _check(found)
    config, ann = found.config, found.ann
    assert ann is not None and found.data.dataset is not None
    dataset = KNOWN[found.data.dataset]
    steps = [row.timesteps for row in found.rows]
    training = config.source.training
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("zoo.render"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("card.md.j2").render(
        found.model_dump(exclude={"config", "ann"})
        | {
            "metadata": metadata(found),
            "config": config,
            "source": config.source,
            "ann": ann,
            "dataset": dataset,
            "rows": found.rows,
            "layers": found.layers,
            "data": found.data,
            "steps": steps,
            "layerwise": config.schedule == "layerwise",
            "neuron": facts.neuron_in_words(config),
            "poor": [row.timesteps for row in found.rows if ann.top1 - row.top1 > _POOR],
            "chart": "\n".join(columns({row.timesteps: row.top1 for row in found.rows}, ann.top1)),
            "energy_note": _energy_note(found),
            "commands": commands(found),
            "training": training,
            "earlier": trainings(training)[-2::-1],
            "training_data": _title(training.dataset) if training else "",
            "facts": _table(found),
            "rate_steps": [step for step in (1, 4, 8, 32, 64) if step in steps] or steps,
            "pct": lambda value: f"{value:.2f}",
            "percent": facts.percent,
            "count": human_count,
        }
    )


def _table(found: Evaluation) -> dict[str, str]:
    """Return the facts of a card's table as Markdown cells, label -> text."""
    groups = facts.config_facts(found.config).values()
    rows = facts.size_facts(found) | {
        name: text for group in groups for name, text in group.items()
    }
    return {
        name: re.sub(r"\b([0-9a-f]{64})\b", r"`\1`", " ".join(text.split()).replace("|", "\\|"))
        for name, text in rows.items()
    }


def metadata(found: Evaluation) -> str:
    """Return the hub's metadata as YAML.

    It has the license, the library, the data set, and every accuracy as a model-index.
    """
    from huggingface_hub import EvalResult, ModelCardData

    from zoo.data.datasets import KNOWN

    assert found.data.dataset is not None and found.ann is not None
    known = KNOWN[found.data.dataset]
    values = [(f"accuracy at T = {row.timesteps}", row.top1) for row in found.rows] + [
        ("accuracy of the ANN", found.ann.top1)
    ]
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Image classification",
            dataset_type=known.repo or found.data.dataset,
            dataset_name=known.title,
            dataset_split="test",
            dataset_revision=known.revision,
            metric_type="accuracy",
            metric_name=name,
            metric_value=round(value, 4),
        )
        for name, value in values
    ]
    url = found.config.source.url or ""
    base = url.removeprefix("https://huggingface.co/")
    return ModelCardData(
        license=found.config.source.license,
        library_name="spiking-zoo",
        pipeline_tag="image-classification",
        tags=[
            "spiking-neural-network",
            "snn",
            "ann-to-snn",
            "resnet",
            "int8" if found.numerics == "int8" else "float32",
        ],
        datasets=[known.repo] if known.repo else None,
        metrics=["accuracy"],
        base_model=base if base != url else None,
        model_name=found.name,
        eval_results=results,
    ).to_yaml(original_order=None)


def commands(found: Evaluation) -> list[str]:
    """Return the commands that make the artifact again, from the ANN's training on."""
    config = found.config
    lines, training = train_commands(config), config.source.training
    revision, made = config.source.revision, config.preprocess
    words = [
        "zoo",
        "convert",
        config.source.name + (f"@{revision}" if revision else ""),
        "--arch",
        config.arch,
    ]
    words += ["--stride-in", config.stride_in] if config.stride_in != "3x3" else []
    if config.method.name != "data-free":
        words += ["--calib", config.calibration.dataset or "IMAGES"]
    words += [
        "--method",
        config.method.name,
        "--neuron",
        config.neuron,
        "--schedule",
        config.schedule,
    ]
    words += ["--timesteps", str(config.timesteps), "--samples", str(config.calibration.images)]
    words += ["--seed", str(config.calibration.seed), "--numerics", config.numerics]
    if training is None:
        words += ["--input-size", str(made.input_size[1])]
        words += (
            ["--resize", str(made.resize), "--interpolation", made.interpolation]
            if made.resize
            else []
        )
        words += ["--mean", ",".join(map(str, made.mean)), "--std", ",".join(map(str, made.std))]
    for name, value in _own_parameters(config).items():
        words += ["--parameter", f"{name}={value}"]
    lines.append(shlex.join([*words, "--license", str(config.source.license), "--out", found.name]))
    steps = ",".join(str(row.timesteps) for row in found.rows)
    lines.append(
        shlex.join(
            [
                "zoo",
                "eval",
                f"./{found.name}",
                "--timesteps",
                steps,
                "--data",
                found.data.dataset or "IMAGES",
            ]
        )
    )
    return lines


def train_commands(config: Config) -> list[str]:
    """Return the commands of the ANN's trainings.

    They start with the last training that began from another network of the zoo, or from none.

    One that went on from an earlier version of the same network is shown whole: the name means the
    new version now.
    """

    def arch(stage: TrainingConfig | None) -> str:
        return (stage and stage.arch) or config.arch

    stages = trainings(config.source.training)
    grown = (
        number
        for number, stage in enumerate(stages)
        if stage.began and arch(stage.start) != arch(stage)
    )
    stages = stages[max(grown, default=0) :]
    lines, begins = [], stages[0].began if stages else None
    for number, stage in enumerate(stages, start=1):
        out = "." if stage is stages[-1] else f"stage{number}"
        lines.append(_train_command(config, stage, begins, out))
        begins = f"{out}/{arch(stage)}.safetensors"
    return lines


def trainings(last: TrainingConfig | None) -> list[TrainingConfig]:
    """Return a training and those it began from, the first one first."""
    found = []
    while last is not None:
        found.append(last)
        last = last.start
    return found[::-1]


def _train_command(config: Config, training: TrainingConfig, begins: str | None, out: str) -> str:
    s = training.settings
    words = [
        "zoo",
        "train",
        training.arch or config.arch,
        "--dataset",
        training.dataset,
        "--epochs",
        str(training.epochs),
    ]
    words += [
        "--batch-size",
        str(s["batch_size"]),
        "--rate",
        str(s["peak_rate"]),
        "--levels",
        str(s["levels"]),
    ]
    words += ["--seed", str(s["seed"]), "--precision", str(s["precision"])]
    words += ["--start", begins] if begins else []
    return shlex.join([*words, "--out", out])


def _own_parameters(config: Config) -> dict[str, Any]:
    """Return the parameters that differ from the defaults and were not found by a search."""
    from zoo.conversion.registry import changed_parameters

    differing = changed_parameters(config.method.name, config.method.parameters)
    given = differing | ({"bits": config.spike_bits} if config.spike_bits > 1 else {})
    if given.get("thresholds") == "learnt":
        del given["thresholds"]
    return given


def _energy_note(found: Evaluation) -> str:
    dear = [
        row.timesteps
        for row in found.rows
        if row.energy_nj["snn_int8"] > row.energy_nj["ann_quantised"]
    ]
    if not dear:
        return (
            "At every T measured its modelled energy is below that of an ANN quantised alike; "
            "moving data is not counted."
        )
    return f"From T = {dear[0]} on its modelled energy is above that of an ANN quantised alike."


def _title(dataset: str) -> str:
    from zoo.data.datasets import KNOWN

    return KNOWN[dataset].title if dataset in KNOWN else dataset


def _check(found: Evaluation) -> None:
    """Raise GateError for the first thing that a card needs and this evaluation does not have."""
    from zoo.data.datasets import KNOWN

    config, have = found.config, {row.timesteps for row in found.rows}
    wanted = set(TIMESTEPS) if config.schedule == "causal" else {config.timesteps}
    source = config.source
    missing = [
        (
            wanted - have,
            f"accuracy at T = {', '.join(map(str, sorted(wanted - have)))}",
            "measure with more --timesteps",
        ),
        (found.ann is None, "the ANN's accuracy", "pass --ann FILE to zoo eval"),
        (
            found.data.dataset not in KNOWN,
            f"a known data set ({', '.join(KNOWN)})",
            "measure on a whole test split of one",
        ),
        (source.license is None, "the ANN's licence", "convert with --license"),
        (
            not (source.training or source.url),
            "where the ANN comes from",
            "convert with --url, or what zoo train wrote",
        ),
    ]
    for is_missing, what, remedy in missing:
        if is_missing:
            raise GateError(f"the card of {found.name} would lack {what}: {remedy}")
    whole = KNOWN[str(found.data.dataset)].splits["test"].images
    if found.data.images != whole:
        raise GateError(
            f"the card of {found.name} would be of {found.data.images} images, not all {whole}: "
            "leave --limit out"
        )
