"""Every model of a run on held-out sources, in three modes, greedy: what it is worth, what it
costs, when it thinks.

    base, anneal, bpo -> responses -> verdicts -> report.json, *.png, report.html

Where h_acc is wanted, some items are also sampled in both forced modes. Verdicts are kept in the
run's `cache/` by model, questions, settings and the verifiers' code: an evaluation which was
stopped goes on with the next model, and no model is asked the same twice.

    python -m pipelines.evaluate pipelines/recipes/tiny.toml --out runs/demo
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bimode.config.recipe import EvaluateConfig, Recipe
from bimode.errors import ConfigError, RowNote, StarvedError, config_errors, one_of
from bimode.evaluation.routing import ItemResult, Outcome
from bimode.modes import Mode, parse_response
from bimode.records import Completion, GenerationRequest, GenerationResult, Prompt
from bimode.storage.run_dir import (
    StageDir,
    StageResult,
    digest_bytes,
    digest_json,
    digest_path,
    provenance_of,
    read_json,
    write_atomic,
)

if TYPE_CHECKING:
    from actors.rollout.evaluator import Evaluator

NOT_MODELS = ("data", "metrics")
WRONG = Outcome(correct=False, tokens=0, thought=False)  # of a question that the engine refuses


def inputs(recipe: Recipe, run: Path) -> dict[str, Path]:
    """Return the curated data and the models of the recipe's stages; every input but `data` and
    `metrics` is a model.
    """
    from pipelines.harness import base_model

    trained = [stage for stage in ("anneal", "bpo") if stage in recipe.stages]
    models = {"base": base_model(recipe, run)} | {stage: run / stage / "model" for stage in trained}
    metrics = {"metrics": run / "bpo" / "metrics.jsonl"} if "bpo" in recipe.stages else {}
    return {"data": run / "curate" / "data", **models, **metrics}


def config(recipe: Recipe) -> Any:
    """Return the settings that the numbers depend on, without the number of workers and their
    timeouts.
    """
    return {
        "evaluate": recipe.evaluate.model_dump(
            mode="json", exclude={"workers", "worker_timeout_s"}
        ),
        "model": recipe.model.model_dump(mode="json", exclude={"base"}),
        "plugins": recipe.curate.verifier_digests,
        "seed": recipe.seed,
    }


def check(recipe: Recipe, inputs: dict[str, Path], flagged: bool = False) -> None:
    """Raise ConfigError if there are no questions or a model cannot be loaded; with the input's own
    flag if they are `flagged`.
    """
    from bimode.renderer import Renderer
    from bimode.storage.dataset import PROMPT_COLUMNS, check_split

    with config_errors("--data" if flagged else "--out"):
        check_split(inputs["data"], recipe.evaluate.split, PROMPT_COLUMNS)
    for name, path in models_of(inputs).items():
        with config_errors("--model" if flagged else "model.base" if name == "base" else "--out"):
            _ = Renderer(
                path
            ).processor  # refuses another kind of model, and one without its tokenizer


def modes_override(text: str) -> str:
    """Return the override that `--modes A,B` stands for. Raises ConfigError for an unknown mode."""
    named = [one_of("--modes", mode.strip(), list(Mode)) for mode in text.split(",")]
    return f"evaluate.modes={json.dumps(named)}"


def evaluate_model(
    recipe: Path | None,
    model: Path,
    data: Path,
    out: str,
    overrides: Sequence[str],
    seed: int | None,
) -> Path:
    """Evaluate `model` on `data`. Returns the folder of the report.

    Everything else is as in `recipe`, or at its defaults, which are those of the tiny model.
    """
    from bimode.config.recipe import Recipe
    from cluster.session import output_directory, prepare_process
    from pipelines.harness import run_stages
    from pipelines.progress import if_slow, log_line
    from pipelines.saved_recipe import load

    for key, path in (("--model", model), ("--data", data)):
        if not path.is_dir():
            raise ConfigError(key, path, "no such directory")
    model, data = model.absolute(), data.absolute()
    if (data / "curate" / "data").is_dir():  # a run's directory
        data = data / "curate" / "data"
    name = name_of(model)
    changes = (*overrides, 'stages=["evaluate"]', f"model.base={model}")
    loaded = load(recipe, changes, seed) if recipe else Recipe.of({"name": name}, changes, seed)
    prepare_process(
        loaded.cluster
    )  # before the import of transformers, which reads the environment
    with if_slow("evaluate: looking at the model and the data"):
        check(loaded, {"data": data, "model": model}, flagged=True)
    if recipe is None:
        limits = (
            f"evaluate.max_tokens = {loaded.evaluate.max_tokens},"
            f" model.max_model_len = {loaded.model.max_model_len}"
        )
        log_line(f"evaluate: without a recipe: {limits}; name a RECIPE too, or --set them")
    folder = output_directory(out)
    run_stages(("evaluate",), loaded, folder, {"data": data, name: model})
    return folder / "evaluate"


def models_of(inputs: dict[str, Path]) -> dict[str, Path]:
    """Return the models among `inputs`, in their order."""
    return {name: path for name, path in inputs.items() if name not in NOT_MODELS}


def name_of(model: Path) -> str:
    """Return e.g. `demo/bpo` for a run's model, else the end of its path, `A/model`."""
    made, path = provenance_of(model), model.absolute()
    return f"{made.run.name}/{made.stage}" if made else f"{path.parent.name or 'model'}/{path.name}"


def execute(recipe: Recipe, stage: StageDir, inputs: dict[str, Path]) -> StageResult:
    """Evaluate the models of `inputs` in order and write the report."""
    from bimode.inputs.prompt_limits import read_prompts
    from bimode.storage.dataset import split_files
    from pipelines.progress import log_line

    settings, own = recipe.evaluate, recipe.curate.verifiers
    prompts = list({p.id: p for p in read_prompts(inputs["data"], settings.split, own)}.values())
    if not prompts:
        raise StarvedError(
            f"no {settings.split} rows in {inputs['data']}: raise curate.{settings.split}"
        )
    digest = digest_json(
        [(f.name, digest_path(f)) for f in split_files(inputs["data"], settings.split)]
    )
    results = evaluate_models(recipe, stage, models_of(inputs), prompts, digest)
    data: dict[str, Any] = {"digest": digest, "n": len(prompts), "split": settings.split}
    data["refused"] = refused_items(results)
    for name, found in data["refused"].items():
        first = found["items"][0]
        count = f"{found['n']} of {len(prompts)} questions are refused and count as wrong"
        log_line(f"evaluate: {name}: {count}; {first['id']}: {first['reason']}")
    figures = write_report(recipe, stage, results, prompts, data, inputs.get("metrics"))
    answered = [item for items in results.values() for item in items if not item.refused]
    responses = sum(len(item.greedy) + sum(map(len, item.sampled.values())) for item in answered)
    return StageResult(
        outputs=("report.json", "report.html", "results", *figures),
        counts={"items": len(prompts), "models": list(results), "responses": responses},
    )


def evaluate_models(
    recipe: Recipe,
    stage: StageDir,
    models: dict[str, Path],
    prompts: Sequence[Prompt],
    data_digest: str,
) -> dict[str, list[ItemResult]]:
    """Return the judged responses by model, in the order of `models`; those in the run's cache are
    read.
    """
    from actors.rollout.evaluator import Evaluator
    from cluster.placement import plan
    from pipelines.progress import counted, log_line, track
    from pipelines.report.results import read_results, write_results

    (role,) = plan("evaluate", recipe)
    settings = recipe.evaluate
    requests = make_requests(prompts, settings, recipe.seed)
    kept = {
        name: verdict_file(recipe, stage.run, path, data_digest) for name, path in models.items()
    }
    if asked := [name for name in models if not kept[name].is_file()]:
        log_line(f"evaluate: loading {asked[0]} into {counted(settings.workers, 'engine')}")
    found: dict[str, list[ItemResult]] = {}
    with (
        Evaluator(
            recipe.model,
            workers=settings.workers,
            options=role.options(),
            seed=recipe.seed,
            timeout_s=settings.worker_timeout_s,
            on_event=lambda line: log_line(f"evaluate: {line}"),
        ) as evaluator,
        track("evaluate", total=len(models) * len(requests), unit="request") as bar,
    ):
        for name, path in models.items():
            if kept[name].is_file():
                bar.kept(len(requests))
            else:
                evaluator.open(_prepared(path, stage.path / "prepared" / name, recipe.seed))
                write_results(
                    kept[name], ask(evaluator, prompts, requests, partial(bar.advance, note=name))
                )
            found[name] = read_results(kept[name])
            write_results(stage.path / "results" / f"{name}.jsonl", found[name])
    return found


def verdict_file(recipe: Recipe, run: Path, model: Path, data_digest: str) -> Path:
    """Return the cache file of a model's verdicts, named by all that they depend on, the verifiers'
    code included.
    """
    from bimode.grading.verify import code_digest

    key = digest_json([config(recipe), data_digest, digest_path(model), code_digest()])
    return run / "cache" / "verdicts" / f"{key}.jsonl"


def _prepared(path: Path, root: Path, seed: int) -> Path:
    """Return `path` itself if it has the tags and the template, else a completed copy in `root`,
    which is logged.
    """
    from bimode.models.prepare_model import prepare_base
    from pipelines.progress import log_line

    prepared, added = prepare_base(str(path), root, seed)
    if prepared != path:
        lacked = ", ".join(map(repr, added)) or "the chat template"
        log_line(f"evaluate: {path} lacked {lacked}; a completed copy is evaluated: {prepared}")
    return prepared


def make_requests(
    prompts: Sequence[Prompt], settings: EvaluateConfig, seed: int
) -> list[GenerationRequest]:
    """Make greedy requests in every mode for all prompts, then samples in the forced modes for
    `h_acc_items` of them.
    """
    modes = [Mode(mode) for mode in settings.modes]
    greedy = [
        GenerationRequest(p, mode, 1, 0.0, settings.max_tokens, seed)
        for p in prompts
        for mode in modes
    ]
    if not settings.h_acc_samples or set(modes) != set(Mode):
        return greedy
    sampled = sorted(prompts, key=lambda p: digest_bytes(p.id.encode()))[: settings.h_acc_items]
    return greedy + [
        GenerationRequest(
            p, mode, settings.h_acc_samples, settings.h_acc_temperature, settings.max_tokens, seed
        )
        for p in sampled
        for mode in (Mode.THINKING, Mode.NON_THINKING)
    ]


def ask(
    evaluator: Evaluator,
    prompts: Sequence[Prompt],
    requests: Sequence[GenerationRequest],
    on_done: Callable[[int], None],
) -> list[ItemResult]:
    """All `requests` to the open model, judged and put together by item, in the order of `prompts`.

    A question that the engine refuses, or whose answer cannot be judged, counts as wrong. Raises
    StarvedError if all are such.
    """
    results = evaluator.generate(requests, on_done)
    greedy: dict[str, dict[Mode, Outcome]] = {p.id: {} for p in prompts}
    sampled: dict[str, dict[Mode, tuple[Outcome, ...]]] = {p.id: {} for p in prompts}
    refused: dict[str, str] = {}
    for request, result in zip(requests, results, strict=True):
        name = request.prompt.id
        outcomes, why = judged(request, result)
        if why:
            refused[name] = why
        elif request.temperature == 0.0:
            greedy[name][request.mode] = outcomes[0]
        else:
            sampled[name][request.mode] = outcomes
    wrong = {request.mode: WRONG for request in requests if request.temperature == 0.0}
    for name in refused:  # in every mode, though one may have given nothing to judge
        greedy[name], sampled[name] = wrong, {}
    if len(refused) == len(prompts):
        name, why = next(iter(refused.items()))
        every = f"every question is refused ({len(prompts)})"
        raise StarvedError(f"{every}; the first was {name}: {why}")
    return [
        ItemResult(
            p.id, p.task, p.level, p.question, greedy[p.id], sampled[p.id], refused.get(p.id, "")
        )
        for p in prompts
    ]


def judged(request: GenerationRequest, result: GenerationResult) -> tuple[tuple[Outcome, ...], str]:
    """Return the outcomes of a request and "", or none and the reason for the refusal."""
    if result.refused:
        return (), result.refused
    try:
        with RowNote(request.prompt.id):
            return tuple(judge(request.prompt, each) for each in result.completions), ""
    except (
        ValueError
    ) as error:  # of a row that curation has not seen: a verifier that does not exist
        return (), f"its answer cannot be judged: {error}"


def refused_items(results: Mapping[str, Sequence[ItemResult]]) -> dict[str, Any]:
    """Return, by model, how many questions its engine refused and which; models without refusals
    are left out.
    """
    found = {}
    for name, items in results.items():
        refused = [{"id": item.id, "reason": item.refused} for item in items if item.refused]
        if refused:
            found[name] = {"n": len(refused), "items": refused}
    return found


def judge(prompt: Prompt, completion: Completion) -> Outcome:
    """Judge a response; one that was cut off is wrong, as in training."""
    from bimode.grading.verify import is_right

    return Outcome(
        is_right(completion, prompt),
        completion.num_tokens,
        parse_response(completion.text).is_thinking,
        completion.text,
    )


def write_report(
    recipe: Recipe,
    stage: StageDir,
    results: dict[str, list[ItemResult]],
    prompts: Sequence[Prompt],
    data: dict[str, Any],
    metrics: Path | None,
) -> list[str]:
    """Write report.json, the figures and report.html; return the names of the figures' files."""
    from pipelines.harness import package_versions
    from pipelines.report import numbers, page, plots

    settings = recipe.evaluate
    sampling = {
        "temperature": 0.0,
        "max_tokens": settings.max_tokens,
        "h_acc_samples": settings.h_acc_samples,
        "h_acc_items": min(settings.h_acc_items, len(prompts)),
        "h_acc_temperature": settings.h_acc_temperature,
        "bootstrap": settings.bootstrap,
        "seed": recipe.seed,
        "dtype": recipe.model.dtype,
    }
    report = numbers.report(
        results,
        rounds=settings.bootstrap,
        seed=recipe.seed,
        max_tokens=settings.max_tokens,
        data=data,
        sampling=sampling,
        versions=package_versions(),
    )
    write_atomic(stage.path / "report.json", json.dumps(report, indent=1))
    figures = plots.draw(results, report, metrics, stage.path)
    curated = (read_json(stage.run / "curate" / "manifest.json") or {}).get("counts", {})
    trained = (
        (read_json(stage.run / "bpo" / "manifest.json") or {}).get("config", {}).get("bpo", {})
    )
    alarms = [alarm for step in plots.read_metrics(metrics) for alarm in step.get("alarms", [])]
    run = page.Run(recipe.name, curated, bpo=trained if "bpo" in results else {}, alarms=alarms)
    write_atomic(stage.path / "report.html", page.render(report, results, prompts, figures, run))
    return [f"{name}.png" for name in figures]


if __name__ == "__main__":
    from pipelines import main

    main("evaluate")
