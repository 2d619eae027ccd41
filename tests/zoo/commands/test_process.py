"""Check what needs a process: start-up, Ctrl-C, a full disk, a closed pipe, a terminal."""

from __future__ import annotations

import json
import os
import pty
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from .conftest import QUICK, Material, Outcome, command, environment, spawn

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs signals and pseudo-terminals")
pytestmark = POSIX


def imported_by(*words: str | Path) -> set[str]:
    """Return the top-level modules in a process that ran one command."""
    code = (
        f"import sys; from zoo.cli import main; main({[*map(str, words)]}); "
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in done.stderr.split()}


def test_help_and_lists_import_nothing_heavy(made: Material) -> None:
    # Only the constants of the hub's client are imported, in 9 ms: they say where its cache is.
    heavy = {
        "torch",
        "numpy",
        "triton",
        "matplotlib",
        "httpx",
        "httpx2",
        "hf_xet",
        "safetensors",
    }
    for words in (["--help"], ["eval", "--help"], ["--version"], ["list"], ["show", made.artifact]):
        assert not imported_by(*words) & heavy, words
    assert not imported_by("--help") & {"rich", "pydantic"}


def processor_time(words: Sequence[str]) -> float:
    """Return the seconds of processor time a process takes: others may keep it waiting."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, env=environment(), capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("words", ["--help", "list"])
def test_help_and_the_list_answer_at_once(words: str) -> None:
    # 0.10 s for --help and 0.24 s for the list where this was written; beside other work on a
    # slower machine the list took 0.5 to 0.7 s, and importing torch 1.7 to 2.5 s.
    seconds = sum(processor_time(command(words)) for _ in range(3)) / 3
    assert seconds < max(0.5, processor_time([sys.executable, "-c", "import torch"]) / 2)


def test_the_exit_code_reaches_the_shell(made: Material) -> None:
    assert spawn("verify", made.artifact).code == 0
    spawn("show", "no-such-model").failed(3)
    spawn("eval", made.artifact).failed(2)


def interrupted(words: list[str | Path], sign: str, wait: float) -> Outcome:
    """Start a command, wait for `sign` on its stderr and a little longer, then send SIGINT."""
    process = subprocess.Popen(
        command(*words),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = process.stderr.readline()
    assert sign in said, said + process.stderr.read()
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return Outcome(process.returncode, out, err)


@pytest.mark.parametrize("wait", [0.0, 1.0])
def test_ctrl_c_during_convert_leaves_nothing(made: Material, tmp_path: Path, wait: float) -> None:
    slow = (
        "--arch",
        "resnet20",
        "--calib",
        "digits",
        "--input-size",
        "8",
        "--mean",
        "0.5",
        "--std",
        "0.3",
    )
    words = [
        "convert",
        made.checkpoint,
        "--out",
        tmp_path / "net",
        *slow,
        "--samples",
        "1400",
        "--timesteps",
        "64",
    ]
    ended = interrupted(words, "calibrating on", wait)
    assert ended.failed(130) == "interrupted\n"
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_during_eval_leaves_the_old_file(made: Material, tmp_path: Path) -> None:
    output = tmp_path / "eval.json"
    output.write_text("an older one")
    words = [
        "eval",
        made.artifact,
        "--data",
        made.images,
        "--timesteps",
        "4096",
        "--output",
        output,
    ]
    assert interrupted(words, "measuring on", 0.5).failed(130) == "interrupted\n"
    assert output.read_text() == "an older one"
    assert list(tmp_path.iterdir()) == [output]


def with_small_disk(limit: int, *words: str | Path) -> Outcome:
    """Run a command that can write `limit` bytes to a file, no more."""
    done = subprocess.run(
        command(*words),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def test_full_disk_during_convert_leaves_nothing(made: Material, tmp_path: Path) -> None:
    words = (
        "convert",
        made.checkpoint,
        "--calib",
        made.images,
        "--out",
        tmp_path / "net",
        *QUICK,
        "-q",
    )
    assert "free some space" in with_small_disk(50_000, *words).failed(1)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_during_force_leaves_the_old_artifact(
    made: Material, artifact: Path, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in artifact.iterdir()}
    words = (
        "convert",
        made.checkpoint,
        "--calib",
        made.images,
        "--out",
        artifact,
        "--force",
        *QUICK,
        "-q",
    )
    with_small_disk(50_000, *words, "--seed", "7").failed(1)
    assert {path.name: path.read_bytes() for path in artifact.iterdir()} == before
    assert list(tmp_path.iterdir()) == [artifact]


@pytest.mark.parametrize("option", ["--output", "--plot"])
def test_full_disk_during_eval_leaves_the_old_file(
    made: Material, tmp_path: Path, option: str
) -> None:
    if option == "--plot":
        pytest.importorskip("matplotlib", reason="needs matplotlib (extra plots)")
    target = tmp_path / "eval.png"
    target.write_text("an older one")
    words = ("eval", made.artifact, "--data", made.images, "--timesteps", "1", option, target, "-q")
    ended = with_small_disk(1000, *words)
    assert ended.code == 1
    assert (
        ended.err.startswith(f"error: {target} could not be written (")
        and ended.err.count("\n") == 1
    )
    assert "energy modelled at 45 nm" in ended.out  # what was measured is not lost
    assert target.read_text() == "an older one"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_stdout_on_a_full_disk(made: Material, flags: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command("show", made.artifact, *flags),
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (
        Outcome(done.returncode, "", done.stderr).failed(1)
        == "error: stdout: No space left on device\n"
    )


@pytest.mark.parametrize("words", [["--help"], ["show"], ["show", "--json"]])
def test_a_reader_that_leaves_is_no_error_to_talk_about(made: Material, words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    given = words if words == ["--help"] else [*words, made.artifact]
    done = subprocess.run(
        command(*given), env=environment(), stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def on_a_terminal(*words: str | Path, **extra: str) -> tuple[int, str, str]:
    """Return exit code, stdout (a pipe) and stderr (a terminal) of a command."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command(*words), env=environment(**extra), stdout=subprocess.PIPE, stderr=follower
    )
    os.close(follower)
    seen = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:  # Linux ends a terminal without writers this way
            break
        if not part:
            break
        seen += part
    os.close(leader)
    out, _ = process.communicate(timeout=60)
    return process.returncode, out.decode(), seen.decode()


def test_bars_are_for_terminals(made: Material) -> None:
    words = ("eval", made.artifact, "--data", made.images, "--timesteps", "1", "--no-layers")
    code, out, err = on_a_terminal(*words)
    assert code == 0
    assert "━" in err and "40/40" in err
    assert "\x1b" not in out
    for flags in (["--json"], ["-q"]):
        code, out, err = on_a_terminal(*words, *flags)
        assert code == 0
        assert "━" not in err
    assert err == ""


def test_colour_can_be_turned_off() -> None:
    red = "\x1b[1;31m"
    assert red in on_a_terminal("show", "no-such-model")[2]
    assert red not in on_a_terminal("show", "no-such-model", "--no-color")[2]
    assert red not in on_a_terminal("--no-color", "no-such-command")[2]
    assert red not in on_a_terminal("show", "no-such-model", NO_COLOR="1")[2]


def test_a_terminal_without_unicode(made: Material) -> None:
    words = ("eval", made.artifact, "--data", made.images, "--timesteps", "1", "-q")
    ended = spawn(*words, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert ended.code == 0
    assert ended.out.isascii()
    assert "100 |" in ended.out and "#" in ended.out


def test_json_is_all_there_is_on_stdout(made: Material, tmp_path: Path) -> None:
    convert = (
        "convert",
        made.checkpoint,
        "--calib",
        made.images,
        "--out",
        tmp_path / "net",
        *QUICK,
    )
    evaluate = ("eval", made.artifact, "--data", made.images, "--timesteps", "1")
    for words in (convert, evaluate, ("verify", made.artifact), ("show", made.artifact), ("list",)):
        ended = spawn(*words, "--json")
        assert ended.code == 0
        json.loads(ended.out)
