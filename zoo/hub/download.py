"""One file of a repository into the hub client's own cache, its bytes checked."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import IntegrityError, NetworkError, UsageError
from zoo.files import git_blob
from zoo.progress import Progress

if TYPE_CHECKING:
    pass
from zoo.hub.client import (
    AGENT,
    COMMIT,
    base,
    errors,
    is_offline,
    is_repo,
    raise_zoo_error,
    retried,
    token_for,
)

_ETAG = re.compile(
    r"[0-9a-f]{40}|[0-9a-f]{64}"
)  # git's sha1 of a small file, the sha256 of a large one


def fetch_file(
    repo_id: str,
    path: str,
    *,
    revision: str,
    repo_type: str = "model",
    sha256: str | None = None,
    endpoint: str | None = None,
    offline: bool = False,
    token: str | None = None,
    progress: Progress | None = None,
    limit: int | None = None,
    force: bool = False,
) -> Path:
    """Return the path of a file of a repository in the client's cache, its bytes checked.

    With a full commit hash as revision and the file in the cache nothing is asked of the hub. A
    branch or tag is looked up each time; when that fails for the network, the copy of the last
    look-up serves.

    Args:
        path: the file inside the repository.
        revision: a commit, tag or branch.
        sha256: what the file must have. The hash the hub stores it under is checked in any case.
        offline: the cache alone.
        token: of the user for this hub; without it see the module.
        progress: called with (file name, bytes done, bytes in all).
        limit: most bytes the file may have; more are never written.
        force: fetch it again.

    Raises:
        NetworkError, NotFoundError, AuthError, ZooError: see `errors`.
        IntegrityError: the file is not what it should be or is larger than `limit`; it was removed
            from the cache.
    """
    from huggingface_hub import (
        constants,
        get_hf_file_metadata,
        hf_hub_download,
        hf_hub_url,
        try_to_load_from_cache,
    )

    what = f"{repo_id}/{path}"
    if not is_repo(repo_id):
        raise UsageError(f"{repo_id!r} cannot be the name of a repository: write it like org/name")
    where: dict[str, Any] = {"repo_type": repo_type, "revision": revision}
    credentials, host = token_for(endpoint, token), base(endpoint)

    def look_up() -> None:
        # The client names cache files after what the hub says: a hostile one must not choose a path
        # with it.
        url = hf_hub_url(repo_id, path, endpoint=host, **where)
        found = get_hf_file_metadata(
            url, token=credentials, endpoint=host, timeout=constants.HF_HUB_ETAG_TIMEOUT, **AGENT
        )
        commit = found.commit_hash or ""
        if not _ETAG.fullmatch(found.etag or "") or not COMMIT.fullmatch(commit):
            raise ValueError("no commit or no hash of the file")
        if COMMIT.fullmatch(revision) and commit != revision:
            raise IntegrityError(
                f"{host} answered with commit {commit} when asked for {what} at {revision}: do not "
                "use it"
            )
        if limit is not None and (found.size or 0) > limit:
            raise IntegrityError(
                f"{what} has {found.size} bytes, at most {limit} are right: do not use it"
            )

    def get(local: bool) -> Path:
        if not local:
            look_up()
        return Path(
            hf_hub_download(
                repo_id,
                path,
                endpoint=host,
                token=credentials,
                local_files_only=local,
                force_download=force and not local,
                etag_timeout=constants.HF_HUB_ETAG_TIMEOUT,
                tqdm_class=_bar(path, progress, limit, what),
                **where,
                **AGENT,
            )
        )

    with errors(what, endpoint):
        at_hand = None if force else try_to_load_from_cache(repo_id, path, **where)
        cached = isinstance(at_hand, str)
        if is_offline(offline) or (cached and COMMIT.fullmatch(revision)):
            file = get(local=True)
        else:
            try:
                file = retried(lambda: get(local=False))
            except Exception as error:
                if not cached or not isinstance(_as_zoo(error, what, host), NetworkError):
                    raise
                file = get(local=True)
    problem = check_cached(file, sha256)
    if problem is None:
        return file
    drop_cached(file)
    if cached and not is_offline(
        offline
    ):  # a copy that decayed on the disk: once more, from the hub
        return fetch_file(
            repo_id,
            path,
            sha256=sha256,
            endpoint=endpoint,
            token=token,
            progress=progress,
            limit=limit,
            **where,
        )
    raise IntegrityError(f"{what} {problem}; it was removed from the cache: pull it again")


def _as_zoo(error: Exception, what: str, host: str) -> Exception:
    try:
        raise_zoo_error(error, what, host)
    except Exception as found:
        return found


def _bar(path: str, progress: Progress | None, limit: int | None, what: str) -> Any:
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        """Progress of a download: passed on, not drawn; ends a download that is too large."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.seen, self.whole = kwargs.get("initial") or 0, kwargs.get("total") or 0
            super().__init__(*args, **(kwargs | {"disable": True}))

        def update(self, n: float | None = 1) -> None:
            self.seen += int(n or 0)
            if limit is not None and self.seen > limit:
                raise IntegrityError(
                    f"{what} has more than {limit} bytes, the most that are right: nothing of it "
                    "was kept"
                )
            if progress is not None:
                progress(path, min(self.seen, self.whole or self.seen), self.whole or self.seen)

    return Bar


def check_cached(file: Path, sha256: str | None = None) -> str | None:
    """Return what is wrong with a file of the cache, or None.

    It is compared with `sha256`, and with the hash that it is stored under, where that is seen.
    """
    digest, size = hashlib.sha256(), file.stat().st_size
    git = git_blob(size)
    with open(file, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
            git.update(chunk)
    stored = file.readlink().name if file.is_symlink() else ""
    if sha256 is not None and digest.hexdigest() != sha256:
        return f"has sha256 {digest.hexdigest()}, it should be {sha256}"
    if _ETAG.fullmatch(stored) and stored not in (digest.hexdigest(), git.hexdigest()):
        return f"does not match the hash {stored[:12]} that the hub has it under"
    return None


def drop_cached(file: Path) -> None:
    """Removes a file from the cache, with the blob that it points to."""
    for _ in range(4):  # snapshot -> blob -> the store that repositories share
        target = file.parent / file.readlink() if file.is_symlink() else None
        file.unlink(missing_ok=True)
        if target is None:
            break
        file = target
