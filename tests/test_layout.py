"""The rules of the repository that no linter or type checker knows.

Each rule is a function from a text and its repository path to the list of what breaks it, so that
each is also shown to fail on a text that breaks it.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
FOLDERS = ("zoo", "kernels", "tests", "benchmarks", "examples", "model_cards")
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")
LINKS = {"zoo/kernels": "../kernels", "zoo/cli.py": "../cli.py"}
MAX_LINES = 500

# Parts of the package, lowest first: a file imports from its own part and from lines above its own
# in this table. Parts on one line do not import each other. A part is a folder or a file of zoo/;
# "api" is zoo/__init__.py.
LAYERS = (
    ("kernels", "errors", "version", "text", "imagenet"),
    ("distributed", "environment", "files", "progress"),
    ("networks",),
    ("artifact",),
    ("hub",),
    ("data",),
    ("pretrained",),
    ("conversion", "evaluation", "exchange"),
    ("tracing",),
    ("models",),
    ("training", "render"),
    ("share",),
    ("api",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
RANKS = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
# Files that write commands for people to run: cards and the gallery show how a figure was made.
COMMAND_WRITERS = ("zoo/render/card.py", "zoo/render/site.py", "zoo/share/publish.py")
UPWARD = {
    # SpikingResNet.from_pretrained, as users of the hub's client expect it.
    ("zoo/networks/spiking.py", "zoo.load"),
    # The type of an artifact's config, read by type checkers alone.
    ("zoo/networks/preprocess.py", "zoo.artifact.config.Config"),
    ("zoo/networks/spiking.py", "zoo.artifact.config.Config"),
    ("zoo/networks/trainable.py", "zoo.artifact.config.Config"),
}


def sources() -> Iterator[tuple[str, str]]:
    """The text and repository path of every Python file, each once, at its real place."""
    paths = [
        *REPO.glob("*.py"),
        *(path for folder in FOLDERS for path in (REPO / folder).rglob("*.py")),
    ]
    for path in sorted(paths):
        where = path.relative_to(REPO).as_posix()
        if not any(where == link or where.startswith(f"{link}/") for link in LINKS):
            yield path.read_text(encoding="utf-8"), where


def own_files() -> dict[str, str]:
    """Return the files of the package, repository path -> text."""
    return {where: source for source, where in sources() if home_of(where) is not None}


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def imports(source: str, where: str) -> list[tuple[int, str, str]]:
    """Return line, local name and absolute dotted name of every import, at any depth."""
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
            found += [
                (node.lineno, name.asname or name.name, f"{base}.{name.name}")
                for name in node.names
            ]
    return found


def expressions(source: str, where: str) -> Iterator[tuple[ast.expr, str]]:
    """Yield every name and call with its dotted name, as if no import had renamed anything."""
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


def part_of(name: str) -> str:
    """Return the part of the package that a dotted name below `zoo` belongs to."""
    second = name.split(".")[1] if "." in name else ""
    return second if second in RANKS else "api"


def home_of(where: str) -> str | None:
    """Return the part that a file belongs to, None outside the package."""
    first, _, rest = where.partition("/")
    if where == "cli.py" or first == "kernels":
        return first.removesuffix(".py")
    if first != "zoo":
        return None
    part = rest.partition("/")[0].removesuffix(".py")
    return "api" if part == "__init__" else part


def wrong_imports(source: str, where: str) -> list[str]:
    """Imports against the table of layers, and names that belong to other projects."""
    problems, home = [], home_of(where)
    if home is not None and home not in RANKS:
        problems.append(f"{where}: {home} is missing from LAYERS")
    for line, _, name in imports(source, where):
        if inside(name, "kernels") or inside(name, "cli"):
            problems.append(f"{where}:{line}: import zoo.{name}, not {name}")
        if inside(name, "triton") and not where.startswith(("kernels/", "tests/", "benchmarks/")):
            problems.append(f"{where}:{line}: of the package, only kernels/ imports triton")
        if home in RANKS and inside(name, "zoo") and (where, name) not in UPWARD:
            part = part_of(name)
            if part != home and RANKS[part] >= RANKS[home]:
                problems.append(
                    f"{where}:{line}: {home} imports {name}, and {part} is not below it"
                )
    return problems


def circles(texts: Mapping[str, str]) -> list[str]:
    """Return the first circle of imports among files (repository path -> text), lazy ones too."""
    modules = {}
    for where in texts:
        parts = where.removesuffix(".py").removesuffix("/__init__").split("/")
        modules[".".join(parts if parts[0] == "zoo" else ["zoo", *parts])] = where
    graph = {}
    for module, where in modules.items():
        graph[module] = found = set()
        for _, _, name in imports(texts[where], where):
            while name and name not in modules:
                name = name.rpartition(".")[0]
            if name and name not in (module, "zoo"):
                found.add(name)
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return [" -> ".join(error.args[1])]
    return []


def defined_twice(texts: Mapping[str, str]) -> list[str]:
    """Return public functions and classes of the package that more than one file defines."""
    homes: dict[str, list[str]] = {}
    for where, text in texts.items():
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(where)
    # The functions of zoo/__init__.py are the library's own, by the names that users know.
    several = {name: sorted(set(files) - {"zoo/__init__.py"}) for name, files in homes.items()}
    return [f"{name}: {', '.join(files)}" for name, files in several.items() if len(files) > 1]


def arrows(texts: Mapping[str, str]) -> set[tuple[str, str]]:
    """Return which part imports which, as pairs."""
    pairs = set()
    for where, text in texts.items():
        home = home_of(where)
        for _, _, name in imports(text, where):
            if home and inside(name, "zoo") and part_of(name) != home:
                pairs.add((home, part_of(name)))
    return pairs


def faces(source: str, where: str) -> list[str]:
    """Packages whose `__init__.py` is more than a docstring: `zoo list` must not load torch.

    A `__getattr__` loads nothing before it is asked.
    """
    if not re.fullmatch(r"zoo/\w+/__init__\.py", where):
        return []
    lazy = re.compile(r"from (__future__|typing) import .*|def __getattr__\(name: str\) -> Any:")
    body = [
        node
        for node in ast.parse(source).body
        if not lazy.fullmatch(ast.unparse(node).partition("\n")[0])
    ]
    text = ast.get_docstring(ast.parse(source)) or ""
    problems = [] if len(body) == 1 else [f"{where}: more than a docstring"]
    return problems if "Imports:" in text else [*problems, f"{where}: does not say what it imports"]


def flags_in_messages(source: str, where: str) -> list[str]:
    """Options named by code below the command line: a Python user has no such option."""
    if home_of(where) in (None, "commands", "cli", "api") or where in COMMAND_WRITERS:
        return []
    tree = ast.parse(source)
    texts = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return [
        f"{where}:{n.lineno}: names an option: {n.value[:60]!r}"
        for n in texts
        if re.search(r"(?<![\w-])--[a-z]", n.value)
    ]


def unsafe_loads(source: str, where: str) -> list[str]:
    """Ways to read a file that let the file run code.

    A test may unpickle bytes it made, to show what they would do.
    """
    unsafe = ("pickle.load",) if where.startswith("tests/") else ("pickle.load", "pickle.loads")
    problems = [
        f"{where}:{line}: imports {name}"
        for line, _, name in imports(source, where)
        if name in unsafe
    ]
    for node, name in expressions(source, where):
        if isinstance(node, ast.Call):
            safe = any(
                k.arg == "weights_only" and getattr(k.value, "value", None) is True
                for k in node.keywords
            )
            if name == "torch.load" and not safe:
                problems.append(f"{where}:{node.lineno}: torch.load without weights_only=True")
        elif name in unsafe:
            problems.append(f"{where}:{node.lineno}: {name} runs code from what it reads")
    return problems


def block_pointers(source: str, where: str) -> list[str]:
    """Triton's block pointers, which Triton 3.9 removed."""
    names = [(line, name) for line, _, name in imports(source, where)]
    names += [
        (node.lineno, name)
        for node, name in expressions(source, where)
        if not isinstance(node, ast.Call)
    ]
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
            if path.startswith(tuple(f"{folder}/" for folder in FOLDERS)) and not any(
                REPO.glob(path)
            ):
                problems.append(f"{where}: `{word}` does not exist")
    return problems


PACKAGES = [
    part
    for parts in LAYERS
    for part in parts
    if (REPO / "zoo" / part / "__init__.py").is_file() and part != "kernels"
]
# Every pair of packages of which the second is not below the first.
PAIRS = [
    (low, high)
    for low in PACKAGES
    for high in PACKAGES
    if low != high and RANKS[high] >= RANKS[low]
]

RULES = [wrong_imports, faces, flags_in_messages, unsafe_loads, block_pointers, too_long]
Rule = Callable[[str, str], list[str]]


@pytest.mark.parametrize("rule", RULES)
def test_every_file_keeps_the_rule(rule: Rule) -> None:
    problems = [problem for source, where in sources() for problem in rule(source, where)]
    assert not problems, "\n".join(problems)


def test_no_circle() -> None:
    own = own_files()
    for where, name in UPWARD:
        module, _, last = name.rpartition(".")
        assert f"from {module} import {last}\n" in own[where]
        own[where] = own[where].replace(f"from {module} import {last}\n", "pass\n")
    assert circles(own) == []


def test_public_names_are_defined_once() -> None:
    assert defined_twice(own_files()) == []


def test_a_name_that_is_defined_twice_is_found() -> None:
    twice = {"zoo/hub/a.py": "def pull(): ...", "zoo/models/b.py": "class pull: ..."}
    assert defined_twice(twice) == ["pull: zoo/hub/a.py, zoo/models/b.py"]
    assert defined_twice({"zoo/hub/a.py": "def _x(): ...", "zoo/hub/b.py": "def _x(): ..."}) == []


@pytest.mark.parametrize(
    "texts",
    [
        {"zoo/hub/a.py": "from zoo.hub import b", "zoo/hub/b.py": "from zoo.hub.a import x"},
        {
            "zoo/hub/a.py": "from . import b",
            "zoo/hub/b.py": "def f():\n    from zoo.hub.c import x",
            "zoo/hub/c.py": "import zoo.hub.a",
        },
        {"cli.py": "from zoo.commands import x", "zoo/commands/x.py": "import zoo.cli"},
    ],
)
def test_a_circle_is_found(texts: dict[str, str]) -> None:
    assert circles(texts)


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
        f"{link} must be a symlink to {target}. If it is a small text file, git checked it out "
        "without links: run "
        f"`git config core.symlinks true` and `git checkout -- {link}` (on Windows, use WSL: "
        "Triton needs it too)."
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
        (wrong_imports, "zoo/files.py", "from . import cli"),
        (wrong_imports, "zoo/files.py", "from .cli import main"),
        (wrong_imports, "zoo/share/serve.py", "import zoo.cli"),
        (wrong_imports, "zoo/render/card.py", "from zoo.commands.common import terminal"),
        (wrong_imports, "zoo/no_layer/x.py", ""),
        *(
            (wrong_imports, f"zoo/{low}/x.py", f"def f():\n    import zoo.{high}.y")
            for low, high in PAIRS
        ),
        *((wrong_imports, f"zoo/{part}/x.py", "from zoo import load") for part in PACKAGES[:-1]),
        (faces, "zoo/hub/__init__.py", '"""Imports: nothing."""\nimport torch'),
        (faces, "zoo/hub/__init__.py", '"""The hub."""'),
        (flags_in_messages, "zoo/hub/x.py", 'raise UsageError("pass --force")'),
        (flags_in_messages, "zoo/hub/x.py", 'f"{name}: pass --{option} or --force"'),
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
        (
            wrong_imports,
            "kernels/x.py",
            "import triton\nfrom zoo.kernels import spiking_conv\nfrom zoo import kernels",
        ),
        (
            wrong_imports,
            "kernels/spiking_conv/__init__.py",
            "from .reference import f\nfrom .. import spiking_conv",
        ),
        (wrong_imports, "zoo/__main__.py", "from zoo.cli import main"),
        (
            wrong_imports,
            "zoo/networks/x.py",
            "from zoo.kernels import spiking_conv\nimport zoo.kernels",
        ),
        (wrong_imports, "zoo/networks/spiking.py", "from zoo import load"),
        (
            wrong_imports,
            "zoo/share/x.py",
            "from zoo.render import card\nfrom zoo.share.y import z\nfrom zoo.errors import "
            "ZooError",
        ),
        (faces, "zoo/hub/__init__.py", '"""The hub. Imports: errors."""'),
        (
            faces,
            "zoo/hub/__init__.py",
            '"""Imports: a."""\ndef __getattr__(name: str) -> Any:\n    import torch',
        ),
        (flags_in_messages, "zoo/commands/x.py", 'raise UsageError("pass --force")'),
        (flags_in_messages, "zoo/hub/x.py", 'raise UsageError("a -- b, x--y")'),
        (wrong_imports, "cli.py", "from zoo import errors\nfrom .errors import ZooError"),
        (unsafe_loads, "zoo/x.py", "import torch\ntorch.load(f, weights_only=True)\njson.load(f)"),
        (unsafe_loads, "tests/test_x.py", "import pickle\npickle.loads(attack)"),
        (block_pointers, "kernels/x.py", "cursor.advance(1)"),
        (too_long, "zoo/x.py", "\n" * (MAX_LINES - 1)),
        (
            missing_paths,
            "README.md",
            "`tests/`, `tests/test_layout.py:12`, `tests/<name>.py`\n```\nzoo/none.py\n```\n",
        ),
    ],
)
def test_rule_passes_on(rule: Rule, where: str, text: str) -> None:
    assert rule(text, where) == []


if __name__ == "__main__":
    files = own_files()
    longest = max(files, key=lambda where: len(files[where].splitlines()))
    print(f"files {len(files)}, packages {len(PACKAGES)}, layers {len(LAYERS)}")
    print(f"arrows between parts {len(arrows(files))}")
    print(f"longest file {longest}, {len(files[longest].splitlines())} lines")
    print(f"public names defined more than once {len(defined_twice(files))}")
