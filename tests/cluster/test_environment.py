"""Which code a run was made by, also where the copy that runs has no git."""

from __future__ import annotations

from pathlib import Path

import pytest

from bimode.storage import run_dir
from cluster.environment import CODE_VERSION, code_version, files_version


def test_without_git_equal_code_has_equal_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a job that `ray job submit` has unpacked: `unknown` would say of no two runs that they
    were alike.
    """
    monkeypatch.delenv(CODE_VERSION, raising=False)
    monkeypatch.setenv("PATH", "")  # no git
    assert code_version() == files_version()
    for copy in ("one", "two"):
        (tmp_path / copy / "bimode" / "__pycache__").mkdir(parents=True)
        (tmp_path / copy / "bimode" / "a.py").write_text("a = 1\n")
        (tmp_path / copy / "bimode" / "__pycache__" / "a.pyc").write_text(copy)
    words = []
    for copy, text in (("one", "a = 1\n"), ("two", "a = 1\n"), ("two", "a = 2\n")):
        monkeypatch.setattr(
            run_dir, "__file__", str(tmp_path / copy / "bimode" / "storage" / "run_dir.py")
        )
        (tmp_path / copy / "bimode" / "a.py").write_text(text)
        words.append(code_version())
    assert words[0] == words[1] != words[2] and all(word.startswith("files-") for word in words)


def test_what_the_submission_captured_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CODE_VERSION, "abc-dirty")
    assert code_version() == "abc-dirty"
