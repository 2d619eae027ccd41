"""Load the tensors of a checkpoint file without executing anything that is in it.

`torch.load(weights_only=True)` refuses a file that names anything beside tensors, and training code
leaves much beside them: arguments, accuracies as numpy scalars, hyper-parameters. Here each such
name stands for an inert class that takes whatever it is given and does nothing, so that the tensors
beside it can be read; its own code is never imported.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from zoo.errors import IntegrityError

# More names than training code leaves; a hostile file could name any number.
_MAX_NAMES = 64
_FACTORIES = ("list", "dict", "int", "float", "str", "bool")  # of a defaultdict
# What only a file that means harm calls. Nothing would be executed; it is refused all the same.
_HOSTILE = frozenset(
    {
        "__builtin__",
        "asyncio",
        "builtins",
        "code",
        "codecs",
        "commands",
        "ctypes",
        "importlib",
        "io",
        "marshal",
        "multiprocessing",
        "nt",
        "operator",
        "os",
        "pdb",
        "pickle",
        "pip",
        "posix",
        "pty",
        "pydoc",
        "runpy",
        "shutil",
        "signal",
        "socket",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "timeit",
        "webbrowser",
        "zipimport",
    }
)


class _Inert:
    """Stands for an object that is passed over."""

    def __new__(cls, *_args: object, **_named: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_args: object, **_named: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


def load_tensors(path: Path) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Return the (nested) mapping of tensors that a checkpoint file holds.

    Returns:
        The mapping, and the names of what was passed over in it.

    Raises:
        IntegrityError: the file is no checkpoint, is cut, would execute code, or holds a whole
            module in place of its state dict.
    """
    with path.open("rb") as file:
        head, size = file.read(512), path.stat().st_size
    if head.startswith(b"version https://git-lfs"):
        raise IntegrityError(
            f"{path} is a Git LFS pointer of {size} bytes, not the file that it points to: run "
            "git lfs pull, or download the file itself"
        )
    if head.lstrip()[:1] == b"<":
        raise IntegrityError(
            f"{path} is a web page, not a checkpoint: download the file that the page is about"
        )
    other = _other_format(path, head)
    if other is not None:
        raise IntegrityError(f"{path} is {other}")
    if path.suffix.lower() == ".safetensors" or _is_safetensors(head, size):
        return _safetensors(path), ()
    if _is_torchscript(path):
        raise IntegrityError(
            f"{path} is a TorchScript archive, whose code would have to be executed: save "
            "torch.jit.load(file).state_dict() with torch.save"
        )
    loaded, names = _pickled(path)
    if isinstance(loaded, _Inert):
        raise IntegrityError(
            f"{path} holds a whole pickled object ({type(loaded).__name__}), not a state_dict: "
            "nothing was executed; save model.state_dict()"
        )
    if not isinstance(loaded, Mapping):
        raise IntegrityError(
            f"{path} holds a {type(loaded).__name__}, not a state_dict: save model.state_dict()"
        )
    return loaded, names


# Formats that are no checkpoint of PyTorch, by their first bytes, with what to do.
_FORMATS = (
    (b"\x1f\x8b", "compressed with gzip: unpack it with gunzip, and give what is inside"),
    (b"BZh", "compressed with bzip2: unpack it, and give what is inside"),
    (b"\xfd7zXZ", "compressed with xz: unpack it, and give what is inside"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it, and give the checkpoint that is inside"),
    (b"Rar!", "a RAR archive: unpack it, and give the checkpoint that is inside"),
    (b"\x89HDF", "HDF5 (Keras), not PyTorch: load it there and save a PyTorch state_dict"),
    (b"GGUF", "GGUF, whose weights are of another form: give a PyTorch or safetensors file"),
    (b"\x93NUMPY", "a NumPy array: save a state_dict with torch.save, or safetensors"),
)


def _other_format(path: Path, head: bytes) -> str | None:
    """Return what a file is that is no checkpoint, and what to do with it; None for any other."""
    for start, what in _FORMATS:
        if head.startswith(start):
            return what
    if path.suffix.lower() in (".onnx", ".tflite", ".pb", ".mlmodel", ".engine", ".trt"):
        return f"a {path.suffix.lower()} network of another runtime: give PyTorch's checkpoint"
    if head.startswith(b"PK\x03\x04"):
        names = _members(path)
        if names and all(name.endswith(".npy") for name in names):
            return "an .npz of NumPy arrays: save them with torch.save, or as safetensors"
        if names and not any(n.endswith(("data.pkl", "/version", "constants.pkl")) for n in names):
            some = ", ".join(names[:2])
            return f"a zip archive ({some}): unpack it, and give the checkpoint that is inside"
    return None


def _is_safetensors(head: bytes, size: int) -> bool:
    """Return whether a file of this size begins as safetensors: 8 bytes of length, then JSON."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") + 8 <= size


def _safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise IntegrityError(
            f"{path} is not a whole safetensors file ({_line(error)}): fetch it again"
        ) from error


def _members(path: Path) -> list[str]:
    """Return the names in a zip archive; none of one that is damaged, or of another file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except Exception:  # a damaged archive can raise anything; torch.load then says what it is
        return []


def _is_torchscript(path: Path) -> bool:
    return any(name.endswith("constants.pkl") for name in _members(path))


def _pickled(path: Path) -> tuple[Any, tuple[str, ...]]:
    stand_ins: dict[str, Any] = {}
    while True:
        try:
            with torch.serialization.safe_globals(
                [(inert, name) for name, inert in stand_ins.items()]
            ):
                return torch.load(path, map_location="cpu", weights_only=True), tuple(stand_ins)
        except pickle.UnpicklingError as error:
            name = _name_wanted(error)
            if name is None or name in stand_ins or len(stand_ins) == _MAX_NAMES:
                beside = f"; it also holds {', '.join(list(stand_ins)[:4])}" if stand_ins else ""
                raise IntegrityError(
                    f"{path} holds more than tensors, or is no checkpoint ({_line(error)}{beside})"
                    ": nothing was executed; save its state_dict alone, or as .safetensors"
                ) from error
            if name.split(".")[0] in _HOSTILE and name.removeprefix("builtins.") not in _FACTORIES:
                raise IntegrityError(
                    f"{path} calls {name}, which no checkpoint has a use for: nothing was "
                    "executed; delete it"
                ) from error
            stand_ins[name] = _stand_in(name)
        except Exception as error:
            # A damaged file can raise anything: KeyError, OverflowError, AssertionError, ...
            raise IntegrityError(
                f"{path} is not a whole PyTorch checkpoint ({_line(error)}): fetch it again"
            ) from error


def _stand_in(name: str) -> Any:
    if name == "collections.defaultdict":
        return lambda *_: {}  # filled item by item, which only a dict can be
    return type(name, (_Inert,), {})


def _name_wanted(error: pickle.UnpicklingError) -> str | None:
    """Return the dotted name that weights_only refused, None where it refused something else."""
    if named := re.search(r"unsupported GLOBAL (\S+) whose module", str(error)):
        return named[1]
    if named := re.search(r"GLOBAL (\S+) was not an allowed global", str(error)):
        return named[1] if "." in named[1] else f"builtins.{named[1]}"
    return None


def _line(error: BaseException) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    # What torch advises before it comes to the cause is for who trusts the file.
    cause = text.rpartition("WeightsUnpickler error: ")[2].partition("Check the documentation")[0]
    return " ".join(cause.split())[:160] or type(error).__name__
