"""A data folder that somebody else wrote: a bad row costs itself, a file that is no data set is one
line.

`python tests/bimode/test_prompts.py 2000 0` reads so many fuzzed rows, from that seed, and says
what it took.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bimode.errors import BimodeError, ConfigError, UnjudgedError
from bimode.grading import math_worker
from bimode.grading.verify import VERIFIERS, is_correct
from bimode.inputs.prompt_limits import checked_prompt, prompt_ids, read_prompts
from bimode.records import Prompt
from bimode.storage.dataset import PROMPT_COLUMNS, SCHEMA, Row, row_prompt, sample_row
from data_curation.checks.validate import REASONS, check_row
from tests.rows import SOUND

CODE = "__import__('pathlib').Path('ran').touch()"


def row_with(**changes: Any) -> Row:
    return sample_row(SOUND, "eval") | changes


def asked(text: str) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": text}]}


def puzzle(task: str, **entry: Any) -> dict[str, Any]:
    entry = {"answer": "8", "metadata": {"source_dataset": task, "problem": CODE}} | entry
    return {"verifier": "reasoning_gym", "verifier_args": json.dumps({"entry": entry})}


def folder(tmp_path: Path, *rows: Row, schema: pa.Schema = SCHEMA) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), tmp_path / "eval-00000.parquet")
    return tmp_path


ATTACKS: dict[str, tuple[dict[str, Any], str]] = {
    "code": (
        puzzle("bitwise_arithmetic"),
        "unknown_verifier: reasoning_gym: verifier_args = entry: ",
    ),
    "code in the answer": (puzzle("polynomial_multiplication", answer=CODE), "unknown_verifier: "),
    "code, hidden": (
        puzzle("simple_integration", metadata={"source_dataset": "simple_integration"}),
        "unknown_verifier",
    ),
    "no verifier": ({"verifier": "oracle"}, "unknown_verifier: oracle"),
    "unknown argument": (
        {"verifier_args": '{"x": 1}'},
        "unknown_verifier: exact: verifier_args = x: is no argument",
    ),
    "deep arguments": (
        {"verifier_args": '{"x":' * 9000},
        "unknown_verifier: exact: verifier_args = ",
    ),
    "C1": (asked("Sum \x9b2J ?"), "bad_schema: prompt: content: U+009B at character 4"),
    "reversed": (asked("Sum \u202e?"), "bad_schema: prompt: content: U+202E"),
    "tags": (asked("Close </think> ?"), "control_token: </think> in the question"),
    "no question": (asked(" "), "empty_question"),
    "no turn": ({"prompt": []}, "empty_question"),
    "no answer": ({"answer": None}, "empty_answer"),
    "no marker": (
        {"images": [{"bytes": b"x", "path": ""}]},
        "marker_mismatch: 0 markers, 1 images",
    ),
    "script": (
        asked("<image>Sum ?") | {"images": [{"bytes": b"%!PS-Adobe", "path": ""}]},
        "image_type: begins with b",
    ),
    "no bytes": (
        asked("<image>Sum ?") | {"images": [{"bytes": None, "path": "/etc/hostname"}]},
        "image_missing",
    ),
    "type": ({"verifier": "int", "answer": "eight"}, "answer_type: int: eight"),
    "itself": ({"verifier": "choice", "answer": r"\boxed{} x"}, "answer_fails"),
    "long": ({"answer": "8" * 2001}, "long_answer: 2001 characters"),
    "null": ({"task": None}, "bad_schema: task: NoneType instead of text"),
}


def test_a_bad_row_costs_itself_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`evaluate --data` ran a row's own text as code; the rows beside it stay as they were."""
    monkeypatch.chdir(tmp_path)
    rows = [row_with(id=f"bad-{name}", **changes) for name, (changes, _) in ATTACKS.items()]
    found = read_prompts(folder(tmp_path, row_with(id="a"), *rows, row_with(id="z")), "eval")
    assert [prompt.id for prompt in found] == prompt_ids(tmp_path, "eval")
    by_id = {prompt.id: prompt for prompt in found}
    assert by_id.pop("a") == row_prompt(row_with(id="a"))
    assert by_id.pop("z") == row_prompt(row_with(id="z"))
    for name, (_, says) in ATTACKS.items():
        prompt = by_id.pop(f"bad-{name}")
        assert prompt.refused.startswith(says), (name, prompt.refused)
        assert prompt == Prompt(prompt.id, "", (), "", "", "", "", "", refused=prompt.refused)
    assert not by_id and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["", None, "a\x1b[2J", "x" * 1001])
def test_a_row_without_a_usable_id_is_called_by_its_place(tmp_path: Path, name: str | None) -> None:
    found = read_prompts(folder(tmp_path, row_with(id="a"), row_with(id=name)), "eval")
    assert [(prompt.id, bool(prompt.refused)) for prompt in found] == [
        ("a", False),
        ("eval row 1", True),
    ]
    assert prompt_ids(tmp_path, "eval") == ["a", "eval row 1"]


def test_a_text_that_is_no_utf8_costs_its_own_row(tmp_path: Path) -> None:
    """Arrow hands on such bytes; Python's error took the whole folder."""
    folder(tmp_path, row_with(id="a", answer="QQQQ"), row_with(id="b"))
    file = tmp_path / "eval-00000.parquet"
    table = pq.read_table(file)
    pq.write_table(table, file, compression="none", use_dictionary=False, write_statistics=False)
    file.write_bytes(file.read_bytes().replace(b"QQQQ", b"\xff\xfe\xff\xfe"))
    found = read_prompts(tmp_path, "eval")
    assert [prompt.refused for prompt in found] == ["bad_schema: answer: bytes instead of text", ""]


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (
            pa.schema([("id", pa.string()), ("question", pa.string())]),
            "has no column images, prompt, answer",
        ),
        (SCHEMA.set(0, pa.field("id", pa.int64())), "its column id is int64 and must be string"),
        (
            SCHEMA.set(4, pa.field("answer", pa.list_(pa.string()))),
            "its column answer is list<item: string>",
        ),
        (
            SCHEMA.remove(SCHEMA.get_field_index("mode")),
            "has no column mode; docs/formats.md lists",
        ),
    ],
)
def test_a_file_that_is_no_data_set_is_one_line(
    tmp_path: Path, schema: pa.Schema, says: str
) -> None:
    pq.write_table(schema.empty_table(), tmp_path / "eval-00000.parquet")
    with pytest.raises(ConfigError, match=says.replace("(", r"\(")):
        read_prompts(tmp_path, "eval")


@pytest.mark.parametrize(
    "data", [b"", b"PAR1", b"PAR1" + b"\0" * 100 + b"PAR1", b"no parquet at all"]
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "eval-00000.parquet").write_bytes(data)
    with pytest.raises(ConfigError, match="cannot be read as Parquet: "):
        read_prompts(tmp_path, "eval")


def test_longer_offsets_are_the_same_types(tmp_path: Path) -> None:
    """As other writers of data frames have them."""
    schema = SCHEMA.set(4, pa.field("answer", pa.large_string()))
    assert read_prompts(folder(tmp_path, row_with(), schema=schema), "eval") == [
        row_prompt(row_with())
    ]


VALUES: list[Any] = [
    None,
    0,
    1 << 40,
    10**5000,
    1.5,
    float("nan"),
    True,
    "",
    "text",
    "\ud800",
    "a\0b",
    "\x9b",
    "\u202e",
    "x" * 1_100_000,
    b"bytes",
    [],
    [None],
    [[]],
    {},
    [{}],
    [{"role": 1}],
    [{"bytes": None}],
    [{"bytes": 5, "path": 5}],
    [{"bytes": b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "path": ""}],
    [{"role": "user", "content": "\x1b"}],
    [{"role": "user", "content": "x" * 1_000_001}],
    [{"role": "user", "content": "<image>" * 1000}],
]
ANSWERS = [
    "8",
    "8.0",
    "-8",
    "1,000",
    "1e999",
    "1e-999",
    "1/0",
    "0/0",
    "\u0665",
    "nan",
    "(B)",
    "yes",
    r"\boxed{8}",
    r"\boxed{",
    "9" * 1999,
    "9" * 5000,
    "{" * 1990,
    r"\frac{1}{0}",
    "a\u0300" * 600,
    "answer is " * 150,
    "so " * 600,
    "x = " * 400,
    "(A" * 900,
    "1 2/3 " * 300,
    "$" * 1900,
    "wait A " * 250,
    "1,111" * 390,
    CODE,
]
CATASTROPHES = ["9^{9^{9^9}}", "9" * 1900 + "^{9}", r"\sqrt{" * 300 + "2" + "}" * 300, "99999999!"]
BAD_ARGS = [
    "",
    "[]",
    "null",
    "{",
    "[" * 15_000,
    '{"a":' * 3000,
    "NaN",
    '{"rel_tol": 1e308}',
    '{"abs_tol": [1]}',
    '{"rel_tol": -1}',
    '{"rel_tol": ' + "9" * 5000 + "}",
    '{"entry": null}',
    '{"entry": {"metadata": 5}}',
    '{"\\ud800": 1}',
    '{"__class__": 1}',
]


def fuzzed(rng: random.Random, at: int) -> Row:
    """A row with one to three things wrong: a column of another type or size, a verifier, its
    arguments, its answer.
    """
    row = row_with(id=f"r-{at}")
    for _ in range(rng.choice([1, 1, 2, 3])):
        kind = rng.randrange(4)
        if kind == 0:
            row[rng.choice(PROMPT_COLUMNS[1:])] = rng.choice(VALUES)
        elif kind == 1:
            row["verifier"], row["answer"] = (
                rng.choice([*VERIFIERS, "oracle", ""]),
                rng.choice(ANSWERS),
            )
        elif kind == 2:
            row["verifier_args"] = rng.choice(BAD_ARGS)
        else:
            row |= puzzle(
                rng.choice(["chain_sum", "leg_counting", "countdown", ""]),
                answer=rng.choice([*ANSWERS, 8, None]),
            )
    return row


def fuzz(count: int, seed: int) -> tuple[Counter[str], float]:
    """Reads and judges so many rows; what came of them, and the longest call in seconds."""
    rng, reasons, longest = random.Random(seed), Counter[str](), 0.0
    for at in range(count):
        row = fuzzed(rng, at)
        if at % 500 == 250:
            row |= {"verifier": "math", "verifier_args": "{}", "answer": rng.choice(CATASTROPHES)}
        begun = time.perf_counter()
        prompt = checked_prompt(row)
        longest = max(longest, time.perf_counter() - begun)
        reason, _ = check_row(row)
        for stated in rng.sample(ANSWERS, 3):
            begun = time.perf_counter()
            judge(row, prompt, stated)
            longest = max(longest, time.perf_counter() - begun)
        known = prompt.refused.partition(":")[0]
        assert known == "" or known in REASONS
        assert prompt.refused.isascii() and len(prompt.refused) < 400
        if known != "answer_fails":  # which time may decide
            assert bool(reason) or not known, "what curation takes, readers take"
        reasons[known] += 1
    return reasons, longest


def judge(row: Row, prompt: Prompt, stated: str) -> None:
    """A verdict, or nothing but an error with words; on a sound row, that too much time was
    lost.
    """
    wanted = [row[name] for name in ("answer", "verifier", "verifier_args")]
    if not all(isinstance(text, str) for text in wanted):
        return
    try:
        is_correct(f"</think>{stated}", *wanted)
    except BimodeError as error:
        assert str(error) and (prompt.refused or isinstance(error, UnjudgedError))


def test_fuzzed_rows_are_refused_or_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """400 of them, one of which would keep the math verifier busy for ever; nothing is run or
    written.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(math_worker, "SECONDS", 1.0)
    reasons, _ = fuzz(400, seed=0)
    assert (
        reasons[""] > 20
        and {"bad_schema", "unknown_verifier", "answer_type", "long_answer"} <= reasons.keys()
    )
    assert not list(tmp_path.iterdir())


def main() -> None:
    with tempfile.TemporaryDirectory() as work:
        import os

        os.chdir(work)
        begun = time.perf_counter()
        reasons, longest = fuzz(int(sys.argv[1]), int(sys.argv[2]))
        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(json.dumps(dict(reasons.most_common()), indent=1))
        print(f"{time.perf_counter() - begun:.0f} s, the longest call {longest:.1f} s")
        print(f"peak memory {own} MB, of a child {children} MB; written: {os.listdir(work)}")


if __name__ == "__main__":
    main()
