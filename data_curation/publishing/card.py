"""The data set card: what a reader of the published folder has to know before using it, and YAML
for the Hub and for `datasets`.

It is a function of the data and the recipe alone: equal work gives equal bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from bimode.config.curate import CurateConfig
from bimode.evaluation.percent import percent
from bimode.grading.verify import OPEN
from bimode.modes import Mode
from bimode.storage.dataset import HF_FEATURES
from data_curation.checks.validate import REASONS
from data_curation.publishing.funnel import SourceCount, funnel, source_counts
from data_curation.publishing.published import Published
from data_curation.publishing.wording import COLUMNS, RULES, short
from data_curation.store import Store

HUB_LICENSES = frozenset(
    (
        "apache-2.0",
        "mit",
        "bsd-2-clause",
        "bsd-3-clause",
        "cc0-1.0",
        "cc-by-4.0",
        "cc-by-sa-4.0",
        "cc-by-sa-3.0",
        "cc-by-nc-4.0",
        "cc-by-nc-sa-4.0",
        "odc-by",
        "odbl",
        "gpl-3.0",
        "lgpl-3.0",
        "cdla-permissive-2.0",
    )
)
SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
EVIDENCE = {"pass_rate": "pass rates", "judge": "verdicts"}  # by `mode_reason`
TAGGED_TRAIN = "reason = '' AND mode_reason <> 'untagged' AND split = 'train'"
SHOWN = {  # what a format teaches
    Mode.NON_THINKING: "an answer given at once",
    Mode.THINKING: "reasoning and then an answer",
    "transcription": "what the picture holds",
}
LOAD = """```python
from datasets import load_dataset

data = load_dataset("FOLDER", split="train")  # the folder that this file is in
row = data[0]
row["images"]  # PIL images
row["messages"][-1]["content"]  # "<think>...</think>answer"
```"""
TAG_LIMITS = (
    (
        "A tag says what the model named above could do with a question, not what every model can."
        " It was sampled a few times: with 8 attempts the interval of a pass rate is up to 0.5"
        " wide; `tags/tags.parquet` has it for each question."
    ),
    (
        "A question that blind answers often get right (`guess_rate`) needs more attempts than it"
        " was given to be told from luck."
    ),
)
REASONING_LIMITS = (
    (
        "Reasoning labelled `oracle` was written by the source or its generator; a model would put"
        " it in other words."
    ),
)
LIMITS = (
    (
        "Evaluation items of few words are compared by image and question only, and not by their"
        " words. A paraphrase of one escapes."
    ),
    (
        "Answers are checked by programs that read the final answer; a right answer for a wrong"
        " reason passes."
    ),
)


def card(store: Store, published: Published, config: CurateConfig, folder: Path, name: str) -> str:
    """README.md of the data in `folder`, called `name`."""
    sources = source_counts(store)
    origins = [
        (source.source or "(unreadable)", source.license, source.read, source.kept)
        for source in sources
    ]
    pictured = bool(store.counts(["image_sha256 <> ''"], "reason = ''").get(True))
    summary = _summary(published, pictured, OPEN in store.counts(["verifier"], "reason = ''"))
    parts = [
        _front_matter(published, licenses_of(sources), pictured, name),
        f"# {short(name, 100)}",
        summary,
        "## Splits",
        _table(("split", "rows"), published.rows.items()),
        _formats(published),
        "## How to load",
        LOAD,
        "## How rows were chosen",
        _chosen(store),
        "## Tags",
        _tags(store, published, config),
        "## Traces",
        _traces(folder),
        "## Sources and licences",
        _table(("source", "licence", "rows read", "kept"), origins),
        "## Columns",
        "\n".join(f"- `{name}`: {text}" for name, text in COLUMNS.items()),
        "## Known limits",
        "\n".join(f"- {limit}" for limit in _limits(published)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def licenses_of(sources: Iterable[SourceCount]) -> list[str]:
    """The licences of what is in the data, without repeats."""
    return sorted({source.license for source in sources if source.kept})


def _front_matter(published: Published, licences: Sequence[str], pictured: bool, name: str) -> str:
    total = sum(published.rows.values())
    one = licences[0].lower() if len(licences) == 1 else ""
    tasks = (
        ["visual-question-answering", "question-answering"] if pictured else ["question-answering"]
    )
    size = next((name for bound, name in SIZES if total < bound), "n>10M")
    lines = [
        "---",
        f"pretty_name: {json.dumps(name)}",
        f"license: {one if one in HUB_LICENSES else 'other'}",
    ]
    if one not in HUB_LICENSES:
        lines.append(f"license_name: {json.dumps(' and '.join(licences))}")
    lines += ["task_categories:", *(f"- {task}" for task in tasks), "size_categories:", f"- {size}"]
    lines += [
        "tags:",
        *(
            f"- {tag}"
            for tag in ("reasoning", "bi-mode", "auto-thinking", *(["image"] if pictured else []))
        ),
    ]
    lines += ["configs:", "- config_name: default", "  data_files:"]
    for split in published.rows:
        lines += [f"  - split: {split}", f"    path: data/{split}-*.parquet"]
    return "\n".join(
        [*lines, "dataset_info:", f"  features: {json.dumps(_yaml_features())}", "---"]
    )


def _limits(published: Published) -> list[str]:
    """What holds for this data: of tags where there are any, of reasoning where some is shown."""
    reasons = Mode.THINKING in published.formats
    return [
        *(TAG_LIMITS if published.tags else ()),
        *(REASONING_LIMITS if reasons else ()),
        *LIMITS,
    ]


def _summary(published: Published, pictured: bool, is_open: bool) -> str:
    about = "questions about images" if pictured else "questions"
    checked = (
        "answers, of which programs can check all but the open ones"
        if is_open
        else "answers that a program can check"
    )
    shown = [text for name, text in SHOWN.items() if name in published.formats]
    questions = " and ".join(f"`{split}`" for split in published.rows if split != "train")
    sentences = (
        (
            f"{sum(published.rows.values()):,} rows of {about} with {checked}, for training a model"
            " that decides when to think."
        ),
        f"Train rows show {' or '.join(shown)}." if shown else "",
        f"Rows of {questions} are questions without a response." if questions else "",
    )
    return " ".join(filter(None, sentences))


def _formats(published: Published) -> str:
    if not published.formats:
        return ""
    told = (
        "A train question may be written in both formats"
        if len(published.formats) > 1
        else "All train rows have one format"
    )
    return f"{told}:\n\n" + _table(("format", "train rows"), published.formats.items())


def _chosen(store: Store) -> str:
    """The funnel, and each reason with its meaning."""
    steps = funnel(store.counts(["reason"]))
    left = _table(
        ("step", "rows left", "lost"),
        [(step.name, step.left, sum(step.lost.values()) or "") for step in steps],
    )
    lost = [
        (f"`{reason}`", n, REASONS.get(reason, ""))
        for step in steps
        for reason, n in step.lost.items()
    ]
    if not lost:
        return f"{left}\n\nNo row was rejected."
    about = "Every rejected row is in `rejects/`, with its reason and a detail:"
    return "\n\n".join((left, about, _table(("reason", "rows", "what"), lost)))


def _tags(store: Store, published: Published, config: CurateConfig) -> str:
    if published.reasoning_share is None:
        return "No question was tagged: every row is taught as the recipe's `formats` says."
    by = store.counts(["mode_reason", "rollout_model"], TAGGED_TRAIN)
    evidence = [
        f"{n:,} by {EVIDENCE.get(reason, reason)} of `{model}`" for (reason, model), n in by.items()
    ]
    about = (
        f"Train questions that are tagged: {' and '.join(evidence)}."
        f" {percent(published.reasoning_share)} of them are tagged as reasoning. Pass rates come"
        f" from {config.rollouts.n} attempts in each mode (`n_pass_non_thinking` and"
        f" `n_pass_thinking` of `n_rollouts` in every row), by rule `{config.tag.rule}`;"
        " `tags/tags.parquet` has them"
        " without the images, with the interval of the direct rate corrected for guessing."
    )
    if config.tag.rule == "corrected":
        about += (
            f" That rate is good from {config.tag.non_thinking_ok:g} on and poor below"
            f" {config.tag.non_thinking_poor:g}; the interval has {percent(config.tag.confidence)}"
            " confidence."
        )
    rules = store.counts(["mode", "tag_rule"], TAGGED_TRAIN)
    rows = [
        (mode, f"`{rule}`", RULES.get(rule, ""), count) for (mode, rule), count in rules.items()
    ]
    return about + "\n\n" + _table(("tag", "rule", "why", "questions"), rows)


def _traces(folder: Path) -> str:
    """Whose reasoning the train rows show, from the published files."""
    whose: Counter[str] = Counter()
    for file in sorted((folder / "data").glob("train-*.parquet")):
        counts = (
            pq.read_table(file, columns=["trace_source"])["trace_source"].value_counts().to_pylist()
        )
        whose.update({entry["values"]: entry["counts"] for entry in counts if entry["values"]})
    if not whose:
        return "No row shows reasoning."
    return "Whose the reasoning is (`trace_source`):\n\n" + _table(
        ("by", "train rows"), sorted(whose.items())
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; numbers get thousands separators, and what would end a cell is escaped."""
    lines = [head, ["---"] * len(head), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    return (
        f"{value:,}"
        if isinstance(value, int)
        else str(value).replace("|", "\\|").replace("\n", " ")
    )


def _yaml_features() -> list[dict[str, object]]:
    """Only the image column has to be named: `datasets` reads the others off the Parquet schema's
    metadata.
    """
    return [{"name": name, **_feature(spec)} for name, spec in HF_FEATURES.items()]


def _feature(spec: object) -> dict[str, object]:
    if isinstance(spec, dict) and spec.get("_type") == "Image":
        return {"dtype": "image"}
    if isinstance(spec, dict) and spec.get("_type") == "Value":
        return {"dtype": spec["dtype"]}
    if isinstance(spec, dict) and spec.get("_type") == "List":
        inner = _feature(spec["feature"])
        return {"list": inner.get("dtype", inner.get("struct"))}
    assert isinstance(spec, dict)
    return {"struct": [{"name": name, **_feature(sub)} for name, sub in spec.items()]}
