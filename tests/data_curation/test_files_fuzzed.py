"""No mutation of a file is more than rows and refusals: 8 of each format here, 500 by ``python -m
tests.fuzz_files 500``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz_files import fuzz, outcome_of, sound_files

SOUND = sound_files()


@pytest.mark.parametrize("name", SOUND)
def test_mutated_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    """Each within 5 s and a gigabyte, by a reader that lives on."""
    outcome = fuzz(name, SOUND[name], 8, tmp_path)
    assert outcome.problems == [] and list(tmp_path.iterdir()) == []
    assert sum(outcome.counts.values()) >= 8
    assert not [what for what in outcome.counts if "its reader" in what]


def test_a_sound_file_of_each_format_is_read(tmp_path: Path) -> None:
    """Or the mutations would be of files that nobody reads."""
    for name, content in SOUND.items():
        (tmp_path / name).write_bytes(content)
        assert set(outcome_of(tmp_path / name)) == {"read"}, name
