"""Metrics reach every tracker with the same values, and a tracker that fails stops nothing."""

from __future__ import annotations

import json
import math
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bimode import ConfigError, Recipe
from pipelines.track import Tracker, check_sinks, numbers

LINES: list[dict[str, Any]] = [
    {"step": step, "reward": 0.5 * step, "modes": {"thinking": {"n": step}}, "alarms": []}
    for step in range(3)
]
WANTED = [(step, {"reward": 0.5 * step, "modes/thinking/n": step}) for step in range(3)]


def follow(recipe: Recipe, folder: Path) -> None:
    """One look at what is there."""
    done = threading.Event()
    done.set()
    Tracker(recipe, "bpo", folder).follow(done)


def write(folder: Path, lines: list[dict[str, Any]]) -> None:
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)


def tensorboard(folder: Path) -> Iterator[tuple[int, str, float]]:
    from tensorboardX.proto.event_pb2 import Event

    [file] = folder.glob("events.*")
    data = file.read_bytes()
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + size])
        for value in event.summary.value:
            yield event.step, value.tag, value.simple_value
        data = data[12 + size + 4 :]


def wandb(folder: Path) -> Iterator[tuple[int, str, float]]:
    """Its file is LevelDB's log: after 7 bytes, (crc, length, type) before each record; ours fits
    into one block.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    [file] = folder.rglob("*.wandb")
    data = file.read_bytes()[7:]
    assert len(data) < 32_768 - 7
    while data:
        _, size, _ = struct.unpack("<IHB", data[:7])
        items = Record.FromString(data[7 : 7 + size]).history.item
        values = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}
        for name, value in values.items():
            if not name.startswith("_"):
                yield values["_step"], name, value
        data = data[7 + size :]


def mlflow(folder: Path) -> Iterator[tuple[int, str, float]]:
    from mlflow import MlflowClient

    client = MlflowClient((folder / "mlruns").as_uri())
    run = (folder / "run_id").read_text()
    for name in client.get_run(run).data.metrics:
        for entry in client.get_metric_history(run, name):
            yield entry.step, name, entry.value


def test_the_same_values_reach_every_tracker(tmp_path: Path) -> None:
    recipe = Recipe.of({"name": "t"}, ['track.to=["tensorboard", "wandb", "mlflow"]'])
    write(tmp_path, LINES)
    follow(recipe, tmp_path)
    wanted = {(step, name, value) for step, values in WANTED for name, value in values.items()}
    for name, read in (("tensorboard", tensorboard), ("wandb", wandb), ("mlflow", mlflow)):
        found = {entry for entry in read(tmp_path / "track" / name) if entry[1] != "step"}
        assert found == wanted, name


def test_only_finite_numbers_are_sent() -> None:
    line = {"a": 1, "b": {"c": 0.5, "d": "text", "e": True}, "f": math.nan, "g": [1, 2]}
    assert numbers(line) == {"a": 1.0, "b/c": 0.5}


SINKS = """
from pathlib import Path

class Notes:
    def __init__(self, folder):
        self.file = (folder / "notes").open("a")
    def log(self, step, values):
        self.file.write(f"{step} {values['reward']}\\n")
    def close(self):
        self.file.close()

class Raises(Notes):
    def log(self, step, values):
        raise OSError("no such server")
"""


@pytest.fixture
def own_sinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    (tmp_path / "own_sinks.py").write_text(SINKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return Recipe.of({"name": "t"}, ['track.to=["own_sinks:Raises", "own_sinks:Notes"]'])


def test_a_sink_that_raises_is_named_once_and_the_others_go_on(
    own_sinks: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, LINES)
    follow(own_sinks, tmp_path)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "own_sinks:Raises: OSError: no such server" in said[0]
    notes = tmp_path / "track" / "own_sinks.Notes" / "notes"
    assert notes.read_text() == "0 0.0\n1 0.5\n2 1.0\n"


def test_the_only_sink_is_not_opened_again_after_it_raised(
    own_sinks: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Recipe.of({"name": "t"}, ['track.to=["own_sinks:Raises"]'])
    tracker = Tracker(recipe, "bpo", tmp_path)
    for count in (1, 2, 3):
        write(tmp_path, LINES[:count])
        tracker._send_new()
    assert capsys.readouterr().err.count("no such server") == 1


def test_a_run_that_goes_on_sends_what_is_new_and_what_was_redone(
    own_sinks: Recipe, tmp_path: Path
) -> None:
    notes = tmp_path / "track" / "own_sinks.Notes" / "notes"
    write(tmp_path, LINES)
    follow(own_sinks, tmp_path)
    follow(own_sinks, tmp_path)  # nothing new
    write(tmp_path, [*LINES[:3], {"step": 3, "reward": 9.0}])
    follow(own_sinks, tmp_path)
    assert notes.read_text() == "0 0.0\n1 0.5\n2 1.0\n3 9.0\n"


def test_lines_that_were_cut_and_written_anew_are_sent_again(
    own_sinks: Recipe, tmp_path: Path
) -> None:
    done = threading.Event()
    tracker = Tracker(own_sinks, "bpo", tmp_path)
    write(tmp_path, LINES)
    tracker._send_new()
    write(tmp_path, [*LINES[:1], {"step": 1, "reward": 7.0}])
    done.set()
    tracker._send_new()
    for name in list(tracker._sinks):
        tracker._guarded(name, lambda sink: sink.close())
    notes = tmp_path / "track" / "own_sinks.Notes" / "notes"
    assert notes.read_text() == "0 0.0\n1 0.5\n2 1.0\n1 7.0\n"


def test_a_tracker_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        check_sinks(Recipe.of({"name": "t"}, ['track.to=["wandb"]']).track)
