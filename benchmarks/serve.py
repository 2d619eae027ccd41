"""Many clients pull one artifact from `zoo serve` at once: errors, seconds, memory.

    python -m benchmarks.serve [--clients 64] [--megabytes 50] [--out FILE.json]

Each client is huggingface_hub's snapshot_download as it comes (xet on) into a cache of its own, and
checks every byte; a quarter of them runs in each of four processes. The server runs in a process of
its own, on loopback, and has hashed the artifact before. Its bound: a block of 256 KiB and a write
buffer for each download, whatever the artifact's size.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PROCESSES = 4


def make_artifact(folder: Path, size: int) -> str:
    """Write random weights and a config that states their hash; return the hash."""
    from zoo.models import registry

    folder.mkdir(parents=True)
    weights = hashlib.shake_256(b"weights").digest(size)
    sha256 = hashlib.sha256(weights).hexdigest()
    config = json.loads((registry.resolve("s-resnet20-digits") / "config.json").read_text()) | {
        "weights_sha256": sha256
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(weights)
    return sha256


def pull(url: str, sha256: str, threads: int) -> list[str]:
    """Downloads in `threads` threads that start together; what went wrong in each, if anything."""
    from huggingface_hub import snapshot_download

    start = threading.Barrier(threads)

    def one(_: int) -> str:
        with tempfile.TemporaryDirectory() as cache:
            start.wait()
            try:
                place = Path(snapshot_download("lab/net", endpoint=url, cache_dir=cache))
                with open(place / "model.safetensors", "rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except Exception as error:  # each counts as one failed client
                return f"{type(error).__name__}: {str(error)[:200]}"
        return "" if found == sha256 else "other bytes"

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, range(threads)))


def peak_kilobytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--out", type=Path, default=RESULTS / "serve.json")
    args = parser.parse_args()
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    size = args.megabytes * 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        sha256 = make_artifact(Path(folder) / "lab" / "net", size)
        line = [sys.executable, "-m", "zoo", "serve", folder, "--port", "0", "-q"]
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            idle = peak_kilobytes(server.pid)
            started = time.perf_counter()
            with ProcessPoolExecutor(PROCESSES) as pool:
                share = [args.clients // PROCESSES] * PROCESSES
                rows = pool.map(pull, [url] * PROCESSES, [sha256] * PROCESSES, share)
                outcomes = [outcome for row in rows for outcome in row]
            seconds = time.perf_counter() - started
            peak = peak_kilobytes(server.pid)
            server.terminate()
    errors = [outcome for outcome in outcomes if outcome]
    facts = {
        "command": f"python -m benchmarks.serve --clients {args.clients} --megabytes "
        f"{args.megabytes}",
        "clients": len(outcomes),
        "artifact_bytes": size,
        "total_bytes": size * len(outcomes),
        "seconds": round(seconds, 2),
        "megabytes_per_second": round(size * len(outcomes) / seconds / 1e6, 1),
        "errors": errors,
        "server_idle_rss_kilobytes": idle,
        "server_peak_rss_kilobytes": peak,
        "cores": os.cpu_count(),
        "versions": {
            name: version(name) for name in ("huggingface-hub", "hf-xet", "starlette", "uvicorn")
        },
    }
    args.out.write_text(json.dumps(facts, indent=2) + "\n")
    print(json.dumps(facts, indent=2))
    if errors:
        sys.exit(1)


if __name__ == "__main__":
    main()
