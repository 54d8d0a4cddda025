"""Metrics to trackers: TensorBoard, Weights & Biases, MLflow, or a sink of your own (`track.to`).

A tracker follows the metrics.jsonl of a stage: the numbers of each new line go to every sink. The
file stays the record; a sink that fails costs its own later lines, is reported once, and never
stops a run. A run that goes on sends the lines that were not sent yet, and those that were redone.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from bimode import plugins
from bimode.config.recipe import Recipe, TrackConfig
from bimode.errors import ConfigError
from bimode.plugins import MetricsSink
from bimode.storage.run_dir import read_json, whole_lines, write_atomic
from pipelines.progress import log_line

POLL_S = 1.0
SENT = "sent.json"  # how many lines the sinks have had
RUN_ID = "run_id"  # of a tracker's run, so that a stage that goes on continues it


class TensorBoard:
    """Writes an event file into `folder`."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Writes a run into `folder`, which `wandb sync` uploads; online it uploads at once."""

    def __init__(self, folder: Path, config: TrackConfig, name: str) -> None:
        import wandb

        known = folder / RUN_ID
        if not known.is_file():
            known.write_text(uuid4().hex[:8])
        self._run = wandb.init(
            dir=folder,
            mode=config.wandb_mode,
            project=config.project,
            name=name,
            id=known.read_text(),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class MlFlow:
    """Logs to `track.mlflow_uri`, or into a file store in `folder`."""

    def __init__(self, folder: Path, config: TrackConfig, name: str) -> None:
        from mlflow import MlflowClient
        from mlflow.environment_variables import MLFLOW_ALLOW_FILE_STORE

        if not config.mlflow_uri:
            MLFLOW_ALLOW_FILE_STORE.set(True)
        self._client = MlflowClient(config.mlflow_uri or (folder / "mlruns").as_uri())
        known = folder / RUN_ID
        if not known.is_file():
            known.write_text(self._created(config.project, name))
        self._run = known.read_text()

    def _created(self, project: str, name: str) -> str:
        experiment = self._client.get_experiment_by_name(project)
        if experiment is None:
            number = self._client.create_experiment(project)
        else:
            number = experiment.experiment_id
        return str(self._client.create_run(number, run_name=name).info.run_id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run)


BUILT_IN: dict[str, tuple[str, Callable[[Path, TrackConfig, str], MetricsSink]]] = {
    "tensorboard": ("tensorboardX", lambda folder, _config, _name: TensorBoard(folder)),
    "wandb": ("wandb", WeightsAndBiases),
    "mlflow": ("mlflow", MlFlow),
}


def check_sinks(config: TrackConfig) -> None:
    """Raise ConfigError for a built-in sink whose package is not installed."""
    from importlib.util import find_spec

    for name in config.to:
        package = BUILT_IN[name][0] if name in BUILT_IN else ""
        if package and find_spec(package) is None:
            fix = f"needs the package {package}; pip install {package}"
            raise ConfigError("track.to", name, fix)


@contextmanager
def tracked(recipe: Recipe, stage: str, folder: Path) -> Iterator[None]:
    """Send the lines that are added to metrics.jsonl in `folder` while the block runs."""
    if not recipe.track.to:
        yield
        return
    done = threading.Event()
    tracker = Tracker(recipe, stage, folder)
    thread = threading.Thread(target=tracker.follow, args=(done,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class Tracker:
    """Follows one metrics.jsonl, from the lines that an earlier process has sent."""

    def __init__(self, recipe: Recipe, stage: str, folder: Path) -> None:
        self._recipe, self._stage, self._folder = recipe, stage, folder
        self._file = folder / "metrics.jsonl"
        self._is_open = False  # a sink that failed is not opened again
        self._sinks: dict[str, MetricsSink] = {}
        self._lines: list[str] = []  # that were sent

    def follow(self, done: threading.Event) -> None:
        """Send new lines every second until `done` is set, then the last ones."""
        sent = (read_json(self._folder / "track" / SENT) or {}).get("lines", 0)
        self._lines = whole_lines(self._file)[:sent]
        finished = False
        while not finished:
            finished = done.wait(POLL_S)
            self._send_new()
        for name in list(self._sinks):
            self._guarded(name, lambda sink: sink.close())

    def _send_new(self) -> None:
        lines = whole_lines(self._file)
        known = 0
        while known < min(len(lines), len(self._lines)) and lines[known] == self._lines[known]:
            known += 1
        if len(lines) == known:
            return
        if not self._is_open:
            self._open()
        for line in lines[known:]:
            values = json.loads(line)
            for name in list(self._sinks):
                self._guarded(name, partial(_log, values=values))
        self._lines = lines
        write_atomic(self._folder / "track" / SENT, json.dumps({"lines": len(lines)}))

    def _open(self) -> None:
        self._is_open = True
        config, run = self._recipe.track, f"{self._recipe.name}-{self._stage}"
        for name in config.to:
            folder = self._folder / "track" / name.replace(":", ".")
            folder.mkdir(parents=True, exist_ok=True)
            try:
                if name in BUILT_IN:
                    self._sinks[name] = BUILT_IN[name][1](folder, config, run)
                else:
                    self._sinks[name] = plugins.load("sink", name)(folder)
            except Exception as error:  # foreign code: it must not stop the run
                self._drop(name, error)

    def _guarded(self, name: str, use: Callable[[Any], None]) -> None:
        try:
            use(self._sinks[name])
        except Exception as error:  # foreign code: it must not stop the run
            self._drop(name, error)

    def _drop(self, name: str, error: Exception) -> None:
        sink = self._sinks.pop(name, None)
        problem = plugins.described(error, type(sink))
        log_line(f"{self._stage}: track.to {name}: {problem}; it gets no further metrics")


def _log(sink: MetricsSink, values: Mapping[str, Any]) -> None:
    sink.log(int(values["step"]), numbers(values))


def numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the finite numbers of a line of metrics.jsonl, nested ones as ``outer/inner``."""
    found: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= numbers(value, f"{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[name] = float(value)
    return {name: value for name, value in found.items() if math.isfinite(value)}
