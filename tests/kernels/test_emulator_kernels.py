"""The emulator on real kernels: broken ones are noticed, and whole networks run."""

from __future__ import annotations

import json

import pytest

from benchmarks import equality
from tests.kernels import test_forms, test_graded, test_kernel
from tests.kernels.conftest import SAMPLE, emulated
from tests.kernels.emulator.launch import ARCHITECTURES, Emulator
from tests.kernels.emulator.mutants import LAYERS, Trial, mutants
from zoo.kernels import spiking_conv
from zoo.networks import fused
from zoo.networks.architectures import topology

pytestmark = [emulated, pytest.mark.emulate]

# Of the kinds of which every mutant of these kernels is caught; the scores of all are in
# benchmarks/results/emulator-mutants.json.
ALWAYS_CAUGHT = {
    "wait for one group less",
    "wgmma fence dropped",
    "comparison off by one",
    "registers of mma swapped",
    "registers of wgmma swapped",
    "selp swapped",
    "shift the other way",
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_broken_instruction_is_noticed(architecture):
    trial = Trial(architecture, next(iter(LAYERS)))
    found = [m for m in mutants(trial.right.kernel, 1) if m[0] in ALWAYS_CAUGHT]
    assert len({kind for kind, _, _ in found}) >= 5
    for mutant in found[:12]:
        assert trial.caught(mutant), mutant
    # The right kernel is not refused.
    trial.emulator.programs[trial.key] = trial.right
    trial.run()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_network_whole(architecture, tmp_path):
    out = tmp_path / "equality.json"
    arguments = "s-resnet20-digits --data digits --images 1 --timesteps 8 --backend emulated"
    equality.main([*arguments.split(), "--architecture", architecture, "--out", str(out)])
    ((name, run),) = json.loads(out.read_text())["runs"].items()
    assert name.endswith(architecture)
    assert run["equal"] and run["spikes"] > 1000 and run["launches"] > 15


def test_networks_are_emulated_only_within_the_block():
    network = equality.random_network(topology("resnet20")).with_backend("interpret")
    real, kernels = fused.FusedLayers, spiking_conv.launch.kernels
    with Emulator("sm_80").networks():
        assert not network.layer_backend(1).interpret
        assert spiking_conv.launch.kernels(True) is kernels(True)
    assert fused.FusedLayers is real and spiking_conv.launch.kernels is kernels


def test_the_sample_names_tests_that_exist():
    modules = (test_forms, test_graded, test_kernel)
    names = {*globals(), *(name for module in modules for name in vars(module))}
    assert set(SAMPLE) <= names
