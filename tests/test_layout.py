"""The rules of the repository that no linter or type checker knows.

Each rule is a function from a text and its repository path to the list of what breaks it, so that each is also shown
to fail on a text that breaks it.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
FOLDERS = ("zoo", "kernels", "tests", "benchmarks", "examples", "model_cards")
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")
LINKS = {"zoo/kernels": "../kernels", "zoo/cli.py": "../cli.py"}
MAX_LINES = 500


def sources() -> Iterator[tuple[str, str]]:
    """The text and repository path of every Python file, each once, at its real place."""
    paths = [*REPO.glob("*.py"), *(path for folder in FOLDERS for path in (REPO / folder).rglob("*.py"))]
    for path in sorted(paths):
        where = path.relative_to(REPO).as_posix()
        if not any(where == link or where.startswith(f"{link}/") for link in LINKS):
            yield path.read_text(encoding="utf-8"), where


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def imports(source: str, where: str) -> list[tuple[int, str, str]]:
    """Line, name in the file and absolute dotted name of everything imported, at any depth of the code."""
    package = where.split("/")[:-1]
    if where == "cli.py" or where.startswith("kernels/"):
        package.insert(0, "zoo")  # the name it is imported by
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, name.asname or name.name, name.name) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found += [(node.lineno, name.asname or name.name, f"{base}.{name.name}") for name in node.names]
    return found


def expressions(source: str, where: str) -> Iterator[tuple[ast.expr, str]]:
    """Every name and call in the code with its dotted name, written as if nothing had been renamed by an import."""
    origin = {local: name for _, local, name in imports(source, where)}

    def dotted(node: ast.expr) -> str:
        if isinstance(node, ast.Attribute):
            return f"{dotted(node.value)}.{node.attr}"
        return origin.get(node.id, node.id) if isinstance(node, ast.Name) else ""

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name | ast.Attribute):
            yield node, dotted(node)
        elif isinstance(node, ast.Call):
            yield node, dotted(node.func)


def wrong_imports(source: str, where: str) -> list[str]:
    """Imports against the direction cli -> zoo -> kernels -> torch, and names that belong to other projects."""
    problems = []
    for line, _, name in imports(source, where):
        if inside(name, "kernels") or inside(name, "cli"):
            problems.append(f"{where}:{line}: import zoo.{name}, not {name}")
        if where.startswith("kernels/") and inside(name, "zoo") and not inside(name, "zoo.kernels"):
            problems.append(f"{where}:{line}: kernels/ imports {name}, which is above it")
        if where.startswith("zoo/") and where != "zoo/__main__.py" and inside(name, "zoo.cli"):
            problems.append(f"{where}:{line}: only zoo/__main__.py imports the command line")
        if inside(name, "zoo.commands") and not (where == "cli.py" or where.startswith("zoo/commands/")):
            problems.append(f"{where}:{line}: the library does not know the command line's {name}")
        if inside(name, "triton") and not where.startswith(("kernels/", "tests/", "benchmarks/")):
            problems.append(f"{where}:{line}: of the package, only kernels/ imports triton")
    return problems


def unsafe_loads(source: str, where: str) -> list[str]:
    """Ways to read a file that let the file run code. A test may unpickle bytes it made, to show what they would do."""
    unsafe = ("pickle.load",) if where.startswith("tests/") else ("pickle.load", "pickle.loads")
    problems = [f"{where}:{line}: imports {name}" for line, _, name in imports(source, where) if name in unsafe]
    for node, name in expressions(source, where):
        if isinstance(node, ast.Call):
            safe = any(k.arg == "weights_only" and getattr(k.value, "value", None) is True for k in node.keywords)
            if name == "torch.load" and not safe:
                problems.append(f"{where}:{node.lineno}: torch.load without weights_only=True")
        elif name in unsafe:
            problems.append(f"{where}:{node.lineno}: {name} runs code from what it reads")
    return problems


def block_pointers(source: str, where: str) -> list[str]:
    """Triton's block pointers, which Triton 3.9 removed."""
    names = [(line, name) for line, _, name in imports(source, where)]
    names += [(node.lineno, name) for node, name in expressions(source, where) if not isinstance(node, ast.Call)]
    return [
        f"{where}:{line}: {name} was removed in Triton 3.9; use pointers and masks"
        for line, name in names
        if name.endswith("make_block_ptr") or name in ("triton.language.advance", "tl.advance")
    ]


def too_long(source: str, where: str) -> list[str]:
    """Files that are not read in one sitting."""
    lines = len(source.splitlines())
    return [f"{where}: {lines} lines, the limit is {MAX_LINES - 1}"] if lines >= MAX_LINES else []


def missing_paths(document: str, where: str) -> list[str]:
    """Repository paths in `code` spans that do not exist; `<name>` and `*` stand for anything."""
    problems = []
    for span in re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", document, flags=re.M | re.S)):
        for word in span.split():
            path = re.sub(r"<[^>]*>", "*", re.sub(r"(::|:\d|#).*", "", word)).rstrip("/.,;:")
            if path.startswith(tuple(f"{folder}/" for folder in FOLDERS)) and not any(REPO.glob(path)):
                problems.append(f"{where}: `{word}` does not exist")
    return problems


RULES = [wrong_imports, unsafe_loads, block_pointers, too_long]
Rule = Callable[[str, str], list[str]]


@pytest.mark.parametrize("rule", RULES)
def test_every_file_keeps_the_rule(rule: Rule) -> None:
    problems = [problem for source, where in sources() for problem in rule(source, where)]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_paths_in_documents_exist(name: str) -> None:
    if not (REPO / name).exists():
        pytest.skip(f"no {name}")
    problems = missing_paths((REPO / name).read_text(encoding="utf-8"), name)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(("link", "target"), LINKS.items())
def test_links(link: str, target: str) -> None:
    path = REPO / link
    assert path.is_symlink(), (
        f"{link} must be a symlink to {target}. If it is a small text file, git checked it out without links: run "
        f"`git config core.symlinks true` and `git checkout -- {link}` (on Windows, use WSL: Triton needs it too)."
    )
    assert Path(os.readlink(path)).as_posix() == target


def test_every_folder_is_searched() -> None:
    found = {where.partition("/")[0] for _, where in sources()}
    assert {"zoo", "kernels", "tests"} <= found


@pytest.mark.parametrize(
    ("rule", "where", "text"),
    [
        (wrong_imports, "tests/test_x.py", "import kernels"),
        (wrong_imports, "tests/test_x.py", "import kernels.spiking_conv as k"),
        (wrong_imports, "benchmarks/run.py", "from kernels import spiking_conv"),
        (wrong_imports, "zoo/x.py", "def f():\n    from cli import main"),
        (wrong_imports, "kernels/x.py", "import zoo"),
        (wrong_imports, "kernels/x.py", "from zoo import errors"),
        (wrong_imports, "kernels/x.py", "from .. import errors"),
        (wrong_imports, "kernels/__init__.py", "from ..errors import ZooError"),
        (wrong_imports, "kernels/spiking_conv/x.py", "from ...errors import ZooError"),
        (wrong_imports, "zoo/x.py", "from . import cli"),
        (wrong_imports, "zoo/x.py", "from .cli import main"),
        (wrong_imports, "zoo/x.py", "import zoo.cli"),
        (wrong_imports, "zoo/x.py", "from zoo.commands.common import terminal"),
        (wrong_imports, "zoo/x.py", "import triton.language as tl"),
        (wrong_imports, "cli.py", "if True:\n    from triton import jit"),
        (unsafe_loads, "zoo/x.py", "import pickle\npickle.load(f)"),
        (unsafe_loads, "zoo/x.py", "import pickle as p\nread = p.loads"),
        (unsafe_loads, "zoo/x.py", "from pickle import load"),
        (unsafe_loads, "tests/test_x.py", "import pickle\npickle.load(f)"),
        (unsafe_loads, "zoo/x.py", "import torch\ntorch.load(f)"),
        (unsafe_loads, "zoo/x.py", "import torch as t\nt.load(f, weights_only=False)"),
        (unsafe_loads, "zoo/x.py", "from torch import load\nload(f, weights_only=safe)"),
        (block_pointers, "kernels/x.py", "import triton.language as tl\ntl.make_block_ptr(p)"),
        (block_pointers, "kernels/x.py", "from triton import language\nlanguage.advance(p, (1,))"),
        (block_pointers, "kernels/x.py", "tl.advance(p, (1,))"),
        (block_pointers, "kernels/x.py", "from triton.language import make_block_ptr"),
        (too_long, "zoo/x.py", "\n" * MAX_LINES),
        (missing_paths, "README.md", "see `zoo/no_such_file.py`"),
        (missing_paths, "README.md", "run `python tests/no_such_folder/run.py --fast`"),
        (missing_paths, "README.md", "see `zoo/no_such_folder/<name>/config.json`"),
    ],
)
def test_rule_fails_on(rule: Rule, where: str, text: str) -> None:
    assert rule(text, where)


@pytest.mark.parametrize(
    ("rule", "where", "text"),
    [
        (wrong_imports, "kernels/x.py", "import triton\nfrom zoo.kernels import spiking_conv\nfrom zoo import kernels"),
        (wrong_imports, "kernels/spiking_conv/__init__.py", "from .reference import f\nfrom .. import spiking_conv"),
        (wrong_imports, "zoo/__main__.py", "from zoo.cli import main"),
        (wrong_imports, "zoo/x.py", "from .kernels import spiking_conv\nimport zoo.kernels"),
        (wrong_imports, "cli.py", "from zoo import errors\nfrom .errors import ZooError"),
        (unsafe_loads, "zoo/x.py", "import torch\ntorch.load(f, weights_only=True)\njson.load(f)"),
        (unsafe_loads, "tests/test_x.py", "import pickle\npickle.loads(attack)"),
        (block_pointers, "kernels/x.py", "cursor.advance(1)"),
        (too_long, "zoo/x.py", "\n" * (MAX_LINES - 1)),
        (missing_paths, "README.md", "`tests/`, `tests/test_layout.py:12`, `tests/<name>.py`\n```\nzoo/none.py\n```\n"),
    ],
)
def test_rule_passes_on(rule: Rule, where: str, text: str) -> None:
    assert rule(text, where) == []
