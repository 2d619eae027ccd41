"""README.md and docs/ print what the result files say, and what they tell people to type works."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import typer.main
import yaml

from zoo.cli import app
from zoo.models.registry import shipped

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHIPPED = {entry.name for entry in shipped()}
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    from benchmarks import tables

    return tables


def blocks(language: str) -> list[tuple[str, str]]:
    """Return page and text of every fenced block of a language."""
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.M | re.S)
    return [
        (page.name, text)
        for page in PAGES
        for found, text in fence.findall(page.read_text())
        if found == language
    ]


def commands() -> list[tuple[str, list[str]]]:
    """Return page and words of every command `zoo ...` in the blocks and in `code`."""
    lines = [
        (page, line.removeprefix("$ "))
        for page, text in blocks("")
        for line in text.replace("\\\n", " ").splitlines()
    ]
    spans = re.compile(r"`(zoo [a-z][^`\n]*)`")
    lines += [(page.name, span) for page in PAGES for span in spans.findall(page.read_text())]
    found = []
    for page, line in lines:
        for part in line.partition("#")[0].split("&&"):
            words = shlex.split(part)
            if "zoo" in words and not words[0].startswith("pip"):
                found.append((page, words[words.index("zoo") + 1 :]))
    return [(page, words) for page, words in found if words]


def runs_offline(words: list[str]) -> bool:
    """Return whether a command needs nothing but the package."""
    named = [word for word in words if word in SHIPPED]
    digits = "s-resnet20-digits" in named
    return (
        words[0] == "list"
        and len(words) == 1
        or bool(named)
        and (words[0] in ("show", "verify") or (digits and words[0] == "eval"))
    )


def test_tables_are_those_of_the_result_files(tables: ModuleType) -> None:
    found = set()
    for path in tables.documents():
        text = path.read_text()
        assert tables.filled(text) == text, f"{path.name}: run python -m benchmarks.tables"
        found |= set(re.findall(r"<!-- (\w+) -->", text))
    assert found == set(tables.TABLES)  # none that no document shows


def test_a_changed_figure_is_noticed(tables: ModuleType) -> None:
    text = (ROOT / "docs" / "results" / "cifar10.md").read_text()
    assert text.count("91.73") > 3
    assert tables.filled(text.replace("91.73", "91.74")) == text


def test_the_picture_is_of_todays_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    from benchmarks import picture

    for theme in picture.THEMES:
        text = (picture.FOLDER / f"accuracy-{theme}.svg").read_text()
        assert picture.digest() in text, "run python -m benchmarks.picture"
    logs = {f"training-{log.stem}.png" for log in picture.LOGS.glob("*.json")}
    assert logs == {path.name for path in picture.FOLDER.glob("training-*.png")} and logs


def test_readme_is_short(tables: ModuleType) -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
    assert len(tables.shown().splitlines()) <= 2 + 8


def test_links_between_pages_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_pages_are_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    for path in [*PAGES[1:], *NOTEBOOKS]:
        assert f": {path.relative_to(ROOT / 'docs').as_posix()}\n" in text, path.name


def parse(words: list[str]) -> None:
    """Parse a command as the command line would, without running it."""
    command = typer.main.get_command(app)
    for index, word in enumerate(words):
        if not hasattr(command, "commands"):
            break
        assert word in command.commands, f"zoo has no command {word}"
        command, rest = command.commands[word], words[index + 1 :]
    with command.make_context("zoo", list(rest)):
        pass


@pytest.mark.parametrize(("page", "words"), commands(), ids=lambda value: " ".join(value))
def test_every_command_parses(page: str, words: list[str]) -> None:
    if "|" in " ".join(words) or "..." in words:
        words = [word.partition("|")[0] for word in words if word != "..."]
    options = {"--help"} & set(words) or words[-1].startswith("--") and len(words) == 2
    if options or len(words) == 1:  # `zoo eval --json` in a sentence: only that it exists
        command = typer.main.get_command(app).commands[words[0]]
        known = {name for parameter in command.params for name in parameter.opts}
        assert set(words[1:]) <= known | {"--help"}
        return
    parse(words)


def test_a_wrong_command_does_not_parse() -> None:
    with pytest.raises(AssertionError):
        parse(["evaluate", "s-resnet20"])
    with pytest.raises(Exception, match="No such option: --steps"):
        parse(["eval", "s-resnet20", "--steps", "8"])


def test_some_commands_need_nothing_and_run(tmp_path: Path) -> None:
    found = {tuple(words) for _, words in commands() if runs_offline(words)}
    assert len(found) >= 5
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    # In one process: each would import torch anew.
    code = (
        "import sys; from zoo.cli import main\n"
        f"for words in {sorted(map(list, found))}:\n"
        "    if main(words): sys.exit(f'zoo {words} failed')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_quick_start_prints_what_readme_says(tmp_path: Path) -> None:
    text = next(text for page, text in blocks("") if page == "README.md" and "$ zoo" in text)
    first, *said = text.splitlines()
    done = subprocess.run(
        [sys.executable, "-m", *first.removeprefix("$ ").split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert len(said) == 4
    assert "\n".join(said) in done.stdout


@pytest.mark.parametrize(
    "text",
    [text for _, text in blocks("python") if "zoo.convert" not in text],
    ids=lambda text: text.strip().splitlines()[-1][:40],
)
def test_python_of_the_pages_runs(text: str) -> None:
    names = {"images": torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)}
    exec(compile(text, "page", "exec"), names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("nbclient", reason="needs the extra docs")
    pytest.importorskip("ipykernel", reason="needs the extra docs")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, 4)
    before = [
        "".join(output.get("text", "") for output in cell.get("outputs", []))
        for cell in notebook.cells
    ]
    resources = {"metadata": {"path": str(tmp_path)}}
    client.NotebookClient(notebook, timeout=200, resources=resources).execute()
    after = [
        "".join(output.get("text", "") for output in cell.get("outputs", []))
        for cell in notebook.cells
    ]
    assert any(before)
    assert after == before, "run it again and commit what it prints"


def test_project_facts_agree() -> None:
    import tomllib

    from zoo.version import __version__

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    site = (ROOT / "mkdocs.yml").read_text()
    assert citation["version"] == __version__
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert citation["repository-code"] == project["urls"]["Repository"]
    assert f"repo_url: {project['urls']['Repository']}\n" in site
    assert f"site_url: {project['urls']['Documentation']}\n" in site
    for path in (ROOT / ".github").rglob("*.yml"):
        assert yaml.safe_load(path.read_text()), path.name


def test_hubconf_has_the_models_that_it_says() -> None:
    spec = importlib.util.spec_from_file_location("hubconf", ROOT / "hubconf.py")
    assert spec is not None and spec.loader is not None
    hubconf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hubconf)
    names = [name for name in vars(hubconf) if name.startswith("s_")]
    assert len(names) >= 3
    assert {name.replace("_", "-") for name in names} <= SHIPPED
    code = "import torch; print(torch.hub.load('.', 's_resnet20_digits', source='local'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "resnet20" in done.stdout
