"""Large imports: the collector rests meanwhile, and is as it was afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from bimode.models.import_without_gc import import_without_gc


@pytest.mark.parametrize("is_on", [True, False])
@pytest.mark.parametrize("body", ["", "raise ValueError"])
def test_the_collector_rests_and_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_on: bool, body: str
) -> None:
    name = f"large_{is_on}_{bool(body)}"
    (tmp_path / f"{name}.py").write_text(f"import gc\nwas_on = gc.isenabled()\n{body}")
    monkeypatch.syspath_prepend(tmp_path)
    if not is_on:
        gc.disable()
    try:
        if body:
            with pytest.raises(ValueError):
                import_without_gc(name)
        else:
            module = import_without_gc(name)
            assert not module.was_on and module is sys.modules.pop(name)
        assert gc.isenabled() == is_on
    finally:
        gc.enable()


def test_what_has_been_imported_is_not_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is what there is by then left alone for good: models come and go."""
    monkeypatch.setattr(gc, "freeze", lambda: pytest.fail("frozen"))
    assert import_without_gc("sys") is sys


def test_models_of_transformers_do_without_scikit_learn() -> None:
    code = (
        "import sys; from bimode.models.import_without_gc import import_transformers as load;"
        " load().GenerationMixin"
    )
    said = subprocess.run(
        [sys.executable, "-c", f"{code}; print('sklearn' in sys.modules)"],
        capture_output=True,
        text=True,
    )
    assert (said.stdout, said.stderr) == ("False\n", "")
