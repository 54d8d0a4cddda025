"""Drills: short runs of BPO whose parts are killed at random, until so many kills have been had;
what is lost, repeated, changed.

Every run is audited, and at staleness 0 its final weights are compared, byte for byte, with those
of an undisturbed run. Driver and learner are hit once a start, workers again and again. A run that
was killed goes on by the same command.

    python benchmarks/drills.py kill-rollout=100 kill-learner=15 kill-driver=15
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.chaos import ONCE

REPO = Path(__file__).resolve().parents[1]
STEPS, GROUPS = 40, 8
WORKERS = 4  # where workers are hit; one where learner or driver are
RECIPE = f"""name = "drill"
stages = ["curate", "bpo"]
[curate]
train = 12
rl = 40
eval = 6
tag_rows = 6
[[curate.sources]]
family = "digits"
[curate.rollouts]
n = 1
max_tokens = 8
[bpo]
steps = {STEPS}
prompts_per_step = {GROUPS}
group_size = 8
max_tokens = 64
checkpoint_every = 1
lease = 2
learner_restarts = 20
worker_timeout_s = 20
sync_timeout_s = 20
[cluster]
num_cpus = {WORKERS + 2}
"""
EVERY_S = {  # on average, between two hits
    "kill-rollout": 4.0,
    "stall-rollout": 10.0,
    "corrupt-weights": 5.0,
    "slow-sync": 10.0,
    "kill-learner": 30.0,
    "kill-driver": 15.0,
}


@dataclass(slots=True)
class Tally:
    """Of one kind of damage."""

    kind: str
    hits: int = 0
    with_lease: int = 0  # of rollout workers that were at work; others were loading or idle
    runs: int = 0
    starts: int = 0
    lost: int = 0  # groups started and in no end at the end of a run
    audits_failed: int = 0
    weights_differ: int = 0
    seconds: float = 0.0


@contextmanager
def command(
    words: list[str], log: Path, kill_after_s: float | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A command of `bimode`, killed after so many seconds; what it leaves behind when it is killed
    is ended too.
    """
    import psutil

    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=REPO, stdout=file, stderr=file
        )
    tree: dict[int, Any] = {}
    began = time.monotonic()
    try:
        while process.poll() is None:
            if kill_after_s is not None and time.monotonic() - began > kill_after_s:
                process.kill()
            try:
                tree |= {
                    child.pid: child
                    for child in psutil.Process(process.pid).children(recursive=True)
                }
            except psutil.NoSuchProcess:
                break
            time.sleep(0.2)
        yield process
    finally:
        for child in tree.values():
            if child.is_running():
                child.kill()
        psutil.wait_procs(list(tree.values()), 20)


def ray_was_late(log: Path) -> bool:
    """Whether the run came to nothing because Ray did not start within its 30 s, which a loaded
    machine may take.
    """
    return "node timed out during startup" in log.read_text()[-2000:]


def run(folder: Path, data: Path, recipe: Path, tally: Tally, seed: int) -> int:
    """One run to its end, however often it has to be started; returns the next seed."""
    (folder / "curate").parent.mkdir(parents=True)
    shutil.copytree(data, folder, dirs_exist_ok=True)
    log, began = folder / "log.txt", time.monotonic()
    while True:
        words = ["pipelines.bpo", str(recipe), "--out", str(folder)]
        if tally.kind:
            words += ["--set", f"cluster.chaos={tally.kind}", "--set", f"cluster.chaos_seed={seed}"]
            words += ["--set", f"cluster.chaos_every_s={EVERY_S[tally.kind]}"]
            words += ["--set", f"bpo.rollout_workers={1 if tally.kind in ONCE else WORKERS}"]
        seed += 1
        tally.starts += 1
        with command(words, log) as process:
            code = process.wait()
        if code == 0:
            break
        if code != -9 and not ray_was_late(log):
            raise SystemExit(
                f"error: a run ended with code {code}; see its end:\n{log.read_text()[-2000:]}"
            )
    tally.runs += 1
    said = log.read_text()
    tally.hits += len(re.findall(r"^chaos: ", said, re.MULTILINE))
    tally.with_lease += len(re.findall(r"; its \d+ questions", said))
    tally.seconds += time.monotonic() - began
    return seed


def judge(folder: Path, whole: bytes, tally: Tally) -> None:
    """Audits a run, counts what it lost, compares its weights."""
    with command(["pipelines", "audit", str(folder)], folder / "audit.txt") as process:
        tally.audits_failed += process.wait() != 0
    counts = json.loads((folder / "bpo" / "manifest.json").read_text())["counts"]
    tally.lost += (
        STEPS * GROUPS
        - counts["trained"]
        + counts["pending"]
        + counts["leased"]
        + counts["generated"]
    )
    tally.weights_differ += weights(folder) != whole


def weights(folder: Path) -> bytes:
    return (folder / "bpo" / "model" / "model.safetensors").read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    wanted = [f"{kind}=1" for kind in EVERY_S]
    parser.add_argument(
        "hits",
        nargs="*",
        metavar="KIND=N",
        default=wanted,
        help=f"so many at least (default: {' '.join(wanted)})",
    )
    found = [word.partition("=") for word in parser.parse_args().hits]
    for kind, _, count in found:
        if kind not in EVERY_S or not count.isdigit():
            parser.error(f"{kind}={count}: write KIND=N, where KIND is one of {', '.join(EVERY_S)}")
    with TemporaryDirectory() as name:
        folder = Path(name)
        recipe = folder / "drill.toml"
        recipe.write_text(RECIPE)
        with command(
            ["pipelines.curate", str(recipe), "--out", str(folder / "data")], folder / "curate.txt"
        ) as process:
            if process.wait():
                raise SystemExit(
                    f"error: curation failed:\n{(folder / 'curate.txt').read_text()[-2000:]}"
                )
        run(folder / "whole", folder / "data", recipe, Tally(""), 0)
        whole, tallies, seed = weights(folder / "whole"), [], 0
        for kind, _, count in found:
            tally = Tally(kind)
            while tally.hits < int(count):
                place = folder / f"{kind}-{tally.runs}"
                seed = run(place, folder / "data", recipe, tally, seed)
                judge(place, whole, tally)
                shutil.rmtree(place)
                print(tally, flush=True)
            tallies.append(tally)
    print(json.dumps({"name": "drills", "runs": [asdict(tally) for tally in tallies]}))


if __name__ == "__main__":
    main()
