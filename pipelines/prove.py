"""`bimode prove MODEL`: whether a model is computed rightly here, as a table with numbers.

Random prompts with two, one and no image of unlike sizes go through the learner's packed trees and
through the rollout engine, at load and after two weight updates of random size; then the model is
saved and opened again. Nothing is trained and nothing is written beside MODEL. No Ray is started.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from bimode.config.recipe import ClusterConfig
from bimode.errors import BimodeError, ConfigError, config_errors
from pipelines.progress import log_line

if TYPE_CHECKING:
    from actors.rollout.worker import RolloutWorker
    from bimode.records import (
        Completion,
        GenerationRequest,
        GenerationResult,
        Prompt,
        TrainingSample,
    )
    from bimode.renderer import Renderer
    from bimode.storage.weights import WeightBucket

    Generate = Callable[[list[GenerationRequest]], list[GenerationResult]]

NATS = 1e-3  # in float32, where 1e-6 is usual
UPDATE = 0.02  # standard deviation of the noise on each weight
TOKENS = 12  # of each response


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the table. `value` is a number or a word; `problem` is empty if it passed."""

    name: str
    value: str
    problem: str = ""


def prove_model(model: Path, max_model_len: int, max_pixels: int) -> int:
    """Print the table. Returns 1 if a check failed. Raises ConfigError for what is no model."""
    from cluster.session import prepare_process

    prepare_process(ClusterConfig())
    checks = []
    with TemporaryDirectory(prefix="bimode-prove-") as folder:
        for check in run_checks(model, Path(folder), max_model_len, max_pixels):
            checks.append(check)
            log_line(f"prove: {check.name}: {check.value} {check.problem}".rstrip())
    show(model, checks)
    return int(any(check.problem for check in checks))


def run_checks(model: Path, folder: Path, max_model_len: int, max_pixels: int) -> Iterator[Check]:
    """Yield the result of each check; a check that raises is one that failed."""
    import torch
    from transformers.utils import logging as transformers_logging

    from bimode.models.prepare_model import check_pixels, prepare_base
    from bimode.renderer import Renderer, load_model

    transformers_logging.disable_progress_bar()
    warnings.simplefilter("ignore")  # of libraries, about themselves
    if not model.is_dir():
        raise ConfigError("MODEL", model, "no such directory; give a Hugging Face model directory")
    if max_pixels:
        check_pixels(model, max_pixels)
    with config_errors("MODEL"):
        path, added = prepare_base(str(model.absolute()), folder / "base", 0, max_pixels)
        renderer = Renderer(path)
        renderer.check_template()
    family = renderer.config.model_type
    yield Check("family", family if renderer.kind == "image_text" else f"text ({family})")
    yield Check("tokens that were added", ", ".join(map(repr, added)) or "none")
    yield _checked("decision is one token", lambda: _decision(renderer))
    yield _checked("images reach the model", lambda: _image_tensors(renderer))
    yield _checked("packed = alone, values", lambda: _packed(path, max_model_len))
    trained = load_model(path, torch.float32).eval()
    yield _checked("packed = alone, gradients", lambda: _gradients(trained, renderer))
    yield from _against_engine(trained, renderer, path, max_model_len)
    yield _checked("saved and opened again", lambda: _saved(trained, renderer, folder / "saved"))


def _checked(name: str, measure: Callable[[], str]) -> Check:
    try:
        return Check(name, measure())
    except (BimodeError, ValueError, RuntimeError, AssertionError) as error:
        return Check(name, "failed", " ".join(str(error).split())[:300])


def _nats(difference: float) -> str:
    if not difference <= NATS:
        raise ValueError(f"differ by {difference:.2g} nats, at most {NATS:g} is right")
    return f"{difference:.0e} nats"


def _decision(renderer: Renderer) -> str:
    tokens = renderer.tokens
    return f"{tokens.think} thinks, {tokens.direct} does not"


def _image_tensors(renderer: Renderer) -> str:
    if renderer.kind == "text":
        return "no images"
    tensors = dict(renderer.encode_images(prompts(renderer)[0].images))
    if "pixel_values" not in tensors:
        raise ValueError(f"the image processor gives {', '.join(tensors) or 'nothing'}")
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())


def _packed(path: Path, max_model_len: int) -> str:
    from bimode.learner.packing_check import check_packing

    return _nats(check_packing(path, "float32", max_model_len).float32)


def _gradients(model: Any, renderer: Renderer) -> str:
    """Compare the gradient of a packed line with that of each sequence, relative to its norm."""
    import torch

    from bimode.learner.packing import pack
    from bimode.learner.packing_check import make_probes
    from bimode.learner.policy import Policy

    probes, policy = make_probes(renderer, 0), Policy(model)
    shared: list[Sequence[TrainingSample]] = [probe.responses for probe in probes]
    single: list[Sequence[TrainingSample]] = [[r] for probe in probes for r in probe.responses]
    repeated = [probe.images for probe in probes for _ in probe.responses]
    found = []
    for trees, images in ((shared, [probe.images for probe in probes]), (single, repeated)):
        model.zero_grad()
        policy(pack(trees, images, renderer.family, model.model))[0].sum().backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    norm = torch.stack([gradient.norm() for gradient in found[1]]).norm()
    off = torch.stack([(a - b).norm() for a, b in zip(*found, strict=True)]).norm()
    share = float(off / norm)
    if not share <= NATS:
        raise ValueError(f"differ by {share:.2g} of their norm, at most {NATS:g} is right")
    return f"{share:.0e} of their norm"


def _against_engine(
    model: Any, renderer: Renderer, path: Path, max_model_len: int
) -> Iterator[Check]:
    """Learner against engine at load, and after each of two updates; the second is also missed on
    purpose, which must be seen.
    """
    from actors.rollout.evaluator import weights_of

    def generate(requests: list[GenerationRequest]) -> list[GenerationResult]:
        return engine.submit(_generate, requests).result()

    log_line("prove: starting the rollout engine")
    # a process of its own, as in a run: vLLM changes the classes of models that it takes over
    with ProcessPoolExecutor(1, get_context("spawn")) as engine:

        def compare() -> str:
            return _nats(engine_gap(generate, model, renderer))

        opened = _checked("engine", lambda: engine.submit(_open, path, max_model_len).result())
        yield opened
        if opened.problem:
            return
        yield _checked("learner = engine, at load", compare)
        for version in (1, 2):
            move(model, version)
            if version == 2:
                yield _checked("a missed update is seen", lambda: _seen(generate, model, renderer))
            engine.submit(_load, weights_of(model, version)).result()
            yield _checked(f"learner = engine, after update {version}", compare)


_WORKERS: list[RolloutWorker] = []  # of the engine's process


def _open(path: Path, max_model_len: int) -> str:
    from actors.rollout.worker import RolloutWorker

    warnings.simplefilter("ignore")
    _WORKERS[:] = [
        RolloutWorker(
            "prove", path, max_model_len=max_model_len, dtype="float32", seed=0, sync="object_store"
        )
    ]
    return "vLLM, float32"


def _generate(requests: list[GenerationRequest]) -> list[GenerationResult]:
    return _WORKERS[0].generate(requests)


def _load(bucket: WeightBucket) -> int:
    return _WORKERS[0].load_weights(bucket)


def _seen(generate: Generate, model: Any, renderer: Renderer) -> str:
    gap = engine_gap(generate, model, renderer)
    if gap <= NATS:
        raise ValueError(f"weights that moved by {UPDATE} change nothing ({gap:.0e} nats)")
    return f"{gap:.2g} nats"


def engine_gap(generate: Generate, model: Any, renderer: Renderer) -> float:
    """Return the largest difference, in nats, between the log-probabilities that an engine drew
    tokens with and those of `model`, from one packed line of a tree for each prompt.
    """
    import torch

    from bimode.learner.packing import pack
    from bimode.learner.policy import Policy
    from bimode.modes import Mode
    from bimode.records import GenerationRequest

    asked = prompts(renderer)
    modes = (Mode.AUTO, Mode.NON_THINKING)
    requests = [GenerationRequest(p, m, 3, 1.0, TOKENS, seed=1) for p in asked for m in modes]
    results = generate(requests)
    if refused := [result.refused for result in results if result.refused]:
        raise ValueError(f"the engine refuses a prompt: {refused[0]}")
    trees = []
    for at, prompt in enumerate(asked):
        completions = [c for result in results[2 * at : 2 * at + 2] for c in result.completions]
        trees.append([_sample(completion, prompt.images) for completion in completions])
    images = [renderer.encode_images(prompt.images) for prompt in asked]
    batch = pack(trees, images, renderer.family, model.model)
    with torch.no_grad():
        logprobs_N, _ = Policy(model)(batch)
    drawn_N = ~batch.behavior_logprobs_N.isnan()
    return float((logprobs_N - batch.behavior_logprobs_N)[drawn_N].abs().max())


def prompts(renderer: Renderer) -> list[Prompt]:
    """Return prompts with two, one and no image; a text model gets none."""
    from bimode.learner.packing_check import IMAGE_SIZES, QUESTIONS, noise_png
    from bimode.records import Prompt

    draw = random.Random(1)
    made = []
    for number, (question, sizes) in enumerate(zip(QUESTIONS, IMAGE_SIZES, strict=True)):
        pictured = sizes if renderer.kind == "image_text" else ()
        images = tuple(noise_png(draw, *size) for size in pictured)
        made.append(Prompt(str(number), question, images, "1", "exact", "{}", "prove", "easy"))
    return made


def _sample(completion: Completion, images: tuple[bytes, ...]) -> TrainingSample:
    from bimode.records import TrainingSample

    ones = (1.0,) * completion.num_tokens
    return TrainingSample(
        prompt_ids=completion.prompt_ids,
        token_ids_T=completion.token_ids_T,
        loss_mask_T=ones,
        advantages_T=ones,
        behavior_logprobs_T=completion.logprobs_T,
        images=images,
        mode=completion.mode,
        origin=completion.prompt_id,
        versions_T=completion.versions_T,
    )


def move(model: Any, seed: int) -> None:
    """Change every weight, as an update would."""
    import torch

    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += UPDATE * torch.randn(parameter.shape, generator=noise)


def _saved(model: Any, renderer: Renderer, folder: Path) -> str:
    """Compare names, layout and weights of a saved model with the one in memory."""
    import torch

    from bimode.renderer import load_model, save_model

    save_model(model, folder)
    renderer.processor.save_pretrained(folder)
    again = dict(load_model(folder, torch.float32).named_parameters())
    for name, parameter in model.named_parameters():
        if name not in again or not torch.equal(parameter, again[name]):
            raise ValueError(f"{name} is not what was saved")
    return f"{len(again)} parameters equal"


def show(model: Path, checks: Sequence[Check]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=str(model))
    table.add_column("check", no_wrap=True)
    table.add_column("found")
    table.add_column("verdict")
    for check in checks:
        table.add_row(check.name, check.value, check.problem or "ok")
    Console().print(table)


if __name__ == "__main__":
    from pipelines import main

    main("prove")
