"""Whatever is done to an artifact, it is refused in one line or it runs.

No other exception, no crash, bounded time and memory.

    export ZOO_MUTATIONS=10000 ZOO_MUTATIONS_OUT=FILE.json
    python -m pytest tests/zoo/artifact/test_mutated.py

is the long run; benchmarks/results/mutated-artifacts.json is what it wrote.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file, save

import zoo
from tests.zoo.artifact import mutations
from tests.zoo.artifact.damage import CONFIG, WEIGHTS, Files
from tests.zoo.artifact.mutations import mutate
from tests.zoo.spiking_fixtures import refuses
from zoo.artifact.folder import (
    parse_config,
    read_artifact,
    read_config,
    verify_artifact,
    write_artifact,
)
from zoo.artifact.tensors import expected_tensors, network_of, topology_of
from zoo.environment import versions
from zoo.errors import IntegrityError, ZooError
from zoo.models import registry

COUNT = int(os.environ.get("ZOO_MUTATIONS", "300"))
OUT = os.environ.get("ZOO_MUTATIONS_OUT")
# What a refusal may take, and what one may that runs: a config can ask for up to
# artifact.MAX_NEURONS. Seconds are of the processor: others may be busy too.
SECONDS, SECONDS_TO_RUN = 2.0, 60.0
MEGABYTES, MEGABYTES_TO_RUN = 500, 1500
HANG = 120


@pytest.fixture(scope="module")
def bases() -> list[Files]:
    """The shipped network of 8x8 input in int8, in float32, and one with projections."""
    folder = registry.resolve("s-resnet20-digits")
    shipped: Files = {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)}
    config = read_config(folder)
    tensors = load_file(folder / WEIGHTS)
    generator = torch.Generator().manual_seed(0)
    projected = config.model_copy(update={"shortcut": "B"})
    drawn = {
        name: tensors.get(name, torch.randint(-50, 50, shape, generator=generator).to(dtype))
        for name, (dtype, shape) in expected_tensors(projected, topology_of(projected)).items()
    }
    floats = config.model_copy(update={"numerics": "float32"})
    made = [shipped]
    for other, values in (
        (floats, {name: tensor.float() for name, tensor in tensors.items()}),
        (projected, drawn),
    ):
        text = json.dumps(other.model_dump(mode="json")).encode()
        made.append(
            mutations.mend({CONFIG: text, WEIGHTS: save(values, metadata={"format": "pt"})})
        )
    return made


def write(folder: Path, files: Files) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        if data is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(data)
    return folder


def use(folder: Path) -> str:
    """Verifies, loads and runs; what became of it. Anything but a ZooError goes through."""
    checks = verify_artifact(folder, deep=True)
    failed = [check for check in checks if not check.ok]
    said = [check.detail for check in failed]
    try:
        network = zoo.load(folder)
    except ZooError as error:
        assert failed, "verify found nothing and load refuses it"
        said.append(str(error))
        outcome = f"refused: {type(error).__name__}"
    else:
        assert not [check for check in failed if check.name != "spikes"], (
            f"load takes what verify refuses: {said}"
        )
        config = read_config(folder)
        logits = network(
            torch.zeros((1, *config.preprocess.input_size), dtype=torch.uint8), timesteps=1
        )
        assert logits.shape == (1, config.num_classes) and logits.dtype == torch.float64
        outcome = "runs, spikes differ from the checksum" if failed else "runs, spikes as stated"
    for line in said:
        assert line.isprintable() and len(line) < 1000, line[:1000]
    return outcome


def test_the_undamaged_run(bases: list[Files], tmp_path: Path) -> None:
    found = [use(write(tmp_path / "net", base)) for base in bases]
    assert found == [*["runs, spikes as stated"] * 2, "runs, spikes differ from the checksum"]


@pytest.mark.parametrize(
    ("size", "images", "timesteps", "word"),
    [
        ((1, 1024, 1024), 16, 64, "checksum"),
        ((1, 257, 256), 2, 8, "checksum"),
        ((1, 700, 700), 1, 1, "neurons"),
        ((1, 256, 256), 2, 8, ""),
    ],
)
def test_what_a_config_may_ask_for(
    size: tuple[int, ...], images: int, timesteps: int, word: str, bases: list[Files]
) -> None:
    """A few bytes of config.json must not take gigabytes in verify --deep or in a run."""
    config = json.loads(str(bases[0][CONFIG], "utf-8"))
    config["preprocess"]["input_size"] = size
    config["checksum"] |= {"images": images, "timesteps": timesteps}
    if not word:
        topology_of(parse_config(json.dumps(config).encode(), CONFIG))
        return
    with refuses(IntegrityError, word):
        topology_of(parse_config(json.dumps(config).encode(), CONFIG))


def test_a_large_input_gets_a_smaller_checksum(bases: list[Files], tmp_path: Path) -> None:
    """What convert writes stays within the bound, and is verified."""
    config, tensors = read_artifact(write(tmp_path / "net", bases[0]))
    preprocess = config.preprocess.model_copy(update={"input_size": (1, 260, 260)})
    config = config.model_copy(update={"preprocess": preprocess})
    made = write_artifact(tmp_path / "large", tensors, config)
    assert (made.checksum.images, made.checksum.timesteps) == (1, 8)
    assert all(check.ok for check in verify_artifact(tmp_path / "large", deep=True))


def test_the_lowest_number_of_an_image_table_counts(bases: list[Files], tmp_path: Path) -> None:
    """-32768 has no absolute value in int16; the bound on potentials rests on it."""
    config, tensors = read_artifact(write(tmp_path / "net", bases[0]))
    network = network_of(
        config, tensors | {"image.table": torch.full((1, 256), -(2**15), dtype=torch.int16)}
    )
    assert network.layers["conv1"].input_bound == 2**15


@pytest.mark.timeout(max(300, COUNT))
def test_mutated_artifacts(bases: list[Files], tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for base in bases:  # what a first run allocates for good is not the damage's doing
        use(write(tmp_path / "net", base))
    outcomes: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    mended_count = 0
    slowest: dict[str, tuple[float, int]] = {}
    start, before = time.perf_counter(), _peak_megabytes()
    try:
        for seed in range(COUNT):
            random = Random(seed)
            kind, mended, files = mutate(random.choice(bases), random)
            write(tmp_path / "net", files)
            faulthandler.dump_traceback_later(HANG, exit=True)
            began, held = time.process_time(), _peak_megabytes()
            try:
                outcome = use(tmp_path / "net")
            except BaseException as error:
                raise AssertionError(
                    f"seed {seed}, {kind}, mended {mended}: {type(error).__name__}: {error}"
                ) from error
            seconds = time.process_time() - began
            faulthandler.cancel_dump_traceback_later()
            group = outcome.split(":")[0].split(",")[0]
            slowest[group] = max(slowest.get(group, (0.0, 0)), (seconds, seed))
            grown = _peak_megabytes() - held
            limit = (SECONDS_TO_RUN, MEGABYTES_TO_RUN) if group == "runs" else (SECONDS, MEGABYTES)
            took = (
                f"seed {seed}, {kind}, mended {mended}: {seconds:.1f} s, {grown} MB more, {outcome}"
            )
            assert seconds < limit[0] and grown < limit[1], took
            outcomes[outcome] += 1
            kinds[kind] += 1
            mended_count += mended
    finally:
        faulthandler.cancel_dump_traceback_later()
        torch.set_num_threads(threads)
    assert outcomes["runs, spikes differ from the checksum"] and outcomes["refused: IntegrityError"]
    if OUT:
        facts = {
            "command": f"ZOO_MUTATIONS={COUNT} ZOO_MUTATIONS_OUT=FILE.json python -m pytest "
            "tests/zoo/artifact/test_mutated.py",
            "artifacts": COUNT,
            "with_the_sha256_made_to_agree": mended_count,
            "outcomes": dict(outcomes.most_common()),
            "mutations": dict(kinds.most_common()),
            "other_exceptions": 0,
            "slowest": {
                group: {"seconds": round(value[0], 2), "seed": value[1]}
                for group, value in slowest.items()
            },
            "memory_growth_megabytes": _peak_megabytes() - before,
            "seconds": round(time.perf_counter() - start),
            "versions": versions(),
        }
        Path(OUT).write_text(json.dumps(facts, indent=2) + "\n")


def _peak_megabytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)
