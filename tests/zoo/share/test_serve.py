"""A hub of one's own: the real client against the real server.

And requests no client would send.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import (
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.zoo.share.serving import ID, REPO, SHIPPED, artifact, ask, process, serving
from tests.zoo.spiking_fixtures import files_of, refuses
from zoo.artifact.config import FILES
from zoo.errors import IntegrityError, NotFoundError, UsageError
from zoo.networks.spiking import SpikingResNet
from zoo.share import serve
from zoo.share.folder import BLOCK, Folder
from zoo.share.mirror import mirror

SECRET = b"nobody may read this"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror of the shipped model, a model of random bytes, and much that must not be served."""
    place = tmp_path_factory.mktemp("served")
    folder = place / "hub"
    mirror(folder, ["s-resnet20-digits"])
    artifact(folder / "lab" / "bytes", 3 * BLOCK + 12_345)
    (folder / "lab" / "bytes" / "README.md").write_text("# Bytes\n")
    for hidden in (
        "secret.txt",
        "hub/secret.txt",
        "hub/lab/secret.txt",
        "hub/lab/bytes/secret.txt",
        "hub/lab/bytes/.env",
    ):
        (place / hidden).write_bytes(SECRET)
    for name in ("outside", "hub/.hidden/bytes", "hub/lab/.hidden"):
        artifact(place / name, 10)
        (place / name / "model.safetensors").write_bytes(SECRET)
    (folder / "lab" / "linked").symlink_to(place / "outside")
    (folder / "linked").symlink_to(folder / "lab")
    artifact(folder / "lab" / "inner", 10)
    (folder / "lab" / "inner" / "README.md").symlink_to(place / "secret.txt")
    artifact(folder / "lab" / "pipe", 10)
    (folder / "lab" / "pipe" / "model.safetensors").unlink()
    os.mkfifo(folder / "lab" / "pipe" / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def url(root: Path) -> Iterator[str]:
    with serving(Folder(root)) as address:
        yield address


def test_the_real_client_downloads(url: str, tmp_path: Path) -> None:
    place = Path(huggingface_hub.snapshot_download(ID, endpoint=url, cache_dir=tmp_path))
    assert files_of(place) == files_of(SHIPPED)
    found = huggingface_hub.hf_hub_download(
        ID, "config.json", endpoint=url, cache_dir=tmp_path / "other"
    )
    assert Path(found).read_bytes() == (SHIPPED / "config.json").read_bytes()
    api = huggingface_hub.HfApi(endpoint=url)
    assert not api.verify_repo_checksums(ID, cache_dir=tmp_path).mismatches
    for error, name, file, revision in (
        (RemoteEntryNotFoundError, ID, "README.md", None),
        (RepositoryNotFoundError, "spiking-zoo/none", "config.json", None),
        (RevisionNotFoundError, ID, "config.json", "v1.0"),
    ):
        with pytest.raises(error):
            huggingface_hub.hf_hub_download(
                name, file, revision=revision, endpoint=url, cache_dir=tmp_path
            )


def test_the_real_client_looks_around(url: str) -> None:
    api = huggingface_hub.HfApi(endpoint=url)
    assert sorted(model.id for model in api.list_models()) == ["lab/bytes", "lab/inner", ID]
    assert [model.id for model in api.list_models(author="lab", search="BYTE")] == ["lab/bytes"]
    assert [
        model.id
        for model in api.list_models(filter=["spiking-zoo", "resnet20"], author="spiking-zoo")
    ] == [ID]
    assert not list(api.list_models(filter="resnet50")) and len(list(api.list_models(limit=2))) == 2
    info = api.model_info(ID, files_metadata=True)
    weights = (SHIPPED / "model.safetensors").read_bytes()
    assert info.siblings is not None and info.sha is not None
    large = next(file for file in info.siblings if file.rfilename == "model.safetensors")
    assert large.lfs is not None and (large.size, large.lfs.sha256) == (
        len(weights),
        hashlib.sha256(weights).hexdigest(),
    )
    assert (
        api.model_info(ID, revision=info.sha).sha
        == api.list_repo_refs(ID).branches[0].target_commit
        == info.sha
    )
    assert sorted(api.list_repo_files(ID)) == sorted(path.name for path in SHIPPED.iterdir())
    assert api.get_safetensors_metadata(ID).parameter_count["I8"] == 268_048
    assert api.file_exists(ID, "eval.json") and not api.repo_exists("lab/linked")


def test_as_a_client_with_nothing_but_HF_ENDPOINT(root: Path, tmp_path: Path) -> None:
    """xet is on by default there; then Ctrl-C."""
    with process(root) as (running, address):
        code = (
            "from huggingface_hub import constants, snapshot_download\n"
            f"print(constants.HF_HUB_DISABLE_XET, snapshot_download({ID!r}))"
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        home = kept | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=home,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout.startswith("False ") and files_of(
            Path(done.stdout.split()[1])
        ) == files_of(SHIPPED)
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 130
        assert running.stderr is not None
        said = running.stderr.read()
        assert (
            "3 artifacts" in said
            and said.rstrip().endswith("interrupted")
            and "Traceback" not in said
        )


def test_from_pretrained_and_mirror_over_it_then_without_it(root: Path, tmp_path: Path) -> None:
    code = f"""
import sys, torch
from zoo.errors import ZooError
from zoo.networks.spiking import SpikingResNet
for revision, local in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        only = local == "local"
        net = SpikingResNet.from_pretrained(
            {ID!r}, revision=revision, local_files_only=only, token="hf_x"
        )
        print(net(torch.full((1, 1, 8, 8), 100, dtype=torch.uint8), timesteps=4).tolist())
    except ZooError as error:
        print(type(error).__name__)
"""
    network = SpikingResNet.from_pretrained(SHIPPED)
    wanted = str(network(torch.full((1, 1, 8, 8), 100, dtype=torch.uint8), timesteps=4).tolist())
    commit = Folder(root).look(*ID.split("/"))[0].commit
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    home = kept | {"HF_HOME": str(tmp_path), "PYTHONPATH": str(REPO)}

    def child(*words: str) -> list[str]:
        line = [sys.executable, "-c", code, *words]
        done = subprocess.run(
            line, env=home, capture_output=True, text=True, timeout=120, check=True
        )
        return done.stdout.splitlines()

    with process(root) as (_, address):
        home["HF_ENDPOINT"] = address
        found = child(commit, "local", "0" * 40, "hub", commit, "hub")
        assert found == ["NetworkError", "NotFoundError", wanted]
        line = [
            sys.executable,
            "-m",
            "zoo",
            "mirror",
            str(tmp_path / "second"),
            f"{ID}@{commit}",
            "lab/bytes",
        ]
        done = subprocess.run(line, env=home, capture_output=True, text=True, timeout=120)
        assert done.returncode == 5 and "lab--bytes" in done.stderr  # random bytes are no network
        assert files_of(tmp_path / "second" / ID) == files_of(SHIPPED)
        assert Folder(tmp_path / "second").look(*ID.split("/"))[0].commit == commit
    assert child(commit, "local") == [wanted]


def test_head_and_conditions(url: str) -> None:
    path = f"/{ID}/resolve/main/model.safetensors"
    status, head, body = ask(url, path, "HEAD")
    weights = (SHIPPED / "model.safetensors").read_bytes()
    assert (status, body, head["content-length"]) == (200, b"", str(len(weights)))
    assert head["etag"] == f'"{hashlib.sha256(weights).hexdigest()}"' == head["x-linked-etag"]
    assert len(head["x-repo-commit"]) == 40 and not {"x-xet-hash", "link", "location"} & head.keys()
    text = (SHIPPED / "config.json").read_bytes()
    small = ask(url, f"/{ID}/resolve/{head['x-repo-commit']}/config.json")
    assert (
        small[2] == text
        and small[1]["etag"]
        == f'"{hashlib.sha1(b"blob %d" % len(text) + bytes(1) + text).hexdigest()}"'
    )
    for tag in (head["etag"], f'"x", W/{head["etag"]}', "*"):
        assert ask(url, path, If_None_Match=tag)[::2] == (304, b"")
    assert ask(url, path, If_None_Match='"x"')[::2] == (200, weights)
    assert ask(url, path, Range="bytes=1-2", If_Range=head["etag"])[::2] == (206, weights[1:3])
    assert ask(url, path, Range="bytes=1-2", If_Range='"x"')[::2] == (200, weights)
    missing = ask(url, f"/{ID}/resolve/main/README.md")
    assert (missing[0], missing[1]["x-error-code"]) == (404, "EntryNotFound")
    assert (
        ask(url, f"/{ID}/resolve/{'0' * 40}/config.json")[1]["x-error-code"] == "RevisionNotFound"
    )
    assert ask(url, "/lab/none/resolve/main/config.json")[1]["x-error-code"] == "RepoNotFound"
    assert (
        ask(url, path, "POST")[0]
        == ask(url, path, "DELETE")[0]
        == ask(url, "/api/models", "PUT")[0]
        == 405
    )


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_range_is_that_slice(url: str, root: Path, data: st.DataObject) -> None:
    weights = (root / "lab/bytes/model.safetensors").read_bytes()
    near = [
        0,
        1,
        BLOCK - 1,
        BLOCK,
        BLOCK + 1,
        2 * BLOCK,
        len(weights) - 1,
        len(weights),
        10**17,
    ]
    place = st.sampled_from(near) | st.integers(0, len(weights) + 5)
    form = data.draw(st.sampled_from(["{0}-{1}", "{0}-", "-{0}"]))
    first, last = data.draw(place), data.draw(place)
    status, head, body = ask(
        url, "/lab/bytes/resolve/main/model.safetensors", Range="bytes=" + form.format(first, last)
    )
    wanted = {"{0}-{1}": weights[first : last + 1], "{0}-": weights[first:]}.get(
        form, weights[-first:] if first else b""
    )
    if form == "{0}-{1}" and last < first:
        assert (status, body) == (200, weights)  # not a range at all
    elif not wanted:
        assert (status, body, head["content-range"]) == (416, b"", f"bytes */{len(weights)}")
    else:
        begin = len(weights) - len(wanted) if form == "-{0}" else first
        assert (status, body == wanted) == (206, True)
        assert head["content-range"] == f"bytes {begin}-{begin + len(wanted) - 1}/{len(weights)}"
        assert head["content-length"] == str(len(wanted))


@pytest.mark.parametrize(
    "header",
    ["bytes=a-b", "bytes=-", "lines=1-2", "bytes=1-2,4-5", f"bytes={'9' * 5000}-", "bytes=٣-٤"],
)
def test_what_is_no_range_gives_the_whole_file(header: str) -> None:
    assert serve.byte_range(header, 100) is None


_PIECES = st.sampled_from(
    [
        "..",
        ".",
        "",
        "%2e%2e",
        "%2e",
        "..%2f",
        "%2f",
        "%5c..",
        "\\",
        "%00",
        "%0d%0a",
        "%",
        "%ff",
        ".env",
        ".hidden",
        "secret.txt",
        "lab",
        "bytes",
        "linked",
        "inner",
        "spiking-zoo",
        "api",
        "models",
        "resolve",
        "tree",
        "revision",
        "main",
        "config.json",
        "model.safetensors",
        "README.md",
        "%2e%2e%2f%2e%2e%2fsecret.txt",
        "etc",
        "passwd",
        "config.json%00",
        "model.safetensors/",
        "~",
        "file:",
        "CON",
        "config.json ",
        "bytes%2f..%2fbytes",
    ]
)
_ANY = _PIECES | st.text(max_size=8).map(lambda text: quote(text, safe=""))
_REQUESTS = (
    st.lists(_ANY, max_size=12).map(lambda parts: "/" + "/".join(parts))
    | st.lists(_PIECES, max_size=6).map(lambda parts: "/lab/bytes/resolve/main/" + "/".join(parts))
    | st.lists(_PIECES, max_size=4).map(
        lambda parts: "/" + "/".join(parts) + "/resolve/main/model.safetensors"
    )
    | st.lists(_PIECES, max_size=4).map(lambda parts: "/api/models/" + "/".join(parts))
)


@settings(max_examples=400, deadline=None)
@given(_REQUESTS)
def test_no_path_leaves_the_folder(url: str, path: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    try:
        connection._validate_path = lambda url: None  # type: ignore[attr-defined]
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    assert answer.status in (200, 400, 404), (path, answer.status)
    assert (
        SECRET not in body
        and b"root:" not in body
        and b"hidden" not in body
        and b"secret" not in body
    )
    if answer.status == 200 and "/resolve/" in path:
        assert path.rpartition("/")[2] in FILES, path


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=20) | _PIECES, st.text(max_size=20) | _PIECES, st.text(max_size=20) | _PIECES
)
def test_no_name_leaves_the_folder(root: Path, org: str, name: str, want: str) -> None:
    folder = Folder(root)
    try:
        snapshot, file = folder.look(org, name, want)
    except (NotFoundError, IntegrityError):
        return
    if file is not None:
        file.close()
    assert snapshot.id in ("lab/bytes", "lab/inner", ID) and (
        file is None or want in snapshot.files
    )


@pytest.mark.parametrize(
    "name",
    [
        "lab/linked",
        "linked/bytes",
        "lab/pipe",
        "lab/.hidden",
        ".hidden/bytes",
        "lab",
        "lab/bytes/..",
        "lab/../lab",
    ],
)
def test_links_pipes_and_hidden_folders_are_not_there(url: str, name: str) -> None:
    for path in (f"/{name}/resolve/main/model.safetensors", f"/api/models/{name}"):
        assert ask(url, path)[0] == 404
    for hidden in (
        "inner/resolve/main/README.md",
        "bytes/resolve/main/secret.txt",
        "bytes/resolve/main/.env",
    ):
        assert ask(url, f"/lab/{hidden}")[0] == 404
    assert ask(url, "/lab/inner/resolve/main/config.json")[0] == 200


def test_a_folder_of_artifacts_with_a_name(tmp_path: Path) -> None:
    weights = artifact(tmp_path / "net", 1000)
    with serving(Folder(tmp_path, "my-lab")) as address:
        assert [row["id"] for row in json.loads(ask(address, "/api/models")[2])] == ["my-lab/net"]
        assert ask(address, "/my-lab/net/resolve/main/model.safetensors")[2] == weights
        assert ask(address, "/lab/net/resolve/main/model.safetensors")[0] == 404
    with refuses(UsageError):
        Folder(tmp_path, "../lab")
    with refuses(NotFoundError):
        Folder(tmp_path / "nothing")


def test_refusals_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken, refuses(UsageError, "cannot listen"):
        serve.serve(folder, "127.0.0.1", taken.getsockname()[1], ready=print)
    with refuses(UsageError, "cannot listen"):
        serve.serve(folder, "no such host", 0, ready=print)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with refuses(UsageError, r"pip install 'spiking-zoo\[serve\]'"):
        serve.serve(folder, "127.0.0.1", 0, ready=print)
