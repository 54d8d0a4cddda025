"""One variant, one seed: BPO and evaluation on a copy of the annealed run, each as its own process."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

VARIANTS = Path(__file__).with_name("variants.toml")
KEPT = ("manifest.json", "curate", "anneal/model", "anneal/manifest.json")  # what a copy needs of the annealed run


@dataclass(frozen=True, slots=True)
class Variant:
    """An algorithm as a recipe spells it. Example: ``Variant("GRPO", ("bpo.algorithm=grpo",))``."""

    name: str
    overrides: tuple[str, ...]

    @property
    def slug(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


class FailedRunError(RuntimeError):
    """A stage of a variant ended with an error; the message names its log."""


def read_variants(path: Path = VARIANTS) -> list[Variant]:
    """The variants of a TOML file, in its order."""
    return [Variant(v["name"], tuple(v["set"])) for v in tomllib.loads(path.read_text())["variant"]]


def run_one(annealed: Path, recipe: Path, out: Path, variant: Variant, seed: int, common: tuple[str, ...]) -> Path:
    """Trains and evaluates; returns the run's folder. One that has its report is left as it is.

    Raises FailedRunError.
    """
    run = out / f"{variant.slug}-s{seed}"
    if (run / "evaluate" / "report.json").is_file():
        return run
    run.mkdir(parents=True, exist_ok=True)
    for part in KEPT:
        if (annealed / part).is_dir():
            shutil.copytree(annealed / part, run / part, dirs_exist_ok=True)
        elif (annealed / part).is_file():
            (run / part).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(annealed / part, run / part)
    overrides = [part for value in (*common, *variant.overrides) for part in ("--set", value)]
    for stage in ("bpo", "evaluate"):
        started, log = time.monotonic(), run / f"{stage}.log"
        command = [sys.executable, "-m", f"pipelines.{stage}", str(recipe), "--out", str(run), "--seed", str(seed), *overrides]
        with log.open("w") as file:
            if subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode:
                raise FailedRunError(f"{variant.name}, seed {seed}: {stage} failed; see {log}")
        print(f"{variant.name}, seed {seed}: {stage} {time.monotonic() - started:.0f} s", flush=True)
    return run
