"""The facts of an artifact and of its evaluation, labelled and formatted, free of torch.

The card, the gallery and the terminal print these words; none of them formats a fact by itself.
"""

from __future__ import annotations

from typing import Any

from zoo.artifact.config import Config, ExitConfig
from zoo.artifact.results import Evaluation
from zoo.networks.architectures import topology
from zoo.text import human_bytes

_NEURONS = {
    ("if", "causal"): "an integrate-and-fire neuron with soft reset, whose spikes are 0 or 1",
    ("signed", "causal"): (
        "an integrate-and-fire neuron with soft reset that can take a spike back, whose spikes are "
        "-1, 0 or 1"
    ),
    ("multi-level", "causal"): (
        "an integrate-and-fire neuron with soft reset and graded spikes, 0 to {largest}"
    ),
    ("if", "layerwise"): (
        "an integrate-and-fire neuron that fires, 0 or 1, after it has received all its input"
    ),
}


_SPIKES = {"if": "binary", "signed": "signed", "multi-level": "{bits}-bit graded"}


def neuron_in_words(config: Config) -> str:
    """Return what a neuron of the network is, as the rest of a sentence."""
    if config.neurons is not None:
        return (
            "an integrate-and-fire neuron with soft reset, whose spikes depend on the layer: "
            f"{neurons_by_layer(config)}"
        )
    other = f"a neuron of the kind {config.neuron}, {config.schedule}"  # none that is converted
    words = _NEURONS.get((config.neuron, config.schedule), other)
    return words.format(largest=2**config.spike_bits - 1)


def neurons_by_layer(config: Config) -> str:
    """Return which layers have which neurons, "binary in the blocks, 2-bit graded residual stream".

    Of a network whose layers differ.
    """
    groups: dict[str, list[str]] = {}
    for name in config.neurons or ():
        kind = config.neuron_of(name)
        groups.setdefault(_SPIKES[kind.neuron].format(bits=kind.bits), []).append(name)
    stream = _residual_stream(config)
    whole = [words for words, names in groups.items() if stream == set(names)]
    if len(groups) == 2 and whole:
        (inner,) = set(groups) - set(whole)
        return f"{inner} in the blocks, {whole[0]} residual stream"
    groups = dict(sorted(groups.items(), key=lambda group: -len(group[1])))
    return ", ".join(
        f"{words} in {len(names)} layers"
        + (" of the residual stream" if stream.issuperset(names) else "")
        for words, names in groups.items()
    ).replace(" in 1 layers", " in 1 layer")


def _residual_stream(config: Config) -> frozenset[str]:
    """Return the layers that later blocks read through shortcuts, as `Topology` has them."""
    if config.topology is None:
        net = topology(config.arch, shortcut=config.shortcut, stride_in=config.stride_in)
        return net.residual_stream
    layers = config.topology.layers
    return frozenset((layers[0].name, *(layer.name for layer in layers if layer.shortcut)))


def config_facts(config: Config) -> dict[str, dict[str, str]]:
    """Return the facts that config.json states, heading -> label -> text.

    The headings are Network, Conversion, Source and Checksums; a label stands under one alone.
    """
    made, source, used = config.preprocess, config.source, config.calibration
    architecture = f"{config.arch}, shortcut {config.shortcut}, {config.num_classes} classes"
    if config.topology is not None:
        pools = len(config.topology.pools)
        architecture = f"{config.arch}, {config.num_classes} classes, described in config.json: "
        architecture += f"{len(config.topology.layers)} layers"
        architecture += f", {pools} poolings of spikes" if pools else ""
    if config.stride_in != "3x3":
        architecture += f", stride in the {config.stride_in} convolution"
    if config.stem > 1:
        architecture += f", {config.stem} neurons for each channel of the stem"
    shape = " x ".join(map(str, made.input_size))
    resized = f", shorter side resized to {made.resize} ({made.interpolation}), then cropped"
    neuron = f"{config.neuron}, {config.schedule}"
    if config.neurons is not None:
        neuron += f", {neurons_by_layer(config)}"
    elif config.spike_bits > 1:
        neuron += f", spikes of {config.spike_bits} bits"
    delay = ", ".join(
        f"{skipped} from T = {step}" for step, skipped in sorted(config.readout_delay.items())
    )
    # Images that were made (data-free) are described by how; no data set was drawn from.
    drawn = f"{used.images} images drawn with seed {used.seed} from "
    return {
        "Network": {
            "architecture": architecture,
            "input": f"uint8 {shape}{resized if made.resize else ''}",
            "mean, std": f"{_words(made.mean)}; {_words(made.std)}",
            "neuron": neuron,
            "numerics": config.numerics,
            "timesteps": f"converted for T = {config.timesteps}",
            "read-out": f"skips {delay} timesteps" if delay else "skips no timestep",
            **({"early exit": _exit(config.exit)} if config.exit else {}),
        },
        "Conversion": {
            "method": config.method.name,
            "parameters": _pairs(config.method.parameters) or "none",
            "calibration": ("" if config.method.name == "data-free" else drawn) + used.description,
            "images sha256": used.sha256,
        },
        "Source": {
            "source": source.name,
            "source sha256": source.sha256,
            **({"revision": source.revision} if source.revision else {}),
            "license": source.license or "not stated",
            "url": source.url or ("none, zoo train made it" if source.training else "not stated"),
        },
        **(
            {}
            if config.tuning is None
            else {"Tuning": _flat(config.tuning.model_dump(mode="json"))}
        ),
        "Checksums": {
            "weights": f"sha256 {config.weights_sha256}",
            "spikes": (
                f"sha256 {config.checksum.sha256} after {config.checksum.timesteps} timesteps on "
                f"{config.checksum.images} images of {config.checksum.input}"
            ),
        },
    }


def _exit(found: ExitConfig) -> str:
    return (
        f"{found.rule} of {found.threshold:.4g} or more, at T = {found.timesteps} at the latest; "
        f"for {found.loss:g} points lost on {found.images} images of {found.description}"
    )


def training_facts(config: Config) -> dict[str, str]:
    """Return the facts of the ANN's training and of those it began from, label -> text."""
    training = config.source.training
    return {} if training is None else _flat(training.model_dump(mode="json"))


def evaluation_facts(found: Evaluation) -> dict[str, str]:
    """Return the facts of a measurement that are not figures of a row, label -> text."""
    return {
        "measured on": found.data.description,
        **_terms(found),
        "test sha256": found.data.sha256,
        **({"ANN": f"{percent(found.ann.top1)}, {found.ann.source}"} if found.ann else {}),
        "speed": speed(found),
        "versions": _pairs(found.versions),
        "command": found.command or "not stated",
    }


def _terms(found: Evaluation) -> dict[str, str]:
    data = found.data
    stated = {"data set": data.name, "from": data.source, "data license": data.license}
    return {label: text for label, text in stated.items() if text}


def size_facts(found: Evaluation) -> dict[str, str]:
    """Return the sizes of an artifact, label -> text."""
    return {
        "size": human_bytes(found.artifact_bytes),
        "tensors": human_bytes(found.footprint_bytes),
    }


def speed(found: Evaluation) -> str:
    """Return the measured speed, with the device and the backend."""
    rates = ", ".join(
        f"{rate:.1f} images/s at T = {step}"
        for step, rate in sorted(found.images_per_second.items())
    )
    return f"{rates} on {found.device} ({found.backend})"


def percent(value: float) -> str:
    """Return an accuracy as it is printed."""
    return f"{value:.2f} %"


def _words(values: list[float]) -> str:
    return " ".join(map(str, values))


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _flat(values: dict[str, Any], before: str = "") -> dict[str, str]:
    """Return nested values with their keys joined, without those that are None."""
    facts: dict[str, str] = {}
    for name, value in values.items():
        label = f"{before}{name}".replace("_", " ")
        if isinstance(value, dict):
            facts |= {label: _pairs(value)} if name == "settings" else _flat(value, f"{label}: ")
        elif value is not None:
            facts[label] = _words(value) if isinstance(value, list) else str(value)
    return facts
