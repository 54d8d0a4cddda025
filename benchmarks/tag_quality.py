"""Tag quality: tags from 8 attempts in each mode against what 64 more say, with and without the
correction for guessing.

Questions of the image families' evaluation split, which no model of the repository has trained on:
a quarter each of one, two, three, and four or five operands (three occur nowhere in training
either), and half of all pictures with noise that training never had, so that pass rates between the
ends occur. Curation's own sampler draws 72 attempts in each mode; the first 8 make the tag, the
other 64 the truth. Every response is marked as the number that it is, and as if the question had
had four and two options (the number's remainder by 4 and by 2): the families have no
multiple-choice questions, and the shipped model's tokenizer has no word to answer one with.

    python benchmarks/tag_quality.py --out runs/tags --make-judge .stamps/smollm2
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.peers.command import errors_in_one_line
from benchmarks.peers.smollm2 import KEEP_TO_WORDS, make_smollm2
from benchmarks.peers.tag_scores import (
    BASELINES,
    CLASSES,
    MARKINGS,
    ORACLE,
    RULES,
    TAGGED,
    Item,
    Score,
    lucky,
    marked,
    pooled,
    score_all,
)
from bimode.config.recipe import Recipe
from bimode.errors import ConfigError
from bimode.modes import Mode
from bimode.records import Sample
from bimode.renderer import model_kind
from data_curation.demo import FAMILIES, canvas
from data_curation.sampling.cache import read_replies
from data_curation.sampling.prompt_job import run_job
from data_curation.sources.ingest import candidates
from data_curation.store import Store

REPO = Path(__file__).resolve().parents[1]
RECIPE = REPO / "pipelines/recipes/tiny-bpo.toml"  # whose model is assets/tiny-annealed
TRUTH = 64
FAMILY_NAMES = ("digits", "charts", "arithmetic")
STRATA = (
    ("easy", (1,)),
    ("mid", (2,)),
    ("mid", (3,)),
    ("hard", (4, 5)),
)  # level and numbers of operands
NOISE = (0.05, 0.25)  # standard deviation, of the range of gray; the families draw with 0.03
ITEMS = 360
COLUMNS = ("file", "row", "id", "content")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=ITEMS, help="questions (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the questions")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--judge", type=Path, metavar="DIR", help="a chat model that judges the questions too"
    )
    which.add_argument(
        "--make-judge",
        type=Path,
        metavar="DIR",
        help="make SmolLM2 there, if it is not there yet, as the judge",
    )
    parser.add_argument(
        "--out", type=Path, help="keep the attempts there: a second call samples what is missing"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of the recipe, e.g. model.base=DIR",
    )
    options = parser.parse_args()
    own = [f"curate.rollouts.n={TAGGED + TRUTH}", "curate.rollouts.max_tokens=48"]
    with errors_in_one_line(), TemporaryDirectory() as name:
        if options.items < 1:
            raise ConfigError("--items", options.items, "at least one")
        if judge := make_smollm2(options.make_judge) if options.make_judge else options.judge:
            sees = model_kind(judge) == "image_text"
            own += [
                f'curate.judge.model="{judge.resolve()}"',
                f"curate.judge.images={str(sees).lower()}",
            ]
            own += [KEEP_TO_WORDS] if options.make_judge else []
        recipe = Recipe.load(RECIPE, (*own, *options.set))
        items, judged = collect(
            recipe, draw(options.items, options.seed), options.out or Path(name)
        )
        report(items, recipe, judged)


def draw(count: int, seed: int) -> list[tuple[Sample, str]]:
    """Questions with their knob: families in turn, within each the strata in turn, and then clean
    and noisy pictures in turn.
    """
    sampled = []
    for at in range(count):
        index, which = divmod(at, len(FAMILY_NAMES))
        noisy, stratum = divmod(index, len(STRATA))
        level, operands = STRATA[stratum]
        weights = (float(level == "easy"), float(level == "mid"), float(level == "hard"))
        with patch.dict(canvas.LEVELS, {level: operands}):  # the families know no level of three
            sample = FAMILIES[FAMILY_NAMES[which]](index, "eval", seed, weights)
        knob = str(json.loads(sample.difficulty)["operands"])
        sampled.append((add_noise(sample, seed), f"{knob} noisy") if noisy % 2 else (sample, knob))
    return sampled


def add_noise(sample: Sample, seed: int) -> Sample:
    """`sample` with a picture that is harder to read, by an amount drawn from `NOISE`."""
    rng = canvas.rng_of("tag_quality", seed, sample.id)
    with Image.open(io.BytesIO(sample.images[0])) as image:
        gray = np.asarray(image, dtype=np.float64)
    pixels = np.clip(
        np.rint(gray + rng.normal(0.0, 255 * rng.uniform(*NOISE), gray.shape)), 0, 255
    ).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return replace(sample, images=(buffer.getvalue(),))


def collect(
    recipe: Recipe, sampled: Sequence[tuple[Sample, str]], out: Path
) -> tuple[dict[str, list[Item]], list[str] | None]:
    """The questions with their attempts, by marking, in the order of `started`; and a judge's
    verdicts on them, if one is named.
    """
    from cluster.session import connect
    from data_curation.tagging.judge import sample_verdicts
    from pipelines import curate_models
    from pipelines.harness import base_directory

    out.mkdir(parents=True, exist_ok=True)
    file = out / "candidates.parquet"
    pq.write_table(candidates([sample for sample, _ in sampled], "eval", recipe.curate), file)
    store = Store([file], out / "scratch")
    chosen = store.table(COLUMNS, "reason = ''", "file, row")
    if chosen.num_rows < len(sampled):
        raise SystemExit(f"error: {len(sampled) - chosen.num_rows} questions were refused")
    with connect(recipe.cluster):
        began, done = time.monotonic(), Counter[str]()
        who = curate_models.tagger(
            recipe, base_directory(recipe.model.base), Path(recipe.model.base).name
        )
        folder = run_job(
            store.files,
            chosen,
            who,
            out / "rollouts",
            lambda n: done.update(attempts=n * who.config.n),
        )
        seconds = time.monotonic() - began
        print(
            f"{done['attempts']} attempts of {who.name} at {len(sampled)} questions:"
            f" {seconds:.0f} s",
            flush=True,
        )
        judged = None
        if recipe.curate.judge.model:
            judge = curate_models.judge(recipe, base_directory(recipe.curate.judge.model))
            verdicts = sample_verdicts(store.files, chosen, judge, out / "judge", lambda n: None)
            mode_of = {verdict.id: verdict.mode for verdict in verdicts}
            judged = [mode_of[sample.id] for sample, _ in sampled]
    store.close()
    return mark_all(sampled, folder, chosen), judged


def mark_all(
    sampled: Sequence[tuple[Sample, str]], folder: Path, chosen: pa.Table
) -> dict[str, list[Item]]:
    """The first attempts of the cache at each sample, under every marking."""
    n = TAGGED + TRUTH
    texts: dict[tuple[str, str], dict[int, str]] = {}
    for _, replies in read_replies(folder, chosen):
        for reply in replies:
            if not reply.error and reply.number < n:
                texts.setdefault((reply.id, reply.mode), {})[reply.number] = reply.text
    items: dict[str, list[Item]] = {marking: [] for marking in MARKINGS}
    for sample, knob in sampled:
        found = [texts.get((sample.id, mode), {}) for mode in (Mode.NON_THINKING, Mode.THINKING)]
        if min(map(len, found)) < n:
            raise SystemExit(f"error: the engine refused attempts at {sample.id}")
        direct, think = ([each[at] for at in range(n)] for each in found)
        item = Item(sample.id, sample.task, knob, len(sample.question), sample.guess_rate, (), ())
        for marking, choices in MARKINGS.items():
            items[marking].append(marked(item, choices, sample.answer, direct, think))
    return items


def report(items: dict[str, list[Item]], recipe: Recipe, judged: Sequence[str] | None) -> None:
    """Prints the tables and, last, the line of JSON."""
    config, console = recipe.curate.tag, Console(width=130)
    scores, own = score_all(items, config, judged), score_all(items, config, judged, own_truth=True)
    console.print(rates_table(items))
    console.print(agreement_table(scores, own))
    for rule in RULES:
        console.print(confusion_table([s for s in scores if s.method == rule]))
    for marking in MARKINGS:
        right, wrong = lucky(items, marking)
        if wrong:
            console.print(
                f"wrong numbers that are right as {marking}: {right} of {wrong},"
                f" {right / wrong:.3f}"
            )
    for other in (*RULES[1:], *BASELINES, ORACLE):
        difference = pooled(scores, "corrected", other)
        console.print(
            f"corrected minus {other}, all markings: {difference[0]:+.3f} [{difference[1]:+.3f},"
            f" {difference[2]:+.3f}]"
        )
    if judged is None:
        console.print("judge: none was asked; --make-judge DIR fetches one, --judge DIR names one")
    print(json.dumps(figure(scores)))


def figure(scores: Sequence[Score]) -> dict[str, object]:
    """The line of JSON: agreement of the corrected rule over that of the best baseline which real
    data has, too.
    """
    methods = list(dict.fromkeys(s.method for s in scores))
    found = {method: [round(value, 4) for value in pooled(scores, method)] for method in methods}
    peer = max(found[method][0] for method in methods if method not in (*RULES, ORACLE))
    runs: list[dict[str, object]] = [
        {
            "marking": s.marking,
            "method": s.method,
            "n": s.n,
            "agreement": round(s.agreement, 4),
            "low": round(s.low, 4),
            "high": round(s.high, 4),
            "kappa": round(s.kappa, 4) if isfinite(s.kappa) else None,
            "confusion": s.confusion,
        }
        for s in scores
    ]
    runs += [
        {"marking": "all", "method": method, "agreement": v[0], "low": v[1], "high": v[2]}
        for method, v in found.items()
    ]
    ours = found["corrected"][0]
    return {
        "name": "tag_quality",
        "ratio": round(ours / peer, 4),
        "goal": None,
        "ours": ours,
        "peer": peer,
        "unit": "agreement",
        "runs": runs,
    }


def rates_table(items: dict[str, list[Item]]) -> Table:
    """Mean pass rates of all attempts, by family and knob."""
    table = Table(
        "family", "operands", "questions", title="pass rates of all attempts, direct / thinking"
    )
    for marking in MARKINGS:
        table.add_column(marking, justify="right")
    groups: dict[tuple[str, str], list[int]] = {}
    for at, item in enumerate(items["number"]):
        groups.setdefault((item.task, item.knob), []).append(at)
    for (task, knob), places in sorted(groups.items()):
        cells = (
            f"{_rate(each, places, 'direct')} / {_rate(each, places, 'think')}"
            for each in items.values()
        )
        table.add_row(task, knob, str(len(places)), *cells)
    return table


def _rate(items: Sequence[Item], places: Sequence[int], attempts: str) -> str:
    return f"{np.mean([getattr(items[at], attempts) for at in places]):.2f}"


def agreement_table(scores: Sequence[Score], own: Sequence[Score]) -> Table:
    """Every method under every marking, and over all of them."""
    table = Table(
        "marking",
        "method",
        title="agreement with the truth (95 % Wilson; all markings: bootstrap over questions)",
    )
    for name in (
        "agreement",
        "interval",
        "kappa",
        "clear: right",
        "either",
        "opposite",
        "own truth",
    ):
        table.add_column(name, justify="right")
    for s, o in zip(scores, own, strict=True):
        clear = [
            f"{part / s.clear:.3f}" if s.clear else "-"
            for part in (s.clear_right, s.clear_either, s.clear_opposite)
        ]
        row = [
            f"{s.agreement:.3f}",
            f"[{s.low:.3f}, {s.high:.3f}]",
            f"{s.kappa:.2f}",
            *clear,
            f"{o.agreement:.3f}",
        ]
        table.add_row(s.marking, s.method, *row, end_section=s.method == ORACLE)
    for method in dict.fromkeys(s.method for s in scores):
        mean, low, high = pooled(scores, method)
        table.add_row(
            "all",
            method,
            f"{mean:.3f}",
            f"[{low:.3f}, {high:.3f}]",
            *[""] * 4,
            f"{pooled(own, method)[0]:.3f}",
        )
    return table


def confusion_table(scores: Sequence[Score]) -> Table:
    """Truth by tag of one rule, a block of columns a marking."""
    table = Table(
        "truth", title=f"tags by rule {scores[0].method}: " + " | ".join(s.marking for s in scores)
    )
    for word in CLASSES * len(scores):
        table.add_column(word, justify="right")
    for at, word in enumerate(CLASSES):
        table.add_row(word, *(str(count) for s in scores for count in s.confusion[at]))
    return table


if __name__ == "__main__":
    main()
