"""One variant, one seed: BPO and evaluation on a copy of the annealed run, each as its own
process.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from benchmarks.algorithms import VARIANTS
from bimode.config.recipe import Recipe
from bimode.errors import ConfigError
from bimode.modes import Mode
from bimode.storage.run_dir import digest_json, digest_path, write_atomic
from pipelines.harness import base_directory

MADE_OF = "made-of.txt"  # digest of a run's recipe and annealed model
INTERRUPTED = (-signal.SIGINT, 128 + signal.SIGINT)  # exit codes of a stage that heard Ctrl-C
POLL_S, HEARD_S = (
    0.5,
    5.0,
)  # a stage that hears Ctrl-C itself has ended, or begun to, before it is told again
CACHE = "cache"  # of evaluation: one for all runs


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


def read_variants(path: Path = VARIANTS, only: str = "") -> list[Variant]:
    """The variants of a TOML file whose name contains `only`, in its order. Raises ConfigError."""
    try:
        tables = tomllib.loads(path.read_text()).get("variant")
    except OSError as error:
        raise ConfigError(
            "--variants", path, f"cannot be read: {error.strerror}; name a TOML file"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("--variants", path, f"not a TOML file: {error}") from None
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(
            "--variants", path, "has no variants; write each as [[variant]] with name and set"
        )
    found: dict[str, Variant] = {}
    for number, table in enumerate(tables, 1):
        name, overrides = table.get("name"), table.get("set")
        if (
            table.keys() != {"name", "set"}
            or not isinstance(name, str)
            or not isinstance(overrides, list)
        ):
            raise ConfigError(
                "--variants",
                path,
                f'variant {number} is not name = "TEXT" and set = ["KEY=VALUE", ...]',
            )
        variant = Variant(name, tuple(map(str, overrides)))
        if variant.slug in found:
            raise ConfigError(
                "--variants",
                path,
                f"{name} and {found[variant.slug].name} would share a folder; rename one",
            )
        found[variant.slug] = variant
    chosen = [variant for variant in found.values() if only.lower() in variant.name.lower()]
    if not chosen:
        raise ConfigError(
            "--only", only, f"is in no name; there are {'; '.join(v.name for v in found.values())}"
        )
    return chosen


def read_seeds(text: str) -> list[int]:
    """The seeds of ``"0,1,2"``. Raises ConfigError."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words) or len(set(map(int, words))) < len(words):
        raise ConfigError(
            "--seeds", text, "write different whole numbers with commas between them, e.g. 0,1,2"
        )
    return [int(word) for word in words]


def parts_of(recipe: Recipe) -> tuple[str, ...]:
    """What a copy needs of the annealed run; a recipe without annealing starts from its base, which
    is annealed already.
    """
    model = ("anneal/model", "anneal/manifest.json") if "anneal" in recipe.stages else ()
    return ("manifest.json", "curate/data", "curate/manifest.json", *model)


def check_annealed(annealed: Path, recipe: Path) -> None:
    """`annealed` is a run directory in which all of the recipe that comes before BPO is sealed.
    Raises ConfigError.
    """
    missing = [part for part in parts_of(Recipe.load(recipe)) if not (annealed / part).exists()]
    if missing:
        stage = (
            "curate and anneal are" if any("anneal" in part for part in missing) else "curate is"
        )
        raise ConfigError(
            "ANNEALED", annealed, f"has no {missing[0]}; name a run directory whose {stage} done"
        )


def check_variants(recipe: Path, variants: Sequence[Variant], common: tuple[str, ...]) -> None:
    """Each variant makes a valid recipe whose evaluation compares all modes. Raises ConfigError,
    before the first hour.
    """
    for variant in variants:
        try:
            made = Recipe.load(recipe, (*common, *variant.overrides))
        except ConfigError as error:
            if error.key == "recipe":
                raise
            raise ConfigError(
                error.key, error.value, f"{error.fix} (variant {variant.name})"
            ) from None
        if set(made.evaluate.modes) != {mode.value for mode in Mode}:
            raise ConfigError(
                "evaluate.modes",
                list(made.evaluate.modes),
                "a comparison needs all three; leave it out",
            )


def folder_of(out: Path, variant: Variant, seed: int) -> Path:
    """Where the run of `variant` and `seed` lives."""
    return out / f"{variant.slug}-s{seed}"


def is_finished(run: Path) -> bool:
    """Whether the run has its report."""
    return (run / "evaluate" / "report.json").is_file()


def finished_runs(out: Path, variants: Sequence[Variant]) -> dict[str, list[Path]]:
    """The finished runs in `out` by variant, seed by seed: those of earlier calls too."""
    found = {
        v.name: [run for _, run in sorted(_by_seed(out, v).items()) if is_finished(run)]
        for v in variants
    }
    return {name: runs for name, runs in found.items() if runs}


def _by_seed(out: Path, variant: Variant) -> dict[int, Path]:
    """The folders of `variant` by seed; neither bpo-sampled-s0 nor a copy bpo-s0-old is a run of
    bpo.
    """
    matches = (
        (re.fullmatch(rf"{re.escape(variant.slug)}-s(\d+)", run.name), run)
        for run in out.glob(f"{variant.slug}-s*")
    )
    return {int(match[1]): run for match, run in matches if match}


def made_of(
    annealed: Path, recipe: Path, variant: Variant, seed: int, common: tuple[str, ...]
) -> str:
    """Digest of all that a run depends on: the recipe as resolved, the annealed model and the
    curated data.
    """
    resolved = Recipe.load(recipe, (*common, *variant.overrides), seed)
    sealed = [
        digest_path(annealed / part)
        for part in parts_of(resolved)
        if part.endswith("/manifest.json")
    ]
    base = [] if "anneal" in resolved.stages else [digest_path(base_directory(resolved.model.base))]
    return digest_json([resolved.model_dump(mode="json"), *sealed, *base])


def check_reused(
    annealed: Path,
    recipe: Path,
    out: Path,
    tasks: Sequence[tuple[Variant, int]],
    common: tuple[str, ...],
) -> None:
    """What is in `out` already was made of the same recipe and model. Raises ConfigError, before
    the first run.
    """
    for variant, seed in tasks:
        run = folder_of(out, variant, seed)
        note = (run / MADE_OF).read_text().strip() if (run / MADE_OF).is_file() else ""
        if (note or is_finished(run)) and note != made_of(annealed, recipe, variant, seed, common):
            fix = (
                "was made of another recipe, --set, data or annealed model; delete it, or name"
                " another --out"
            )
            raise ConfigError("--out", run, fix)


def _run_stage(command: list[str], log: Path, over: Event) -> int:
    """Its exit code. Once `over` is set it is interrupted, unless a terminal has done that and it
    is ending already.
    """
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    while (code := process.poll()) is None:
        if over.wait(POLL_S):
            try:
                return process.wait(HEARD_S)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
                return process.wait()
    return code


def run_one(
    annealed: Path,
    recipe: Path,
    out: Path,
    variant: Variant,
    seed: int,
    common: tuple[str, ...],
    over: Event,
) -> Path:
    """Trains and evaluates; returns the run's folder. One that has its report is left as it is.

    No stage begins once `over` is set: it would not have heard the Ctrl-C that set it. Raises
    FailedRunError.
    """
    run = folder_of(out, variant, seed)
    if is_finished(run):
        return run
    run.mkdir(parents=True, exist_ok=True)
    if not (
        run / CACHE
    ).exists():  # what base and annealed model answered, seed by seed, is the same in every run
        (out / CACHE).mkdir(exist_ok=True)
        (run / CACHE).symlink_to((out / CACHE).absolute())
    write_atomic(run / MADE_OF, made_of(annealed, recipe, variant, seed, common) + "\n")
    for part in parts_of(Recipe.load(recipe)):
        if (annealed / part).is_dir():
            shutil.copytree(annealed / part, run / part, dirs_exist_ok=True)
        elif (annealed / part).is_file():
            (run / part).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(annealed / part, run / part)
    overrides = [part for value in (*common, *variant.overrides) for part in ("--set", value)]
    for stage in ("bpo", "evaluate"):
        started, log = time.monotonic(), run / f"{stage}.log"
        command = [
            sys.executable,
            "-m",
            f"pipelines.{stage}",
            str(recipe),
            "--out",
            str(run),
            "--seed",
            str(seed),
            *overrides,
        ]
        if over.is_set():
            raise KeyboardInterrupt
        code = _run_stage(command, log, over)
        if code in INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            raise FailedRunError(f"{variant.name}, seed {seed}: {stage} failed; see {log}")
        print(
            f"{variant.name}, seed {seed}: {stage} {time.monotonic() - started:.0f} s", flush=True
        )
    return run
