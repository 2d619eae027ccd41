"""Publishing an artifact: validated, then one commit on a hub that appears whole or not at all."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.artifact.config import CONFIG, EVALUATION, MAX_BYTES, WEIGHTS, parse_config
from zoo.artifact.results import read_evaluation
from zoo.data.datasets import terms_of
from zoo.errors import GateError, IntegrityError, NetworkError, UsageError, ZooError
from zoo.files import git_blob, replaced_file
from zoo.hub import cache
from zoo.hub import client as hub
from zoo.models import registry
from zoo.models.measured import to_json
from zoo.progress import Progress
from zoo.render import card


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
    license: str | None = None,
    url: str | None = None,
    data_name: str | None = None,
    data_url: str | None = None,
    data_license: str | None = None,
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

    The artifact is run and its spike checksum compared first, and the card rendered from what was
    measured of it. What is on the hub with the same bytes is left as it is. A commit by somebody
    else in the meantime is never overwritten.

    Args:
        name: an artifact folder, a name of the zoo, or `org/name[@revision]` of a hub, as
            `zoo.load` takes it.
        repo: `org/name` of the repository to publish to; it is created if it does not exist.
        license, url: of the ANN, where config.json does not say them. In a folder of one's own they
            are kept, once everything is published.
        data_name, data_url, data_license: of the images that were measured on, where eval.json does
            not say them (`zoo.data.datasets.terms_of`); kept likewise.
        private: make the repository private, if it does not exist yet.
        tag: a name for the commit; one that stands for another commit is an error before anything
            is written.
        dry_run: stop before the hub is asked to publish anything.
        endpoint, token: of the hub to publish to.

    Raises:
        NotFoundError: there is no such model.
        IntegrityError: the artifact is not sound, or the hub holds other bytes than were sent.
        GateError, NotFoundError: the card would lack something; the message says what, all of it.
        NetworkError, AuthError, ZooError: as `zoo.hub.client.errors`; the repository then holds
            what it held, or all that is new.
    """
    if not hub.is_repo(repo):
        raise UsageError(f"{repo!r} cannot be the name of a repository: write it like org/name")
    if tag is not None and (not cache.REVISION.fullmatch(tag) or ".." in tag):
        raise UsageError(f"`tag={tag}` cannot be a tag: write it like v1")
    address = f"{hub.base(endpoint)}/{repo}"
    folder = registry.resolve(name, token=token if endpoint is None else None, progress=progress)
    stated = card.Statements(license, url, terms_of(data_name, data_url, data_license))
    payload = _payload(folder, stated, repo)
    files = {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in payload.items()}
    if dry_run:
        return Published(repo, address, None, tag, True, files, endpoint)
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
                        f"nothing is lost; look at {address} "
                        "and publish again"
                    ) from error
                commit = str(now.sha)
        else:
            commit = str(parent.sha)
        done("commit")
        there = hub.retried(lambda: client.model_info(repo, revision=commit, files_metadata=True))
        if wrong := _missing(there, payload):
            raise IntegrityError(
                f"{address} holds another {wrong[0]} than was sent: publish again, and do not use "
                f"{commit}"
            )
        if tag is not None:
            client.create_tag(repo, tag=tag, revision=commit, exist_ok=True)
        done("tag")
    if registry.entry(folder).origin == "folder":
        _keep(folder, payload)
    return Published(repo, address, commit, tag, not same, files, endpoint)


def _payload(folder: Path, stated: card.Statements, use: str) -> dict[str, bytes]:
    """Return the files to publish after every check; they are the bytes that were checked."""
    from zoo.artifact.folder import verify_artifact

    for check in verify_artifact(folder, deep=True):
        if not check.ok:
            raise IntegrityError(
                f"{folder} failed at {check.name} ({check.detail}): convert it again"
            )
    found = card.subject(folder, stated)
    payload = {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)}
    config = parse_config(payload[CONFIG], f"{folder}/{CONFIG}")
    if hashlib.sha256(payload[WEIGHTS]).hexdigest() != config.weights_sha256:
        raise IntegrityError(f"{folder}/{WEIGHTS} changed while it was read: publish again")
    if config != found.config:
        payload[CONFIG] = (found.config.model_dump_json(indent=2) + "\n").encode()
        size = len(payload[CONFIG]) + len(payload[WEIGHTS])
        found = found.model_copy(update={"artifact_bytes": size})
    text = card.render_card(found, use=use)
    payload[EVALUATION] = to_json(found).encode()
    if (folder / EVALUATION).is_file() and read_evaluation(folder) == found:
        payload[EVALUATION] = (folder / EVALUATION).read_bytes()
    for name, data in payload.items():
        if len(data) > MAX_BYTES[name]:
            raise GateError(
                f"{folder / name} has {len(data)} bytes, zoo pull takes {MAX_BYTES[name]} at most"
            )
    return payload | {"README.md": text.encode()}


def _keep(folder: Path, payload: Mapping[str, bytes]) -> None:
    """Write to a user's folder what was stated when it was published, so that it is asked once."""
    for name in (EVALUATION, CONFIG):
        if not (folder / name).is_file() or (folder / name).read_bytes() != payload[name]:
            with replaced_file(folder / name) as temporary:
                temporary.write_bytes(payload[name])


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
