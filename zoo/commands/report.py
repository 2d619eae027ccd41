"""Print the errors of a conversion, the tables of a measurement and the facts of an artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.commands.terminal import new_table, print_lines
from zoo.render import facts
from zoo.render.chart import bar, columns
from zoo.text import human_bytes, human_count, printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from zoo.artifact.results import Evaluation
    from zoo.conversion.build import LayerReport
    from zoo.evaluation.hardware import Sheet
    from zoo.models.registry import Entry

_BAR = 20


_MOST_RATES = 6


def layer_errors(console: Console, layers: Sequence[LayerReport]) -> None:
    """Print each layer's firing rate and error; a full bar is an error of 1 or more."""
    table = new_table("layer", "firing rate", "error", "")
    table.columns[-1].justify = "left"
    for layer in layers:
        drawn = bar(layer.error, _BAR, ascii_only=console.options.ascii_only)
        table.add_row(layer.name, f"{layer.firing_rate:.4f}", f"{layer.error:.4f}", drawn)
    console.print(table)


def evaluation(console: Console, found: Evaluation, *, with_layers: bool) -> None:
    """Print accuracy, operations and modelled energy by timesteps, as a table and a chart.

    Then follow each layer's firing rates, `with_layers`.
    """
    ann = None if found.ann is None else found.ann.top1
    network = (
        f"{found.arch}, {found.method}, {found.neuron} neurons, {found.schedule}, {found.numerics}"
    )
    print_lines(console, [f"{found.name}: {network}", f"on {found.data.description}", ""])
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
    lines = [
        f"{facts.speed(found)}; peak memory {human_bytes(found.peak_memory_bytes)}; "
        f"weights {human_bytes(found.footprint_bytes)}; activation sparsity "
        f"{found.activation_sparsity:.4f}",
    ]
    print_lines(console, lines)


def _energy(console: Console, found: Evaluation) -> None:
    """Print operations and modelled energy of one image.

    Beside them stand those of the ANN and of an ANN as precise as T timesteps.
    """
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
    largest = 2**found.config.spike_bits - 1
    levels = "T" if largest == 1 else f"{largest} T"
    bits = f"log2({levels} + 1) bits"
    if found.config.neurons is not None:
        bits = f"as many bits as their layer's spikes need, up to {bits}"
    print_lines(
        console,
        [
            f"quantised ANN: int8 weights, activations of {bits}; moving data is not counted",
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


# Columns of `models`: heading, key of a row, and whether it is text. Those that a narrow terminal
# goes without, the first one first.
_COLUMNS = (
    ("NAME", "name", True),
    ("DATA", "dataset", True),
    ("NEURON", "neuron", True),
    ("ANN", "ann", False),
    ("TOP-1", "top1", False),
    ("T", "timesteps", False),
    ("SIZE", "size", False),
    ("FROM", "origin", True),
)
_DROPPED = ("neuron", "origin", "size", "dataset")
_LONGEST_DATA = 16
_ENDLESS = 10_000


def models(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one line for each row of `zoo.commands.models.rows`; no name is ever cut.

    A terminal that is too narrow shows fewer columns.
    """
    for dropped in range(len(_DROPPED) + 1):
        shown = [column for column in _COLUMNS if column[1] not in _DROPPED[:dropped]]
        table = new_table(*(heading for heading, _, _ in shown), left=0)
        for column, (_, _, is_text) in zip(table.columns, shown, strict=True):
            column.justify, column.no_wrap = "left" if is_text else "right", True
        for row in rows:
            table.add_row(*(_cell(row, key) for _, key, _ in shown))
        width = console.measure(table, options=console.options.update(width=_ENDLESS)).maximum
        if width <= console.width:
            break
    console.width = max(console.width, width)
    console.print(table)
    notes = []
    if any(row["measured"] == "here" for row in rows):
        notes.append("*: measured here, by zoo eval --save")
    made = next((row["name"] for row in rows if row["origin"] == "recipe"), None)
    if made is not None:
        notes.append(f"recipe: zoo pull {made} fetches a public ANN and converts it here, minutes")
    print_lines(console, ["", *notes] if notes else [])
    why: dict[str, list[str]] = {}
    for row in rows:
        if row["unmeasured"] is not None:
            why.setdefault(row["unmeasured"], []).append(row["name"])
    if why:
        reasons = [f"  {printable(', '.join(names))}: {reason}" for reason, names in why.items()]
        print_lines(console, ["", "unmeasured:", *reasons])


def _cell(row: Mapping[str, Any], key: str) -> str:
    value = row[key]
    if value is None:
        return "-"  # the reasons stand under the table
    if key == "size":
        return human_bytes(value)
    if key in ("ann", "top1"):
        return f"{value:.2f}{'*' if row['measured'] == 'here' else ''}"
    text = printable(str(value))
    return text[:_LONGEST_DATA] if key == "dataset" else text


def model_facts(console: Console, entry: Entry) -> None:
    """Print everything known about one artifact, under short headings."""
    stated = facts.config_facts(entry.config)
    groups: dict[str, dict[str, object]] = {
        "Network": {**stated["Network"]},
        "Conversion": {**stated["Conversion"], **stated["Source"]},
        **({"Tuning": {**stated["Tuning"]}} if "Tuning" in stated else {}),
        "Accuracy": {**_accuracy(entry.evaluation)},
        **{
            f"Measured here, {index}" if index else "Measured here": {**_accuracy(found)}
            for index, found in enumerate(entry.here)
        },
        "Files": {
            "folder": entry.folder,
            **({"commit": entry.commit} if entry.commit else {}),
            "size": human_bytes(entry.size),
            **stated["Checksums"],
        },
    }
    lines = [entry.name]
    for heading, group in groups.items():
        lines += ["", heading, *(f"  {label:<14}{text}" for label, text in group.items())]
    print_lines(console, lines)


def _accuracy(found: Evaluation | None) -> dict[str, str]:
    if found is None:
        return {"not measured": "zoo eval measures it"}
    rows = {f"T = {row.timesteps}": facts.percent(row.top1) for row in found.rows}
    return {**facts.evaluation_facts(found), **rows}


def hardware(console: Console, name: str, sheet: Sheet) -> None:
    """Print a hardware sheet: one line a layer, sums, and NeuroBench's names."""
    steps = sorted({step for row in sheet.layers for step in row.operations or ()})
    shown = [step for step in (1, 8, 32, 64) if step in steps] or steps[-2:]
    seen = () if sheet.seen_on is None else ("seen",)
    table = new_table(
        "layer",
        "neurons",
        "synapses",
        "fan-in",
        "fan-out",
        "weight",
        "gain",
        "bias",
        "threshold",
        "input",
        "accumulator",
        *seen,
        "memory",
        "state",
        *(f"ops T={step}" for step in shown),
    )
    for row in sheet.layers:
        operations = row.operations or {}
        table.add_row(
            row.name,
            str(row.neurons),
            human_count(row.synapses),
            str(row.fan_in),
            str(row.fan_out),
            str(row.weight_bits),
            str(row.gain_bits or "-"),
            str(row.bias_bits),
            str(row.threshold_bits),
            str(row.current_bits),
            str(row.accumulator_bits),
            *((str(row.accumulator_seen),) if seen else ()),
            human_bytes(row.memory),
            human_bytes(row.state),
            *(human_count(operations[step]) if step in operations else "-" for step in shown),
        )
    console.width = max(console.width, 160)
    print_lines(
        console,
        [
            f"{name}: widths in bits; accumulator: worst case at T = {sheet.timesteps}"
            + (f", and as seen on {sheet.seen_on}" if seen else ""),
            "",
        ],
    )
    console.print(table)
    from zoo.evaluation.hardware import totals

    sums = totals(sheet)
    named = ", ".join(f"{key} {value:.6g}" for key, value in sheet.neurobench.items())
    print_lines(
        console,
        [
            "",
            f"{sums['neurons']} neurons, {human_count(sums['synapses'])} synapses, "
            f"{human_count(sums['parameters'])} weights; {human_bytes(sums['memory'])} of "
            f"parameters, {human_bytes(sums['state'])} of potentials of up to "
            f"{sums['accumulator_bits']} bits",
            "operations of one image, measured"
            if shown
            else "operations: not measured by layer; zoo eval --save counts them, or give --data",
            f"NeuroBench: {named}",
        ],
    )
