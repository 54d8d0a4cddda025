"""The benchmarks without their minutes: mistakes are one line, both sides read the same work, and a
dead side is told of.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers.talk import Side, SideError
from benchmarks.peers.workload import DIRECT_MEAN, THINKING_MEAN, Workload, draw_lengths

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["learner", "step"])
def test_a_missing_trl_is_one_line(name: str) -> None:
    """It is noticed before a model is made."""
    words = [sys.executable, f"benchmarks/{name}.py", "--trl-python", "/nowhere/python"]
    done = subprocess.run(words, cwd=REPO, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    assert (
        done.stderr
        == "error: --trl-python = /nowhere/python: No such file or directory; name an interpreter\n"
    )


def test_trls_side_imports_nothing_of_ours() -> None:
    """Its interpreter has TRL and no bimode."""
    code = (
        "import sys, benchmarks.peers.trl_grpo; print({m.split('.')[0] for m in sys.modules} &"
        " {'bimode', 'actors', 'cluster', 'psutil'} or '')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.strip()) == (0, "")


def test_lengths_are_those_of_two_modes() -> None:
    """Half of a group is short, half long, with the stated means; the workload comes back from its
    file as it was.
    """
    lengths = draw_lengths(500, 8, random.Random(0))
    direct = [n for i, n in enumerate(lengths) if i % 8 < 4]
    thinking = [n for i, n in enumerate(lengths) if i % 8 >= 4]
    assert sum(direct) / len(direct) == pytest.approx(DIRECT_MEAN, rel=0.05)
    assert sum(thinking) / len(thinking) == pytest.approx(THINKING_MEAN, rel=0.05)


def test_a_workload_counts_its_padding(tmp_path: Path) -> None:
    """Real tokens are the unit of the learner benchmark: a prompt counts once for each of its
    completions.
    """
    work = Workload(
        2,
        ("q", "r"),
        ("a", "b"),
        ((5,), (5, 6, 7)),
        (1, 2, 3, 4),
        ((8,), (8,) * 2, (8,) * 3, (8,) * 4),
        (0.0,) * 4,
    )
    assert (work.tokens, work.padded) == (10 + 2 * (1 + 3), 4 * (3 + 4))
    work.save(tmp_path)
    assert Workload.load(tmp_path) == work


def test_our_sides_load_and_credit_the_workload() -> None:
    """They follow when credit changes: each response weighs 1, whatever its length, as under TRL's
    loss "grpo".
    """
    from benchmarks.peers import our_learner, our_step

    prompt_ids, responses = ((5,), (5, 6, 7)), ((8,), (8,) * 2, (8,) * 3, (8,) * 4)
    work = Workload(
        2, ("q", "r"), ("a", "b"), prompt_ids, (1, 2, 3, 4), responses, (0.0, 1.0, 1.0, 0.0)
    )
    batch = our_learner.credited(work)
    assert batch.denominator == pytest.approx(4) and [
        sum(s.loss_mask_T) for s in batch.samples
    ] == pytest.approx([1] * 4)
    assert [s.advantages_T[0] > 0 for s in batch.samples] == [False, True, True, False]
    assert len(our_step.requests_of(work, 0)) == 4


def test_a_side_that_ends_says_why(tmp_path: Path) -> None:
    """Its last word becomes the error, and nothing of it stays."""
    side = Side(
        "TRL",
        sys.executable,
        "benchmarks.peers.no_such_module",
        [],
        dict(os.environ),
        tmp_path / "log",
    )
    with pytest.raises(SideError, match=r"TRL ended with code 1: .*No module named"):
        side.answer()
    side.close()
