"""Card, gallery and terminal state the same facts in the same words."""

from __future__ import annotations

import html
import io
import json
import re
from typing import Any

import pytest
from rich.console import Console

from zoo.artifact.results import Evaluation
from zoo.commands import report
from zoo.models import registry
from zoo.models.registry import Entry
from zoo.networks.architectures import topology
from zoo.render import card, facts, figures, site

FOLDER = registry.resolve("s-resnet20-digits")


def evaluation(**changes: Any) -> Evaluation:
    """Return the evaluation of the shipped digits network with other values in its config."""
    found = json.loads((FOLDER / "eval.json").read_text())
    for name, value in changes.items():
        part = found["config"]
        part[name] = part.get(name, {}) | value if isinstance(value, dict) else value
    config = found["config"]
    found |= {"method": config["method"]["name"]}
    found |= {name: config[name] for name in ("neuron", "schedule", "numerics")}
    return Evaluation.model_validate(found)


def page(found: Evaluation) -> str:
    """Return the text of the gallery's page."""
    assert found.ann is not None
    entry = Entry(found.name, FOLDER, found.config, 1234, found)
    look = figures.assign([found.config.source.sha256])[0]
    series = figures.Series(found.name, *look, measured=found, ann=found.ann)
    model = site.Model(entry, found, found.ann, series, "net.html", found.name, [], [])
    text = site.render_pages([model])["models/net.html"]
    return html.unescape(re.sub(r"</?(a|code)\b[^>]*>", "", text))


def terminal(found: Evaluation) -> str:
    """Return what `zoo show` prints."""
    out = io.StringIO()
    entry = Entry(found.name, FOLDER, found.config, 1234, found)
    report.model_facts(Console(file=out, width=160, markup=False), entry)
    return out.getvalue()


MADE = "128 images of 8x8x1 made from BatchNorm statistics in 50 steps with seed 7"
NAMES = [layer.name for layer in topology("resnet20").layers]
MIXED = {
    name: {"neuron": "multi-level", "bits": 2}
    if name == "conv1" or name.endswith("conv2")
    else {"neuron": "if", "bits": 1}
    for name in NAMES
}
CHANGES = {
    "as it ships": {},
    "stem and layerwise": {"stem": 2, "schedule": "layerwise", "stride_in": "1x1"},
    "graded spikes": {"spike_bits": 4, "neuron": "multi-level"},
    "mixed": {"neuron": "mixed", "spike_bits": 2, "neurons": MIXED},
    "signed float": {"neuron": "signed", "numerics": "float32"},
    "data-free": {
        "method": {"name": "data-free"},
        "calibration": {"description": MADE, "dataset": None, "images": 128, "seed": 7},
    },
    "resized, public": {
        "preprocess": {"resize": 9, "interpolation": "bicubic"},
        "source": {"training": None, "url": "https://example.org/net", "revision": "a" * 40},
    },
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_card_gallery_and_terminal_state_the_same_facts(changes):
    found = evaluation(**changes)
    text = card.render_card(found).replace("`", "")
    on_page, printed = page(found), terminal(found)
    stated = [row for group in facts.config_facts(found.config).values() for row in group.items()]
    assert len(stated) == len(dict(stated)) > 14
    for label, value in stated:
        assert f"| {label} | {value} |\n" in text
        assert f"<dt>{label}</dt><dd>{value}</dd>" in on_page
        assert f"\n  {label:<14}{value}\n" in printed
    for label, value in facts.evaluation_facts(found).items():
        assert f"<dt>{label}</dt><dd>{value}</dd>" in on_page
        assert f"\n  {label:<14}{value}\n" in printed
    for label, value in facts.size_facts(found).items():
        assert f"| {label} | {value} |\n" in text
        assert f"<dt>{label}</dt><dd>{value}</dd>" in on_page


def test_the_facts_name_what_was_once_left_out():
    stem = facts.config_facts(evaluation(**CHANGES["stem and layerwise"]).config)["Network"]
    assert stem["architecture"].endswith("1x1 convolution, 2 neurons for each channel of the stem")
    graded = evaluation(**CHANGES["graded spikes"])
    assert facts.config_facts(graded.config)["Network"]["neuron"].endswith("spikes of 4 bits")
    assert "graded spikes, 0 to 15." in card.render_card(graded)
    mixed = evaluation(**CHANGES["mixed"])
    words = "binary in the blocks, 2-bit graded residual stream"
    assert facts.config_facts(mixed.config)["Network"]["neuron"] == f"mixed, causal, {words}"
    assert f"spikes depend on the layer: {words}." in card.render_card(mixed)
    some = MIXED | dict.fromkeys(NAMES[1:3], {"neuron": "if", "bits": 1})
    some["layer3.2.conv2"] = {"neuron": "multi-level", "bits": 5}
    few = evaluation(neuron="mixed", spike_bits=5, neurons=some)
    assert facts.neurons_by_layer(few.config) == (
        "binary in 10 layers, 2-bit graded in 8 layers of the residual stream, 5-bit graded in "
        "1 layer of the residual stream"
    )
    made = facts.config_facts(evaluation(**CHANGES["data-free"]).config)["Conversion"]
    assert made["calibration"] == MADE


def test_every_label_fits_the_column_of_the_terminal():
    found = evaluation(**CHANGES["resized, public"])
    groups = [*facts.config_facts(found.config).values(), facts.evaluation_facts(found)]
    assert all(len(label) < 14 for group in groups for label in group)


def test_a_bar_in_a_text_does_not_end_a_cell_of_the_card():
    text = card.render_card(evaluation(source={"name": "a|b\nc"}))
    assert "| source | a\\|b c |\n" in text
