"""What the commands print: the errors of a conversion, the tables of a measurement, the facts of an artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.commands.terminal import new_table, print_lines
from zoo.render.chart import bar, columns
from zoo.text import human_bytes, human_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from zoo.artifact.results import Evaluation
    from zoo.conversion.build import LayerReport
    from zoo.models.recipes import Recipe
    from zoo.models.registry import Entry

_BAR = 20


_MOST_RATES = 6


def layer_errors(console: Console, layers: Sequence[LayerReport]) -> None:
    """Each layer's firing rate and error; a full bar is an error of 1 or more."""
    table = new_table("layer", "firing rate", "error", "")
    table.columns[-1].justify = "left"
    for layer in layers:
        drawn = bar(layer.error, _BAR, ascii_only=console.options.ascii_only)
        table.add_row(layer.name, f"{layer.firing_rate:.4f}", f"{layer.error:.4f}", drawn)
    console.print(table)


def evaluation(console: Console, found: Evaluation, *, with_layers: bool) -> None:
    """Accuracy, operations and modelled energy by timesteps, as a table and a chart; then each layer's firing rates."""
    ann = None if found.ann is None else found.ann.top1
    facts = (
        f"{found.arch}, {found.method}, {found.neuron} neurons, {found.schedule}, {found.numerics}"
    )
    print_lines(console, [f"{found.name}: {facts}", f"on {found.data.description}", ""])
    top5 = ("top-5 %",) if found.rows[0].top5 is not None else ()
    table = new_table("T", "accuracy %", "95 %", *top5, "ANN %", "gap", "firing rate", left=0)
    for row in found.rows:
        gap = ("-", "-") if ann is None else (f"{ann:.2f}", f"{ann - row.top1:.2f}")
        among = () if row.top5 is None else (f"{row.top5:.2f}",)
        table.add_row(
            str(row.timesteps),
            f"{row.top1:.2f}",
            "{:.1f}-{:.1f}".format(*row.interval95),
            *among,
            *gap,
            f"{row.firing_rate:.4f}",
        )
    console.print(table)
    points = {row.timesteps: row.top1 for row in found.rows}
    drawn = columns(
        points, ann, width=min(console.width, 80), ascii_only=console.options.ascii_only
    )
    print_lines(console, ["", "accuracy %", *drawn, ""])
    _energy(console, found)
    if with_layers:
        _firing_rates(console, found)
    speed = ", ".join(
        f"{rate:.1f} images/s at T = {steps}" for steps, rate in found.images_per_second.items()
    )
    lines = [
        f"{speed} on {found.device} ({found.backend}); peak memory {human_bytes(found.peak_memory_bytes)}; "
        f"weights {human_bytes(found.footprint_bytes)}; activation sparsity {found.activation_sparsity:.4f}",
    ]
    print_lines(console, lines)


def _energy(console: Console, found: Evaluation) -> None:
    """Operations and modelled energy of one image, beside the ANN's and that of an ANN as precise as T timesteps."""
    table = new_table(
        "T", "ACs", "MACs", "nJ int8", "quantised ANN", "nJ float", "float ANN", left=0
    )
    for row in found.rows:
        energy = row.energy_nj
        table.add_row(
            str(row.timesteps),
            human_count(row.effective_acs),
            human_count(row.effective_macs),
            f"{energy['snn_int8']:.1f}",
            f"{energy['ann_quantised']:.1f}",
            f"{energy['snn_float']:.1f}",
            f"{energy['ann_float']:.1f}",
        )
    print_lines(
        console,
        ["synaptic operations and energy of one image; energy modelled at 45 nm, not measured"],
    )
    console.print(table)
    levels = "T" if found.config.spike_bits == 1 else f"{2**found.config.spike_bits - 1} T"
    print_lines(
        console,
        [
            f"quantised ANN: int8 weights, activations of log2({levels} + 1) bits; moving data is not counted",
            "",
        ],
    )


def _firing_rates(console: Console, found: Evaluation) -> None:
    steps = [row.timesteps for row in found.rows][-_MOST_RATES:]
    table = new_table("firing rate", "neurons", *(f"T={step}" for step in steps), "")
    table.columns[-1].justify = "left"
    for layer in found.layers:
        rates = [layer.firing_rate[step] for step in steps]
        drawn = bar(rates[-1], _BAR, ascii_only=console.options.ascii_only)
        table.add_row(layer.name, str(layer.neurons), *(f"{rate:.4f}" for rate in rates), drawn)
    console.print(table)
    console.print()


def models(console: Console, entries: Sequence[Entry], recipes: Sequence[Recipe] = ()) -> None:
    """One line for each artifact, and one for each recipe that was not followed yet."""
    table = new_table(
        "NAME",
        "ARCH",
        "METHOD",
        "NEURON",
        "NUMERICS",
        "FROM",
        "SHA256",
        "T",
        "TOP-1",
        "SIZE",
        left=7,
    )
    for entry in entries:
        config, row = entry.config, entry.evaluation and entry.evaluation.best
        top1 = f"{row.top1:.2f} %" if row else "-"
        steps = str(row.timesteps if row else config.timesteps)
        table.add_row(
            entry.name,
            config.arch,
            config.method.name,
            config.neuron,
            config.numerics,
            entry.origin,
            config.weights_sha256[:12],
            steps,
            top1,
            human_bytes(entry.size),
        )
    for recipe in recipes:
        table.add_row(
            recipe.name,
            recipe.arch,
            "data-free",
            recipe.neuron,
            "int8",
            "recipe",
            "-",
            str(recipe.timesteps),
            "-",
            "-",
        )
    console.print(table)
    if recipes:
        print_lines(
            console,
            [
                "",
                f"recipe: zoo pull {recipes[0].name} fetches a public ANN and converts it here, in minutes",
            ],
        )


def facts(console: Console, entry: Entry) -> None:
    """Everything known about one artifact, under short headings."""
    config = entry.config
    made, source, used = config.preprocess, config.source, config.calibration
    size = "x".join(map(str, (*made.input_size[1:], made.input_size[0])))
    resize = (
        ""
        if made.resize is None
        else f", resized to {made.resize} ({made.interpolation}) and cropped"
    )
    parameters = ", ".join(f"{name} {value}" for name, value in config.method.parameters.items())
    drawn = (
        ""
        if config.method.name == "data-free"
        else f"{used.images} images drawn with seed {used.seed} from "
    )
    groups: dict[str, dict[str, object]] = {
        "Network": {
            "architecture": f"{config.arch}, shortcut {config.shortcut}, {config.num_classes} classes"
            + (f", {config.stem} neurons for each channel of the stem" if config.stem > 1 else ""),
            "input": f"{size}{resize}; mean {_list(made.mean)}, std {_list(made.std)}",
            "neuron": f"{config.neuron}, {config.schedule}"
            + (f", {config.spike_bits} bits" if config.spike_bits > 1 else ""),
            "numerics": config.numerics,
            "timesteps": config.timesteps,
        },
        "Conversion": {
            "method": f"{config.method.name} ({parameters})",
            "calibration": f"{drawn}{used.description}",
            "from": f"{source.name}, sha256 {source.sha256}",
            "url": source.url,
            "licence": source.license,
        },
        "Accuracy": _accuracy(entry.evaluation),
        "Files": {
            "folder": entry.folder,
            "commit": entry.commit,
            "size": human_bytes(entry.size),
            "weights": f"sha256 {config.weights_sha256}",
            "spikes": f"sha256 {config.checksum.sha256} after {config.checksum.timesteps} timesteps",
        },
    }
    lines = [entry.name]
    for heading, group in groups.items():
        lines += [
            "",
            heading,
            *(f"  {key:<14}{value}" for key, value in group.items() if value is not None),
        ]
    print_lines(console, lines)


def _accuracy(measured: Evaluation | None) -> dict[str, object]:
    if measured is None:
        return {"not measured": "zoo eval measures it"}
    ann = {"ANN": f"{measured.ann.top1:.2f} %"} if measured.ann else {}
    rows = {f"T = {row.timesteps}": f"{row.top1:.2f} %" for row in measured.rows}
    return {"on": measured.data.description, **ann, **rows}


def _list(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)
