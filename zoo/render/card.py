"""The model card: a README.md with the hub's metadata.

It is rendered from what `zoo eval` measured and from nothing else.

A figure that is missing is an error; there are no placeholders.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.artifact.config import EVALUATION
from zoo.data.datasets import KNOWN, Terms, hub_name
from zoo.errors import GateError, NotFoundError, UsageError
from zoo.render import facts

if TYPE_CHECKING:
    from zoo.artifact.config import Config, TrainingConfig, TuningConfig
    from zoo.artifact.results import Evaluation

_POOR = 2.0  # points below the ANN that make a number of timesteps too low


@dataclass(frozen=True)
class Statements:
    """What a user adds to what an artifact and its evaluation say themselves.

    Attributes:
        license, url: of the ANN.
        data: name, source and licence of the images that were measured on.
    """

    license: str | None = None
    url: str | None = None
    data: Terms = Terms()


NOTHING = Statements()


def for_folder(folder: Path, stated: Statements = NOTHING, *, use: str | None = None) -> str:
    """Return the card of an artifact folder, from what was measured of it.

    Args:
        stated: what neither config.json nor eval.json says.
        use: what a reader calls the model; default: its name.

    Raises:
        NotFoundError: it was never measured.
        IntegrityError: eval.json is no evaluation.
        UsageError: a statement contradicts config.json or eval.json.
        GateError: it is of other weights, or misses what a card must say: all of it is named.
    """
    return render_card(subject(folder, stated), use=use)


def subject(folder: Path, stated: Statements = NOTHING) -> Evaluation:
    """Return the evaluation that a card is about, with what a user states of it.

    It is the one that came with the model, or where none did what was measured here. Raises what
    `for_folder` raises, but GateError for what is missing.
    """
    from zoo.artifact.folder import read_config
    from zoo.models import registry

    config = read_config(folder)
    found = registry.entry(folder).figures
    again = f"run zoo eval {shlex.quote(str(folder))} --save"
    if found is None:
        raise NotFoundError(f"{folder / EVALUATION} is missing: {again}")
    if found.weights_sha256 != config.weights_sha256:
        raise GateError(f"{folder / EVALUATION} measured other weights: {again} again")
    source = config.source.model_copy(
        update={
            "license": _agreed("licence", config.source.license, stated.license, "config.json"),
            "url": _agreed("URL", config.source.url, stated.url, "config.json"),
        }
    )
    known = KNOWN.get(found.data.dataset or "")
    own = known.terms if known else Terms(found.data.name, found.data.source, found.data.license)
    where = "the images' digest" if known else "eval.json"
    data = {
        part: _agreed(f"{part} of the images", getattr(own, part), given, where)
        for part, given in vars(stated.data).items()
    }
    facts_of_data = found.data if known else found.data.model_copy(update=data)
    of_source = {"source": source}
    if found.config.model_copy(update=of_source) != config.model_copy(update=of_source):
        raise GateError(f"{folder / EVALUATION} is of another config.json: {again} again")
    return found.model_copy(
        update={"config": config.model_copy(update=of_source), "data": facts_of_data}
    )


def _agreed(what: str, said: str | None, given: str | None, where: str) -> str | None:
    """Return what is said or given; raise UsageError if both are and they differ."""
    if None not in (said, given) and said != given:
        raise UsageError(f"{where} says that the {what} is {said}, not {given}: leave it out")
    return said or given


def lacks(config: Config, data: Terms, *, has_ann: bool) -> list[str]:
    """Return everything that a card must say and nobody has said yet, with how to say it."""
    source = config.source
    wanted = {
        "the ANN's accuracy (zoo eval --ann FILE)": has_ann,
        "the ANN's licence (`license`)": source.license,
        "where the ANN comes from (`url`)": source.training or source.url,
        "a name for the images (`data_name`)": data.name,
        "where they are from (`data_url`)": data.source,
        "their licence (`data_license`)": data.license,
    }
    return [what for what, found in wanted.items() if not found]


def terms(found: Evaluation) -> Terms:
    """Return name, source and licence of the images of an evaluation, as far as they are known."""
    data = found.data
    if data.dataset in KNOWN:
        return KNOWN[data.dataset].terms
    return Terms(data.name, data.source, data.license)


def render_card(found: Evaluation, *, use: str | None = None) -> str:
    """Return the card of one evaluation.

    Args:
        use: what a reader calls the model; default: its name.

    Raises:
        GateError: something is missing that a card must say; all of it is named.
    """
    import jinja2

    from zoo.render.chart import columns
    from zoo.text import human_count

    if missing := lacks(found.config, terms(found), has_ann=found.ann is not None):
        raise GateError(f"the card of {found.name} would lack {'; '.join(missing)}")
    config, ann = found.config, found.ann
    assert ann is not None
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
            "terms": {part: _flat(str(text)) for part, text in vars(terms(found)).items()},
            "use": use or found.name,
            "measured_on": _measured_on(found),
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
            "own": all(part.start or not part.began for part in trainings(training)),
            "title": _title,
            "training_data": _title(training.dataset) if training else "",
            "facts": _table(found),
            "rate_steps": [step for step in (1, 4, 8, 32, 64) if step in steps] or steps,
            "pct": lambda value: f"{value:.2f}",
            "percent": facts.percent,
            "count": human_count,
        }
    )


def _split(found: Evaluation) -> str | None:
    """Return the split that the images are, where they are a whole one of a known data set."""
    known = KNOWN.get(found.data.dataset or "")
    splits = known.splits.items() if known else ()
    return next((name for name, one in splits if one.images == found.data.images), None)


def _measured_on(found: Evaluation) -> str:
    """Return the images in words: all of a split that is known, or as many as there were."""
    count, name, split = found.data.images, _flat(str(terms(found).name)), _split(found)
    if split is not None:
        return f"all {count} {'training' if split == 'train' else split} images of {name}"
    return f"{count} image{'s' if count > 1 else ''} of {name} ({_flat(found.data.description)})"


def _flat(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _table(found: Evaluation) -> dict[str, str]:
    """Return the facts of a card's table as Markdown cells, label -> text."""
    groups = facts.config_facts(found.config).values()
    rows = facts.size_facts(found) | {
        name: text for group in groups for name, text in group.items()
    }
    return {
        name: re.sub(r"\b([0-9a-f]{64})\b", r"`\1`", _flat(text)) for name, text in rows.items()
    }


def metadata(found: Evaluation) -> str:
    """Return the hub's metadata as YAML.

    It has the license, the library, the data set, and every accuracy as a model-index.
    """
    from huggingface_hub import EvalResult, ModelCardData

    name = terms(found).name
    assert name is not None and found.ann is not None
    known, repo = KNOWN.get(found.data.dataset or ""), hub_name(name)
    slug = found.data.dataset or re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-")
    values = [(f"accuracy at T = {row.timesteps}", row.top1) for row in found.rows] + [
        ("accuracy of the ANN", found.ann.top1)
    ]
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Image classification",
            dataset_type=repo or slug or "images",
            dataset_name=name,
            dataset_split=_split(found),
            dataset_revision=known.revision if known else None,
            metric_type="accuracy",
            metric_name=metric,
            metric_value=round(value, 4),
        )
        for metric, value in values
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
        datasets=[repo] if repo else None,
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
    if config.tuning is not None:  # what was before belongs to the artifact that it began from
        lines = [_tune_command(config.tuning, found.name)]
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


def _tune_command(tuning: TuningConfig, name: str) -> str:
    """Return the command of a tuning, or what is known of a training loop of somebody's own."""
    began, settings = tuning.began or f"sha256 {tuning.sha256}", tuning.settings
    if not settings:
        return f"# {began}: trained on with model.trainable(), rounded with zoo.save"
    words = ["zoo", "tune", began, "--timesteps", str(tuning.timesteps)]
    words += ["--data", tuning.dataset or "IMAGES", "--epochs", str(tuning.epochs)]
    words += ["--batch-size", str(settings["batch_size"]), "--rate", str(settings["peak_rate"])]
    words += ["--surrogate", tuning.surrogate, "--seed", str(settings["seed"])]
    words += [] if tuning.teacher is None else ["--teacher", tuning.teacher]
    words += [] if tuning.rounding is None else ["--samples", str(tuning.rounding.images)]
    return shlex.join([*words, "--precision", str(settings["precision"]), "--out", name])


def train_commands(config: Config) -> list[str]:
    """Return the commands of the ANN's trainings, and of those of its teachers.

    They start with the last training that began from another network of the zoo, or from none.

    One that went on from an earlier version of the same network is shown whole: the name means the
    new version now.
    """
    last, shortcut = config.source.training, "B" if config.shortcut == "B" else ""
    return [] if last is None else _train_commands(last, config.arch, shortcut, ".", {})


def _train_commands(
    last: TrainingConfig, arch: str, shortcut: str, out: str, teachers: dict[str, str]
) -> list[str]:
    """Return the commands that end in the folder `out`.

    Args:
        arch: of stages that do not say theirs.
        shortcut: of `--shortcut`; "" for the architecture's own.
        teachers: the checkpoints of those trained so far, by the sha256 of the network.
    """

    def arch_of(stage: TrainingConfig | None) -> str:
        return (stage and stage.arch) or arch

    stages = trainings(last)
    grown = (
        number
        for number, stage in enumerate(stages)
        if stage.began and arch_of(stage.start) != arch_of(stage)
    )
    stages = stages[max(grown, default=0) :]
    lines, begins = [], stages[0].began
    for number, stage in enumerate(stages, start=1):
        folder = out if stage is last else f"{_before(out)}stage{number}"
        teacher, sha256 = stage.teacher or "TEACHER", str(stage.settings.get("teacher"))
        if stage.taught is not None and sha256 not in teachers:
            made = f"{_before(folder)}teacher"
            lines += _train_commands(stage.taught, arch_of(stage.taught), "", made, teachers)
            teachers[sha256] = f"{made}/{arch_of(stage.taught)}.safetensors"
        teacher = teachers.get(sha256, teacher)
        lines.append(_train_command(stage, arch_of(stage), shortcut, teacher, begins, folder))
        begins = f"{folder}/{arch_of(stage)}.safetensors"
    return lines


def _before(folder: str) -> str:
    return "" if folder == "." else f"{folder}-"


def trainings(last: TrainingConfig | None) -> list[TrainingConfig]:
    """Return a training and those it began from, the first one first."""
    found = []
    while last is not None:
        found.append(last)
        last = last.start
    return found[::-1]


def _train_command(
    training: TrainingConfig,
    arch: str,
    shortcut: str,
    teacher: str,
    begins: str | None,
    out: str,
) -> str:
    s = training.settings
    words = [
        "zoo",
        "train",
        arch,
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
    for option in ("cutout", "mixup", "smallest"):
        words += [f"--{option}", str(s[option])] if s.get(option) else []
    words += ["--compile"] if s.get("compiled") else []
    words += ["--teacher", teacher] if s.get("teacher") else []
    words += ["--shortcut", shortcut] if shortcut else []
    words += ["--start", begins] if begins else []
    return shlex.join([*words, "--out", out])


def _own_parameters(config: Config) -> dict[str, Any]:
    """Return the parameters that differ from the defaults and were not found by a search."""
    from zoo.conversion.registry import changed_parameters

    differing = changed_parameters(config.method.name, config.method.parameters)
    made = config.method.parameters
    bits = {"bits": made.get("bits", config.spike_bits)} if config.neuron == "multi-level" else {}
    mixed = {name: made[name] for name in ("budget", "blocks") if name in made}
    given = differing | bits | mixed
    if given.get("blocks") == "graded":  # the default of `mixed`
        del given["blocks"]
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
    return KNOWN[dataset].title if dataset in KNOWN else dataset
