"""The data set card: what a reader of the published folder has to know before using it, and YAML
for the Hub and for `datasets`. `card.jinja` has its text.

It is a function of the data and the recipe alone: equal work gives equal bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bimode.config.curate import CurateConfig
from bimode.evaluation.statistics import percent
from bimode.grading.verify import OPEN
from bimode.storage.dataset import HF_FEATURES
from data_curation.checks.validate import REASONS
from data_curation.publishing.funnel import SourceCount, funnel, source_counts
from data_curation.publishing.published import Published
from data_curation.publishing.wording import COLUMNS, RULES, short
from data_curation.store import Store

HUB_LICENSES = frozenset(
    "apache-2.0 mit bsd-2-clause bsd-3-clause cc0-1.0 cc-by-4.0 cc-by-sa-4.0 cc-by-sa-3.0"
    " cc-by-nc-4.0 cc-by-nc-sa-4.0 odc-by odbl gpl-3.0 lgpl-3.0 cdla-permissive-2.0".split()
)
SIZES = {
    "n<1K": 1_000,
    "1K<n<10K": 10_000,
    "10K<n<100K": 100_000,
    "100K<n<1M": 1_000_000,
    "1M<n<10M": 10_000_000,
}
KEPT = "reason = ''"
TAGGED_TRAIN = f"{KEPT} AND mode_reason <> 'untagged' AND split = 'train'"


def card(store: Store, published: Published, config: CurateConfig, folder: Path, name: str) -> str:
    """README.md of the data in `folder`, called `name`."""
    sources = source_counts(store)
    pictured = bool(store.counts(["image_sha256 <> ''"], KEPT).get(True))
    return render_card(
        published,
        name=name,
        front_matter=front_matter(published, licenses_of(sources), pictured, name),
        pictured=pictured,
        is_open=OPEN in store.counts(["verifier"], KEPT),
        steps=funnel(store.counts(["reason"])),
        config=config,
        evidence=store.counts(["mode_reason", "rollout_model"], TAGGED_TRAIN),
        tag_rules=store.counts(["mode", "tag_rule"], TAGGED_TRAIN),
        traces=_traces(folder),
        sources=sources,
    )


def render_card(published: Published, **context: Any) -> str:
    """The text of the card. A name that the template uses and `context` lacks raises
    UndefinedError.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": _cell, "percent": percent, "short": short}
    return environment.get_template("card.jinja").render(
        published=published, columns=COLUMNS, reasons=REASONS, rules=RULES, **context
    )


def licenses_of(sources: Iterable[SourceCount]) -> list[str]:
    """The licenses of what is in the data, without repeats."""
    return sorted({source.license for source in sources if source.kept})


def front_matter(published: Published, licenses: Sequence[str], pictured: bool, name: str) -> str:
    """The YAML that the Hub and `datasets` read."""
    rows = sum(published.rows.values())
    license_id, license_name = "other", " and ".join(licenses)
    if license_name.lower() in HUB_LICENSES:
        license_id, license_name = license_name.lower(), ""
    tasks, tags = ["question-answering"], ["reasoning", "bi-mode", "auto-thinking"]
    if pictured:
        tasks, tags = ["visual-question-answering", *tasks], [*tags, "image"]
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in published.rows]
    data = DatasetCardData(
        pretty_name=name,
        license=license_id,
        license_name=license_name or None,
        task_categories=tasks,
        size_categories=[next((size for size, most in SIZES.items() if rows < most), "n>10M")],
        tags=tags,
        configs=[{"config_name": "default", "data_files": files}],
        dataset_info={"features": _features(HF_FEATURES)},
    )
    return data.to_yaml()


def _traces(folder: Path) -> Counter[str]:
    """How many train rows show whose reasoning, from the published files."""
    traces: Counter[str] = Counter()
    for file in sorted((folder / "data").glob("train-*.parquet")):
        whose = pq.read_table(file, columns=["trace_source"])["trace_source"].to_pylist()
        traces.update(filter(None, whose))
    return traces


def _cell(value: object) -> str:
    """A number has thousands separators; what would end a cell of a Markdown table is escaped."""
    if isinstance(value, int):
        return f"{value:,}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def _features(specs: Mapping[str, Any]) -> list[dict[str, object]]:
    """The features of `datasets` as the card's YAML has them."""
    return [{"name": name, **_feature(spec)} for name, spec in specs.items()]


def _feature(spec: Mapping[str, Any]) -> dict[str, object]:
    kind = spec.get("_type")
    if kind == "Image":
        return {"dtype": "image"}
    if kind == "Value":
        return {"dtype": spec["dtype"]}
    if kind == "List":
        inner = _feature(spec["feature"])
        return {"list": inner.get("dtype", inner.get("struct"))}
    return {"struct": _features(spec)}
