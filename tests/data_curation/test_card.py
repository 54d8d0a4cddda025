"""Card and Croissant say what the data is, to people, to the Hub, to `datasets` and to mlcroissant;
and the same twice.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from bimode.config.curate import CurateConfig
from bimode.storage.dataset import SCHEMA
from data_curation.publishing.card import front_matter, licenses_of, render_card
from data_curation.publishing.croissant import croissant
from data_curation.publishing.funnel import LATER, SourceCount, Step, funnel, source_counts
from data_curation.publishing.published import Published
from data_curation.publishing.wording import COLUMNS, RULES
from data_curation.tagging.judge import JUDGE_REASONS
from data_curation.traces.checks import TRACE_REASONS

sys.path.insert(0, str(Path(__file__).parent))
from curated_run import Curated, curate

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    return curate(tmp_path_factory.mktemp("run"))


def header_of(card: str) -> Mapping[str, Any]:
    _, header, _ = card.split("---\n", 2)
    found: Mapping[str, Any] = yaml.safe_load(header)
    return found


def test_funnel_takes_each_reason_at_its_step() -> None:
    steps = funnel(
        {
            "": 5,
            "mix": 1,
            "near_duplicate": 2,
            "duplicate": 3,
            "contaminated": 1,
            "no_trace": 2,
            "of_tomorrow": 4,
        }
    )
    assert [(step.left, sum(step.lost.values())) for step in steps] == [
        (18, 0),
        (14, 4),
        (9, 5),
        (8, 1),
        (8, 0),
        (6, 2),
        (5, 1),
    ]
    assert steps[2] == Step("after dedup", 9, {"duplicate": 3, "near_duplicate": 2})
    assert list(steps[2].lost) == ["duplicate", "near_duplicate"], "in the order of REASONS"


def test_reasons_of_judge_and_traces_are_no_failed_checks() -> None:
    assert {*JUDGE_REASONS, *TRACE_REASONS} - {"empty_trace"} <= LATER.keys()


def test_sources_count_what_was_read_and_kept(curated: Curated) -> None:
    """Of 8 + 2 + 2 digits three train rows are repeats or contaminated and one is untagged."""
    assert source_counts(curated.store) == (
        SourceCount("", "", 1, 0),
        SourceCount("bad.jsonl", "unknown", 1, 0),
        SourceCount("generated", "Apache-2.0", 1, 1),
        SourceCount("scikit-learn/load_digits", "CC-BY-4.0", 12, 8),
    )
    assert licenses_of(source_counts(curated.store)) == ["Apache-2.0", "CC-BY-4.0"]


def test_card_has_what_the_hub_reads(curated: Curated) -> None:
    header = header_of((curated.version / "README.md").read_text())
    assert (header["license"], header["license_name"]) == ("other", "Apache-2.0 and CC-BY-4.0")
    assert header["task_categories"] == ["visual-question-answering", "question-answering"]
    assert header["size_categories"] == ["n<1K"]
    assert [entry["split"] for entry in header["configs"][0]["data_files"]] == [
        "train",
        "rl",
        "eval",
    ]
    assert [feature["name"] for feature in header["dataset_info"]["features"]] == SCHEMA.names


def test_card_counts_are_those_of_the_rows(curated: Curated) -> None:
    """Train: digits 0, 4, 5, 6 and a sum; digits 6 at 6 of 8 is `either` and written twice; the sum
    and two digits direct.
    """
    card = (curated.version / "README.md").read_text()
    for line in (
        "| train | 6 |",
        "| rl | 2 |",
        "| eval | 2 |",
        "| non_thinking | 4 |",
        "| thinking | 2 |",
        "| read | 15 |  |",
        "| checked and filtered | 13 | 2 |",
        "| after dedup | 11 | 2 |",
        "| after decontamination | 10 | 1 |",
        "| after tags and traces | 9 | 1 |",
        "| oracle | 2 |",
        "5 by pass rates of `tiny-base`",
    ):
        assert line in card
    assert "20 % of them are tagged as reasoning" in card and "\n# demo\n" in card


def test_every_column_and_rule_is_explained() -> None:
    assert list(COLUMNS) == SCHEMA.names
    source = (REPO / "data_curation" / "tagging" / "tags.py").read_text() + (
        REPO / "data_curation" / "tagging" / "judge.py"
    ).read_text()
    assert [rule for rule in RULES if f'"{rule}"' not in source] == []


def test_a_license_of_one_source_is_the_hubs_own(curated: Curated) -> None:
    header = yaml.safe_load(front_matter(curated.published, ["Apache-2.0"], False, "a: b"))
    assert header["pretty_name"] == "a: b"
    assert header["license"] == "apache-2.0" and "license_name" not in header
    assert header["task_categories"] == ["question-answering"]


NO_TAGS = Published({"train": 1_200, "eval": 3}, {"duplicate": 1}, {}, {"non_thinking": 1_200})
BOTH = Published({"train": 2}, {}, {"either": 1}, {"thinking": 1, "non_thinking": 1})
PICTURES = Published({"train": 2}, {}, {}, {"transcription": 1, "non_thinking": 1})
TAGS, ORACLE = "named above", "labeled `oracle`"


@pytest.mark.parametrize(
    ("published", "present", "absent"),
    [
        (BOTH, ("at once or reasoning", "both formats", TAGS, ORACLE), ("a response.", "all but")),
        (NO_TAGS, ("all but", "Rows of `eval`", "one format"), (TAGS, ORACLE)),
        (PICTURES, ("at once or what the picture holds",), (TAGS,)),
        (Published({"eval": 2}, {}, {}, {}), ("No row shows",), ("Train rows", "format:")),
    ],
)
def test_the_card_tells_what_is_there(
    published: Published, present: tuple[str, ...], absent: tuple[str, ...]
) -> None:
    text = render_card(
        published,
        name="a",
        front_matter="",
        pictured=True,
        is_open=published is NO_TAGS,
        steps=(),
        config=CurateConfig(),
        evidence={},
        tag_rules={},
        traces={},
        sources=(),
    )
    assert [part for part in present if part not in text] == []
    assert [part for part in absent if part in text] == []


def test_a_summary_counts_rows_and_reasons() -> None:
    found = Published({"train": 1_200, "eval": 3}, {"duplicate": 1, "bad_record": 2}, {}, {})
    assert found.summary() == (
        "curate: 1,200 in train, 3 in eval; 3 rejected (2 bad_record, 1 duplicate)"
    )


def test_equal_work_gives_an_equal_card_and_croissant(tmp_path: Path, curated: Curated) -> None:
    again = curate(tmp_path)
    for name in ("README.md", "croissant.json"):
        assert (again.version / name).read_bytes() == (curated.version / name).read_bytes()


def test_the_card_lets_datasets_decode_images(curated: Curated, tmp_path: Path) -> None:
    import datasets

    data = datasets.load_dataset(str(curated.version), split="rl", cache_dir=str(tmp_path))
    assert data[0]["images"][0].size == (40, 40)


def test_shards_are_described_by_their_digest(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rl-00000-of-00001.parquet").write_bytes(b"abc")
    found = json.loads(croissant(Published({"rl": 1}, {}, {}, {}), tmp_path, ["MIT"], "mine"))
    assert found["name"] == "mine"
    file, shards = found["distribution"]
    assert file["@id"] == file["contentUrl"] == "data/rl-00000-of-00001.parquet"
    assert (file["contentSize"], file["sha256"]) == ("3 B", hashlib.sha256(b"abc").hexdigest())
    assert shards["@id"] == "shards-rl"
    assert [field["name"] for field in found["recordSet"][0]["field"]] == SCHEMA.names


def test_mlcroissant_validates_and_reads_every_row(curated: Curated) -> None:
    """By the way that docs/formats.md names: beside it, `DIR/curate/data` is a link, and
    mlcroissant's search follows none.
    """
    import mlcroissant

    documented = "curate/current/croissant.json"
    assert f"`{documented}`" in (REPO / "docs" / "formats.md").read_text()
    data = mlcroissant.Dataset(jsonld=curated.run / documented)
    assert data.metadata.issues.errors == set()
    records = list(data.records("train"))
    assert len(records) == curated.published.rows["train"]
    row = next(record for record in records if record["train/id"] == b"digits-train-0-4-thinking")
    assert row["train/images"][0].size == (40, 40)
    assert row["train/messages"][-1]["train/messages/role"] == b"assistant"
    assert row["train/contamination"]["train/contamination/checked"] is True
    assert row["train/n_pass_non_thinking"] == 0 and row["train/source_refs"]
