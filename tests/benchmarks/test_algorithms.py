"""The comparison of algorithms without its hours: mistakes are one line, and come before the first
run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import pytest

from benchmarks.algorithms.runs import (
    MADE_OF,
    Variant,
    check_annealed,
    check_reused,
    check_variants,
    finished_runs,
    folder_of,
    made_of,
    parts_of,
    read_variants,
    run_one,
)
from bimode.config.recipe import Recipe
from bimode.errors import ConfigError

REPO = Path(__file__).resolve().parents[2]
RECIPE = REPO / "pipelines" / "recipes" / "tiny-full.toml"


def test_every_variant_is_a_valid_recipe() -> None:
    """The file that is shipped, on the recipe that it is made for: a key that was renamed is
    noticed here.
    """
    variants = read_variants()
    check_variants(RECIPE, variants, ())
    assert [v.name for v in read_variants(only="HGPO")] == ["HGPO"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[variant", "not a TOML file"),
        ('[[variants]]\nname = "x"\nset = []', "has no variants"),
        ('[[variant]]\nnam = "x"\nset = []', "variant 1 is not name"),
        (
            '[[variant]]\nname = "x"\nset = []\n[[variant]]\nname = "X"\nset = []',
            "X and x would share a folder",
        ),
        (
            '[[variant]]\nname = "x"\nset = ["bpo.algoritm=grpo"]',
            r"bpo.algoritm = grpo: .*mean algorithm\? \(variant x\)",
        ),
        (
            '[[variant]]\nname = "x"\nset = ["evaluate.modes=[\\"auto\\"]"]',
            "a comparison needs all three",
        ),
    ],
)
def test_a_variant_that_cannot_be_run_is_told_of(text: str, said: str, tmp_path: Path) -> None:
    """Key, value and fix, before hours of other variants have passed."""
    (tmp_path / "variants.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        check_variants(RECIPE, read_variants(tmp_path / "variants.toml"), ())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--seeds", "0"],
            (
                "error: ANNEALED = {}: has no manifest.json; name a run directory whose curate and"
                " anneal are done"
            ),
        ),
        (
            ["--seeds", "0,0"],
            (
                "error: --seeds = 0,0: write different whole numbers with commas between them, e.g."
                " 0,1,2"
            ),
        ),
        (["--only", "zzz"], "error: --only = zzz: is in no name; there are per_mode"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(
    words: list[str], said: str, tmp_path: Path
) -> None:
    """No traceback, exit code 2, nothing written."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.algorithms",
        str(tmp_path),
        str(RECIPE),
        "--out",
        str(tmp_path / "out"),
        *words,
    ]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1) and done.stderr.startswith(
        said.format(tmp_path)
    )
    assert not (tmp_path / "out").exists()


def test_no_stage_begins_after_ctrl_c(tmp_path: Path) -> None:
    """A run between its two stages has no process to hear it."""
    over = Event()
    over.set()
    for part in parts_of(Recipe.load(RECIPE)):
        (tmp_path / "full" / part).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "full" / part).write_text("{}")
    with pytest.raises(KeyboardInterrupt):
        run_one(
            tmp_path / "full", RECIPE, tmp_path / "out", read_variants(only="HGPO")[0], 0, (), over
        )
    assert not list((tmp_path / "out").glob("*/bpo.log"))


def test_a_run_is_reused_only_for_what_it_was_made_of(tmp_path: Path) -> None:
    """Another --set, recipe or annealed model under the same --out would be compared as if it were
    the same.
    """
    for stage in ("curate", "anneal"):
        (tmp_path / "full" / stage).mkdir(parents=True)
        (tmp_path / "full" / stage / "manifest.json").write_text("{}")
    annealed, out, variant = tmp_path / "full", tmp_path / "out", read_variants(only="HGPO")[0]
    run = folder_of(out, variant, 1)
    run.mkdir(parents=True)
    (run / MADE_OF).write_text(made_of(annealed, RECIPE, variant, 1, ()) + "\n")
    check_reused(annealed, RECIPE, out, [(variant, 0), (variant, 1)], ())
    with pytest.raises(ConfigError, match="hgpo-s1: was made of another recipe"):
        check_reused(annealed, RECIPE, out, [(variant, 1)], ("bpo.steps=7",))
    (annealed / "anneal" / "manifest.json").write_text('{"changed": 1}')
    with pytest.raises(ConfigError, match="delete it, or name another --out"):
        check_reused(annealed, RECIPE, out, [(variant, 1)], ())


def test_a_recipe_without_annealing_starts_from_its_base(tmp_path: Path) -> None:
    """Its base is what the runs were made of, and no anneal/ is asked for."""
    alone = RECIPE.with_name("tiny-bpo.toml")
    assert parts_of(Recipe.load(alone)) == ("manifest.json", "curate/data", "curate/manifest.json")
    variant = read_variants(only="HGPO")[0]
    for part in parts_of(Recipe.load(alone)):
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / part).write_text("{}")
    check_annealed(tmp_path, alone)
    assert made_of(tmp_path, alone, variant, 0, ()) != made_of(
        tmp_path, alone, variant, 0, ("model.base=assets/tiny-base",)
    )
    with pytest.raises(
        ConfigError,
        match="has no anneal/model; name a run directory whose curate and anneal are done",
    ):
        check_annealed(tmp_path, RECIPE)


def test_the_table_is_of_all_finished_runs(tmp_path: Path) -> None:
    """Seeds in their order as numbers, variants in the file's, whatever call made them; what is
    unfinished is left out.
    """
    for name in ("grpo-s10", "grpo-s2", "per-mode-preferred-default-s0", "dapo-s0"):
        (tmp_path / name / "evaluate").mkdir(parents=True)
        if name != "dapo-s0":
            (tmp_path / name / "evaluate" / "report.json").touch()
    found = finished_runs(tmp_path, read_variants())
    assert {name: [run.name for run in runs] for name, runs in found.items()} == {
        "per_mode, preferred (default)": ["per-mode-preferred-default-s0"],
        "GRPO": ["grpo-s2", "grpo-s10"],
    }
    assert next(iter(found)) == "per_mode, preferred (default)"


def test_a_folder_that_only_looks_like_a_run_is_not_counted(tmp_path: Path) -> None:
    """Another variant whose name goes on with an s would be averaged in; a copy put aside ended the
    command in a traceback.
    """
    for name in ("bpo-s0", "bpo-s0-old", "bpo-sampled-s0"):
        (tmp_path / name / "evaluate").mkdir(parents=True)
        (tmp_path / name / "evaluate" / "report.json").touch()
    found = finished_runs(tmp_path, [Variant("BPO", ()), Variant("BPO, sampled", ())])
    assert found == {"BPO": [tmp_path / "bpo-s0"], "BPO, sampled": [tmp_path / "bpo-sampled-s0"]}


INTERRUPTED_IMPORT = """
import runpy, sys
class Interrupt:
    def find_spec(self, name, *_):
        if name == "bimode.config.load":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
runpy.run_module("benchmarks.algorithms", run_name="__main__")
"""


def test_ctrl_c_while_modules_are_imported_is_quiet(tmp_path: Path) -> None:
    """Half a screen of other people's import lines says nothing to who pressed it."""
    command = [
        sys.executable,
        "-c",
        INTERRUPTED_IMPORT,
        str(tmp_path),
        str(RECIPE),
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60)
    assert done.returncode == 130 and "Traceback" not in done.stderr


SLEEPING_STAGES = """
import runpy, sys
sys.executable = sys.argv.pop(1)
runpy.run_module("benchmarks.algorithms", run_name="__main__")
"""


@pytest.mark.parametrize("whom", ["group", "parent"])
def test_ctrl_c_ends_the_runs_and_begins_no_other(tmp_path: Path, whom: str) -> None:
    """A queue that went on, or a run left behind, would take hours that nobody wants; the stage is
    a sleep here.
    """
    stage = tmp_path / "stage"
    stage.write_text(f"#!/bin/sh\necho $$ >> {tmp_path / 'pids'}\nexec sleep 300\n")
    stage.chmod(0o755)
    for part in parts_of(Recipe.load(RECIPE)):
        (tmp_path / "full" / part).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "full" / part).write_text("{}")
    words = [
        str(tmp_path / "full"),
        str(RECIPE),
        "--out",
        str(tmp_path / "out"),
        "--seeds",
        "0,1,2",
        "--only",
        "HGPO",
    ]
    command = [sys.executable, "-c", SLEEPING_STAGES, str(stage), *words, "--jobs", "2"]
    process = subprocess.Popen(
        command, cwd=REPO, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    pids, patience = tmp_path / "pids", time.monotonic() + 60
    while (
        not (pids.is_file() and len(pids.read_text().splitlines()) == 2)
        and time.monotonic() < patience
    ):
        time.sleep(0.05)
    (os.killpg if whom == "group" else os.kill)(
        process.pid, signal.SIGINT
    )  # a terminal sends it to all, `kill -INT` to one
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 130 and "Traceback" not in said
    assert sorted(run.name for run in (tmp_path / "out").iterdir()) == [
        "cache",
        "hgpo-s0",
        "hgpo-s1",
    ]
    assert not [pid for pid in pids.read_text().split() if Path(f"/proc/{pid}").exists()]
