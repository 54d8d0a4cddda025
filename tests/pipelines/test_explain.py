"""`bimode explain DIR ID`: readable at 80 columns, and its mistakes are one line each."""

from __future__ import annotations

import io
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from pipelines.__main__ import exit_code
from pipelines.explain import grid, shown

sys.path.insert(0, str(Path(__file__).parents[1] / "data_curation"))
from curated_run import DIGITS, HASH, Curated, curate, reject


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    return curate(tmp_path_factory.mktemp("run"))


def told(
    curated: Curated,
    wanted: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """What is printed, on one line a paragraph, after its width was looked at."""
    monkeypatch.setenv("COLUMNS", "80")
    assert exit_code(["explain", str(curated.run), wanted]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    return " ".join(text.split())


def test_a_kept_row_is_told_whole(
    curated: Curated, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = told(curated, DIGITS.format(4), capsys, monkeypatch)
    for part in (
        "digits-train-0-4: kept in train",
        "version 0001",
        "data/train-00000-of-00001.parquet, row",
        "PNG, 40 x 40 pixels",
        "from scikit-learn/load_digits, license CC-BY-4.0",
        "done read v1, settings",
        "yes, by question and pixels",
        "thinking, by pass_rate",
        "non_thinking_poor: direct answers are surely poor",
        "direct 0/8, thinking 8/8",
        "0.00 corrected for guessing at 0.043: 0.00 to 0.22 (90 % interval)",
        "tiny-base",
        "digits-train-0-4-thinking, reasoning by oracle",
        f"rollouts of {HASH}, which the tag rests on",
        "non_thinking 7 wrong 5",
    ):
        assert part in text, part


def test_a_rejected_row_is_told_with_its_reason(
    curated: Curated, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = told(curated, DIGITS.format(3), capsys, monkeypatch)
    assert "digits-train-0-3: rejected from train, contaminated" in text
    assert "it repeats an evaluation row" in text
    assert "that row digits-eval-0-0 (eval, kept):" in text and "nothing was measured" in text
    text = told(curated, DIGITS.format(1), capsys, monkeypatch)
    assert "digits-train-0-2 (train, rejected, near_duplicate):" in text


def test_a_row_that_was_rejected_after_its_tag_is_told_with_its_counts(
    curated: Curated,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Path(shutil.copytree(curated.run, tmp_path / "run", symlinks=True))
    reject(run, DIGITS.format(4), reason="inconsistent_trace")
    text = told(replace(curated, run=run), DIGITS.format(4), capsys, monkeypatch)
    for part in (
        "rejected inconsistent_trace a trace that",
        "mode thinking, by pass_rate",
        "right direct 0/8, thinking 8/8",
        "direct rate 0.00 corrected for guessing at 0.043 model tiny-base",
        f"rollouts of {HASH}, which the tag rests on",
    ):
        assert part in text, part
    assert (
        "nothing was measured" not in text
        and "rule" not in text.split("tag mode")[1].split("model")[0]
    )


def test_a_row_of_the_same_id_is_told_apart(
    curated: Curated,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is kept is not said to be rejected, and which of its rows is, is said where it lies."""
    run = Path(shutil.copytree(curated.run, tmp_path / "run", symlinks=True))
    rejects = next((run / "curate" / "versions" / "0001" / "rejects").glob("*.parquet"))
    table = pq.read_table(rejects)
    [row] = table.slice(0, 1).to_pylist()
    row |= {"id": DIGITS.format(4), "format": "", "reason": "duplicate_id", "detail": "b.jsonl#2"}
    pq.write_table(
        pa.concat_tables([table, pa.Table.from_pylist([row], schema=table.schema)]), rejects
    )
    text = told(replace(curated, run=run), DIGITS.format(4), capsys, monkeypatch)
    assert (
        "digits-train-0-4: kept in train" in text and f"row {table.num_rows}: duplicate_id" in text
    )
    assert "another row of this id is rejected duplicate_id" in text and "b.jsonl#2" in text


def test_markup_in_the_data_is_text(
    curated: Curated, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no column 'query' <script>alert(1)</script>" in told(
        curated, "bad.jsonl#17", capsys, monkeypatch
    )


def test_bpo_is_part_of_the_story(
    curated: Curated, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "thinking drawn 2 times, 2 rollouts, mean reward 1.00, 20.0 tokens" in told(
        curated, "digits-rl-0-0", capsys, monkeypatch
    )


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        ("digits-train-9-9", "no such row; near it are"),
        ("digits-", "fits 12 questions"),
        ("", "fits 15 questions"),
    ],
)
def test_a_mistake_is_one_line(
    curated: Curated, wanted: str, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(["explain", str(curated.run), wanted]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: ID = {wanted}") and part in line


def test_a_directory_that_is_no_run_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(["explain", str(tmp_path), "a"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "has no curate/data" in line


def test_a_terminal_obeys_no_text_of_a_row() -> None:
    """A title for the window, a cleared screen, an answer that is read backwards; in one character
    too.
    """
    out = io.StringIO()
    hostile = "8\x1b]0;root\x07 \x9b2J \u202e51"
    Console(file=out, width=200).print(grid([("verifier", hostile)]), shown(hostile))
    assert (
        out.getvalue().isascii() and "\x1b" not in out.getvalue() and "\x07" not in out.getvalue()
    )
    assert out.getvalue().count(r"8\x1b]0;root\x07 \x9b2J \u202e51") == 2
