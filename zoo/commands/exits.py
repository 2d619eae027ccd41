"""The part of `zoo eval` that calibrates and measures early exit."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from zoo.commands.common import terminal
from zoo.commands.terminal import new_table, print_lines, write_json
from zoo.errors import UsageError
from zoo.text import human_count

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.data.images import ImageSet
    from zoo.evaluation.exits import ExitRow
    from zoo.networks.backends import Backend
    from zoo.networks.exits import RuleName


def measure_exit(
    folder: Path,
    images: ImageSet,
    training: ImageSet,
    rule: RuleName,
    loss: float,
    timesteps: int,
    *,
    batch_size: int,
    device: str,
    backend: Backend,
    save: bool,
    json_output: bool,
) -> None:
    """Calibrate a rule on `training`, print what it does on `images`, and store it on request.

    Raises:
        UsageError: `save` of a model that is not in a folder of one's own, before any run.
    """
    from zoo.models import measured, registry

    if save and registry.entry(folder).origin != "folder":
        raise UsageError(
            "--save stores the rule in the artifact, and this one is not in a folder of yours: "
            "zoo pull NAME --local-dir DIR, then measure DIR"
        )
    import zoo
    from zoo.artifact.config import ExitConfig
    from zoo.evaluation.exits import apply_rule, calibrate_rule, observe_exits

    network = zoo.load(folder, device=device, backend=backend)
    with terminal.progress(json_output=json_output) as progress:
        seen = observe_exits(
            network,
            training,
            timesteps,
            names=(rule,),
            count_operations=False,
            batch_size=batch_size,
            progress=progress,
        )
        found = calibrate_rule(seen, rule, loss)
        shown = observe_exits(
            network, images, timesteps, names=(rule,), batch_size=batch_size, progress=progress
        )
    row = apply_rule(shown, found, loss)
    if save:
        stored = ExitConfig(
            rule=rule,
            threshold=found.threshold,
            timesteps=timesteps,
            loss=loss,
            description=training.description,
            images=len(training),
            sha256=training.sha256(),
        )
        measured.save_exit(folder, stored)
        terminal.note(f"stored in {folder}/config.json: model(images, exit=True) uses it")
    if json_output:
        write_json(asdict(row) | {"calibrated_on": training.description})
        return
    _report(row, training.description)


def _report(row: ExitRow, calibrated_on: str) -> None:
    rule, count = row.rule, sum(row.images)
    assert row.operations is not None and row.whole_operations is not None
    print_lines(
        terminal.out,
        [
            f"exits when the {rule.name} of the logits is {rule.threshold:.4g} or more, at the "
            f"latest after {rule.timesteps} timesteps",
            f"calibrated for at most {row.loss:g} points lost on {calibrated_on}",
            "",
        ],
    )
    table = new_table("", "accuracy %", "mean timesteps", "operations of an image")
    table.add_row(
        "with exit",
        f"{row.top1:.2f}",
        f"{row.mean_timesteps:.2f}",
        f"{human_count(row.operations)} ({row.operations / row.whole_operations:.1%})",
    )
    table.add_row(
        "without", f"{row.whole:.2f}", f"{rule.timesteps}", human_count(row.whole_operations)
    )
    terminal.out.print(table)
    times = new_table("exits at T", "images", "", left=0)
    for step, images in enumerate(row.images, start=1):
        if images:
            times.add_row(str(step), str(images), f"{images / count:.1%}")
    times.add_section()
    times.add_row("all", str(count), "")
    terminal.out.print()
    terminal.out.print(times)
