"""The last lines of a command: what came out, and what all of it took."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from bimode.storage.run_dir import write_atomic
from pipelines import harness
from pipelines.__main__ import exit_code
from tests.pipelines.test_cli import said


def test_a_command_that_evaluates_ends_with_the_result(
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On stdout, behind the times, also where the stage was skipped; a run without that stage has
    none.
    """
    monkeypatch.setattr(harness, "run_stages", lambda *_: None)
    stage = tmp_path / "run" / "evaluate"
    mode = {"accuracy": 0.5, "tokens_mean": 5.0}
    write_atomic(
        stage / "report.json",
        json.dumps({"models": {"bpo": {"overall": {"thinking": mode}}}, "data": {"n": 4}}),
    )
    for words in (["run", "--set", 'stages=["evaluate"]'], ["evaluate"]):
        assert exit_code([*words, str(recipe), "--out", str(tmp_path / "run")]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert (
            lines[0].startswith("bpo, accuracy on 4 questions: thinking 50 %")
            and lines[-1] == f"page: {stage}/report.html"
        )
    assert exit_code(["run", str(recipe), "--out", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == ""


def test_a_command_says_what_all_of_it_took(
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a stage says of itself leaves out the start of Ray, and here that is most of it."""
    monkeypatch.setattr(harness, "run_stages", lambda *_: time.sleep(1.1))
    code, line = said(capsys, "run", str(recipe), "--out", str(tmp_path / "run"))
    seconds = re.fullmatch(r"bimode: (\d+) s in all, with start-up", line)
    assert code == 0 and seconds and int(seconds.group(1)) >= 1
