"""Tag quality: tags from 8 attempts in each mode against what 64 more say, with and without the correction for guessing.

Questions of the image families' evaluation split, which no model of the repository has trained on, a quarter each of one, two,
three, and four or five operands; three operands occur nowhere in training, and direct answers to them come out between right and
wrong. Curation's own sampler draws 72 attempts in each mode; the first 8 make the tag, the other 64 the truth. Every response is
marked as the number that it is, and as if the question had had four and two options (the number's remainder by 4 and by 2): the
families have no multiple-choice questions, and the shipped model's tokenizer has no word to answer one with.

    python benchmarks/tag_quality.py --out runs/tags
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.peers.command import errors_in_one_line
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
)  # fmt: skip
from bimode.config import Recipe
from bimode.modes import Mode
from bimode.recipe import load_recipe
from bimode.records import Sample
from data_curation.families import FAMILIES, canvas
from data_curation.ingest import candidates
from data_curation.rollouts import read_cache, sample_rollouts
from data_curation.store import Store

REPO = Path(__file__).resolve().parents[1]
RECIPE = REPO / "pipelines/recipes/tiny-bpo.toml"  # whose model is assets/tiny-annealed
TRUTH = 64
FAMILY_NAMES = ("digits", "charts", "arithmetic")
STRATA = (("easy", (1,)), ("mid", (2,)), ("mid", (3,)), ("hard", (4, 5)))  # level and numbers of operands
ITEMS = 600
COLUMNS = ("file", "row", "id", "content")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=ITEMS, help="questions (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the questions")
    parser.add_argument("--judge", default="", metavar="DIR", help="a chat model that judges the questions too")
    parser.add_argument("--out", type=Path, help="keep the attempts there: a second call samples what is missing")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe, e.g. model.base=DIR")
    options = parser.parse_args()
    own = [f"curate.rollouts.n={TAGGED + TRUTH}", "curate.rollouts.max_tokens=48", f'curate.judge.model="{options.judge}"']
    with errors_in_one_line(), TemporaryDirectory() as name:
        recipe = load_recipe(RECIPE, (*own, *options.set))
        items, judged = collect(recipe, draw(options.items, options.seed), options.out or Path(name))
        report(items, recipe, judged)


def draw(count: int, seed: int) -> list[Sample]:
    """Questions of the evaluation split: families in turn, and within each the strata in turn."""
    samples = []
    for at in range(count):
        index, which = divmod(at, len(FAMILY_NAMES))
        level, operands = STRATA[index % len(STRATA)]
        weights = tuple(float(name == level) for name in canvas.LEVELS)
        with patch.dict(canvas.LEVELS, {level: operands}):  # the families know no level of three
            samples.append(FAMILIES[FAMILY_NAMES[which]](index, "eval", seed, weights))  # type: ignore[arg-type]  # three
    return samples


def collect(recipe: Recipe, samples: Sequence[Sample], out: Path) -> tuple[dict[str, list[Item]], list[str] | None]:
    """The questions with their attempts, by marking, in the order of `samples`; and the judge's verdicts on them, if one is named."""
    from cluster.session import connect
    from data_curation.judge import sample_verdicts
    from pipelines import curate_models
    from pipelines.harness import base_directory

    out.mkdir(parents=True, exist_ok=True)
    file = out / "candidates.parquet"
    pq.write_table(candidates(samples, "eval", recipe.curate), file)
    store = Store([file], out / "scratch")
    chosen = store.table(COLUMNS, "reason = ''", "file, row")
    if chosen.num_rows < len(samples):
        raise SystemExit(f"error: {len(samples) - chosen.num_rows} questions were refused")
    with connect(recipe.cluster):
        began, done = time.monotonic(), Counter[str]()
        who = curate_models.tagger(recipe, base_directory(recipe.model.base))
        folder = sample_rollouts(store, chosen, who, out / "rollouts", lambda n: done.update(attempts=n))
        print(
            f"{done['attempts']} attempts of {who.name} at {len(samples)} questions: {time.monotonic() - began:.0f} s", flush=True
        )
        judged = None
        if recipe.curate.judge.model:
            judge = curate_models.judge(recipe, base_directory(recipe.curate.judge.model))
            verdicts = sample_verdicts(store.files, chosen, judge, out / "judge", lambda n: None)
            mode_of = {verdict.id: verdict.mode for verdict in verdicts}
            judged = [mode_of[sample.id] for sample in samples]
    store.close()
    return mark_all(samples, folder, chosen), judged


def mark_all(samples: Sequence[Sample], folder: Path, chosen: pa.Table) -> dict[str, list[Item]]:
    """The first attempts of the cache at each sample, under every marking."""
    content_of, n = dict(zip(chosen["id"].to_pylist(), chosen["content"].to_pylist(), strict=True)), TAGGED + TRUTH
    texts: dict[tuple[str, str], dict[int, str]] = {}
    for rollout in read_cache(folder):
        if content_of.get(rollout.id) == rollout.content and rollout.attempt < n:
            texts.setdefault((rollout.id, rollout.mode), {})[rollout.attempt] = rollout.text
    items: dict[str, list[Item]] = {marking: [] for marking in MARKINGS}
    for sample in samples:
        found = [texts.get((sample.id, mode), {}) for mode in (Mode.NON_THINKING, Mode.THINKING)]
        if min(map(len, found)) < n:
            raise SystemExit(f"error: the engine refused attempts at {sample.id}")
        direct, think = ([each[at] for at in range(n)] for each in found)
        operands = json.loads(sample.difficulty)["operands"]
        item = Item(sample.id, sample.task, operands, len(sample.question), sample.guess_rate, (), ())
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
            console.print(f"wrong numbers that are right as {marking}: {right} of {wrong}, {right / wrong:.3f}")
    for other in (*RULES[1:], *BASELINES, ORACLE):
        difference = pooled(scores, "corrected", other)
        console.print(f"corrected minus {other}, all markings: {difference[0]:+.3f} [{difference[1]:+.3f}, {difference[2]:+.3f}]")
    if judged is None:
        console.print("judge: not available, no judge model ships with the project; --judge DIR names one")
    print(json.dumps(figure(scores)))


def figure(scores: Sequence[Score]) -> dict[str, object]:
    """The line of JSON: agreement of the corrected rule over that of the best baseline which real data has, too."""
    methods = list(dict.fromkeys(s.method for s in scores))
    found = {method: [round(value, 4) for value in pooled(scores, method)] for method in methods}
    peer = max(found[method][0] for method in methods if method not in (*RULES, ORACLE))
    runs = [
        {"marking": s.marking, "method": s.method, "agreement": round(s.agreement, 4), "low": round(s.low, 4),
         "high": round(s.high, 4), "kappa": None if s.kappa != s.kappa else round(s.kappa, 4), "n": s.n, "confusion": s.confusion}
        for s in scores
    ] + [{"marking": "all", "method": method, "agreement": v[0], "low": v[1], "high": v[2]} for method, v in found.items()]  # fmt: skip
    ours = found["corrected"][0]
    return {
        "name": "tag_quality", "ratio": round(ours / peer, 4), "goal": None, "ours": ours, "peer": peer, "unit": "agreement",
        "runs": runs,
    }  # fmt: skip


def rates_table(items: dict[str, list[Item]]) -> Table:
    """Mean pass rates of all attempts, by family and operands."""
    table = Table("family", "operands", "questions", title="pass rates of all attempts, direct / thinking")
    for marking in MARKINGS:
        table.add_column(marking, justify="right")
    groups: dict[tuple[str, int], list[int]] = {}
    for at, item in enumerate(items["number"]):
        groups.setdefault((item.task, item.operands), []).append(at)
    for (task, operands), places in sorted(groups.items()):
        cells = []
        for of_marking in items.values():
            each = [[sum(passed) / len(passed) for at in places for passed in (getattr(of_marking[at], mode),)]
                    for mode in ("direct", "think")]  # fmt: skip
            cells.append(" / ".join(f"{sum(rates) / len(rates):.2f}" for rates in each))
        table.add_row(task, str(operands), str(len(places)), *cells)
    return table


def agreement_table(scores: Sequence[Score], own: Sequence[Score]) -> Table:
    """Every method under every marking, and over all of them."""
    table = Table("marking", "method", title="agreement with the truth (95 % Wilson; all markings: bootstrap over questions)")
    for name in ("agreement", "interval", "kappa", "clear: right", "either", "opposite", "own truth"):
        table.add_column(name, justify="right")
    for s, o in zip(scores, own, strict=True):
        clear = [f"{part / s.clear:.3f}" if s.clear else "-" for part in (s.clear_right, s.clear_either, s.clear_opposite)]
        row = [f"{s.agreement:.3f}", f"[{s.low:.3f}, {s.high:.3f}]", f"{s.kappa:.2f}", *clear, f"{o.agreement:.3f}"]
        table.add_row(s.marking, s.method, *row, end_section=s.method == ORACLE)
    for method in dict.fromkeys(s.method for s in scores):
        mean, low, high = pooled(scores, method)
        table.add_row("all", method, f"{mean:.3f}", f"[{low:.3f}, {high:.3f}]", *[""] * 4, f"{pooled(own, method)[0]:.3f}")
    return table


def confusion_table(scores: Sequence[Score]) -> Table:
    """Truth by tag of one rule, a block of columns a marking."""
    table = Table("truth", title=f"tags by rule {scores[0].method}: " + " | ".join(s.marking for s in scores))
    for s in scores:
        for word in CLASSES:
            table.add_column(word, justify="right")
    for at, word in enumerate(CLASSES):
        table.add_row(word, *(str(count) for s in scores for count in s.confusion[at]))
    return table


if __name__ == "__main__":
    main()
