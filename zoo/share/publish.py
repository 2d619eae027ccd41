"""Publishing an artifact: validated, then one commit on a hub that appears whole or not at all."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.artifact.config import CONFIG, MAX_BYTES, WEIGHTS, parse_config
from zoo.errors import GateError, IntegrityError, NetworkError, UsageError, ZooError
from zoo.files import git_blob
from zoo.hub import cache
from zoo.hub import client as hub
from zoo.models import registry
from zoo.progress import Progress


@dataclass(frozen=True)
class Published:
    """The state of the hub afterwards, or as a dry run foresees it.

    `committed` is false when the same bytes were there already.
    """

    repo: str
    url: str
    commit: str | None
    tag: str | None
    committed: bool
    files: dict[str, tuple[int, str]]
    endpoint: str | None = None

    @property
    def pull(self) -> str:
        """Command that pulls exactly these files again."""
        where = [] if self.endpoint is None else ["--endpoint", self.endpoint]
        return shlex.join(
            ["zoo", "pull", f"{self.repo}@{self.commit or self.tag or 'COMMIT'}", *where]
        )


def publish(
    name: str | Path,
    repo: str,
    *,
    private: bool = False,
    tag: str | None = None,
    message: str | None = None,
    dry_run: bool = False,
    endpoint: str | None = None,
    token: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> Published:
    """Publish an artifact and its card on a hub, in one commit.

    The artifact is run and its spike checksum compared first, and the card rendered from its
    eval.json. What is on the hub with the same bytes is left as it is. A commit by somebody else in
    the meantime is never overwritten.

    Args:
        name: an artifact folder, a name of the zoo, or `org/name[@revision]` of a hub, as
            `zoo.load` takes it.
        repo: `org/name` of the repository to publish to; it is created if it does not exist.
        private: make the repository private, if it does not exist yet.
        tag: a name for the commit; one that stands for another commit is an error before anything
            is written.
        dry_run: stop before the hub is asked to publish anything.
        endpoint, token: of the hub to publish to.

    Raises:
        NotFoundError: there is no such model.
        IntegrityError: the artifact is not sound, or the hub holds other bytes than were sent.
        GateError, NotFoundError: the card would lack something; the message says what.
        NetworkError, AuthError, ZooError: as `zoo.hub.client.errors`; the repository then holds
            what it held, or all that is new.
    """
    if not hub.is_repo(repo):
        raise UsageError(f"{repo!r} cannot be the name of a repository: write it like org/name")
    if tag is not None and (not cache.REVISION.fullmatch(tag) or ".." in tag):
        raise UsageError(f"`tag={tag}` cannot be a tag: write it like v1")
    url = f"{hub.base(endpoint)}/{repo}"
    folder = registry.resolve(name, token=token if endpoint is None else None, progress=progress)
    payload = _payload(folder)
    files = {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in payload.items()}
    if dry_run:
        return Published(repo, url, None, tag, True, files, endpoint)
    if hub.is_offline(offline):
        raise NetworkError(f"{repo} cannot be published offline: unset HF_HUB_OFFLINE")

    client = hub.api(endpoint, token)
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.errors import HfHubHTTPError

    steps = ("repository", "files", "commit", "tag")

    def done(step: str) -> None:
        if progress is not None:
            progress("publishing", steps.index(step) + 1, len(steps))

    with hub.errors(repo, endpoint):
        client.create_repo(repo, private=private or None, exist_ok=True)
        done("repository")
        parent = hub.retried(lambda: client.model_info(repo, files_metadata=True))
        same = _missing(parent, payload) == []
        _check_tag(client, repo, tag, parent.sha if same else None)
        if not same:
            operations = [CommitOperationAdd(name, data) for name, data in payload.items()]
            client.preupload_lfs_files(repo, operations)
            done("files")
            title = message or f"Publish {cache.name_of(folder)}"
            try:
                commit = str(
                    client.create_commit(
                        repo, operations, commit_message=title, parent_commit=parent.sha
                    ).oid
                )
            except HfHubHTTPError as error:
                if error.response.status_code != 412:
                    raise
                now = client.model_info(
                    repo, files_metadata=True
                )  # the client may have sent it twice, the answer to one lost
                if _missing(now, payload):
                    raise ZooError(
                        f"{repo} got another commit in the meantime: nothing was published and "
                        f"nothing is lost; look at {url} "
                        "and publish again"
                    ) from error
                commit = str(now.sha)
        else:
            commit = str(parent.sha)
        done("commit")
        there = hub.retried(lambda: client.model_info(repo, revision=commit, files_metadata=True))
        if wrong := _missing(there, payload):
            raise IntegrityError(
                f"{url} holds another {wrong[0]} than was sent: publish again, and do not use "
                f"{commit}"
            )
        if tag is not None:
            client.create_tag(repo, tag=tag, revision=commit, exist_ok=True)
        done("tag")
    return Published(repo, url, commit, tag, not same, files, endpoint)


def _payload(folder: Path) -> dict[str, bytes]:
    """Return the files to publish after every check; they are the bytes that were checked."""
    from zoo.artifact.folder import verify_artifact
    from zoo.render import card

    for check in verify_artifact(folder, deep=True):
        if not check.ok:
            raise IntegrityError(
                f"{folder} failed at {check.name} ({check.detail}): convert it again"
            )
    text = card.for_folder(folder)
    payload = {name: (folder / name).read_bytes() for name in (CONFIG, "eval.json", WEIGHTS)}
    config = parse_config(payload[CONFIG], f"{folder}/{CONFIG}")
    if hashlib.sha256(payload[WEIGHTS]).hexdigest() != config.weights_sha256:
        raise IntegrityError(f"{folder}/{WEIGHTS} changed while it was read: publish again")
    for name, data in payload.items():
        if len(data) > MAX_BYTES[name]:
            raise GateError(
                f"{folder / name} has {len(data)} bytes, zoo pull takes {MAX_BYTES[name]} at most"
            )
    return payload | {"README.md": text.encode()}


def _missing(info: Any, payload: Mapping[str, bytes]) -> list[str]:
    """Return the files that the hub does not have with these bytes."""
    have = {file.rfilename: file for file in info.siblings or []}
    wrong = []
    for name, data in payload.items():
        file = have.get(name)
        large = getattr(file, "lfs", None)
        same = (
            large.sha256 == hashlib.sha256(data).hexdigest()
            if large
            else getattr(file, "blob_id", None) == git_blob(len(data), data).hexdigest()
        )
        if file is None or not same:
            wrong.append(name)
    return wrong


def _check_tag(client: Any, repo: str, tag: str | None, commit: str | None) -> None:
    """Raise UsageError if a tag stands for another commit, before anything is written."""
    from huggingface_hub.errors import RevisionNotFoundError

    if tag is None:
        return
    try:
        taken = client.model_info(repo, revision=tag).sha
    except RevisionNotFoundError:
        return
    if taken != commit:
        raise UsageError(
            f"`tag={tag}` is {str(taken)[:12]} of {repo} already: choose another; nothing was "
            "published"
        )
