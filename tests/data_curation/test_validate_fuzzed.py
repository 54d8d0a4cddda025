"""Checks of single rows: thousands of mutated rows are refused with a reason or can be written.

`python -m tests.data_curation.test_validate_fuzzed 10000 1` mutates so many rows, from that seed,
and counts the reasons.
"""

from __future__ import annotations

import json
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from bimode.grading import math_worker
from bimode.storage.dataset import SCHEMA, Row, image_digest
from data_curation.checks.validate import REASONS, check_rows
from tests.data_curation.test_validate import ANIMATED, FILES, claiming, row_with, with_sums

Mutation = Callable[[Row, random.Random], None]
DEEP: list[Any] = []
for _ in range(50_000):
    DEEP = [DEEP]
VALUES: list[Any] = [
    None,
    0,
    -1,
    10**5000,
    1 << 40,
    1.5,
    float("nan"),
    float("inf"),
    1e300,
    True,
    complex(1, 2),
    date(2026, 1, 1),
    object(),
    "",
    "text",
    "5",
    "\ud800",
    "a\0b",
    "x" * 1_100_000,
    np.str_("numpy"),
    np.int64(3),
    np.float32(0.5),
    np.array([1]),
    b"",
    b"bytes",
    bytearray(b"x"),
    (1,),
    {1},
    [],
    [None],
    [1],
    [[]],
    ["a"],
    ["\udfff"],
    [b"x"],
    DEEP,
    {},
    {"a": 1},
    [{}],
    [{"role": 1}],
    [{"bytes": None}],
    [{"bytes": 5, "path": 5}],
    [{"role": "user", "content": "\x1b"}],
]
TEXTS = [
    "",
    " ",
    "\n",
    "<image>",
    "<image><image>",
    "</think>",
    "<think>",
    "5",
    "5.0",
    "-5",
    "1,000",
    "1e999",
    "1e-999",
    "1/0",
    "0/0",
    "--5",
    "\u0665",
    "\u00bd",
    "nan",
    "inf",
    "(B)",
    "b.",
    "yes",
    "...",
    "\\boxed{5}",
    "\\boxed{",
    "answer is",
    "answer is 5",
    "9" * 1999,
    "9" * 5000,
    "{" * 1990,
    "\\frac{1}{0}",
    "\u202e5",
    "\ufeff5",
    "\U0001f600",
    "a\u0300" * 600,
    "\0",
    "\ud800",
    "x" * 1_000_001,
]
ENTRY = '{"entry": {"answer": %s, "metadata": {"source_dataset": %s}}}'
ARGS = [
    "",
    "{}",
    "[]",
    "null",
    "5",
    "{",
    '{"a":',
    "{}{}",
    '"',
    "[" * 100_000,
    '{"a":' * 50_000,
    "NaN",
    "\0",
    "\ud800",
    '{"rel_tol": ' + "9" * 5000 + "}",
    '{"rel_tol": NaN}',
    '{"rel_tol": Infinity}',
    '{"abs_tol": "1e999999999"}',
    '{"rel_tol": 1e308}',
    '{"abs_tol": [1]}',
    '{"rel_tol": true}',
    '{"rel_tol": null}',
    '{"rel_tol": -0.0}',
    '{"abs_tol": 1e-400}',
    '{"entry": null}',
    '{"entry": {}}',
    '{"entry": {"metadata": 5}}',
    ENTRY % ("1", "[]"),
    ENTRY % ("1", '"no such"'),
    ENTRY % ("null", '"chain_sum"'),
    ENTRY % ("[]", '"leg_counting"'),
    '{"a": "\\ud800"}',
    '{"a": "\\u0000"}',
    '{"\u00e9": 1}',
    "{}" + " " * 1_000_000,
]
CATASTROPHES = [
    "9^{9^{9^9}}",
    "9" * 1900 + "^{9}",
    "\\sqrt{" * 300 + "2" + "}" * 300,
    "(" * 900 + ")" * 900,
    "x^{x^{x}}+" * 150 + "1",
]


def mutate_file(data: bytes, rng: random.Random) -> bytes:
    """Cut, flipped, overwritten, shortened, lengthened, spliced with another file, or random from
    the start.
    """
    at, some, other = rng.randrange(len(data)), rng.randint(1, 40), rng.choice(list(FILES.values()))
    flipped, header = bytearray(data), bytearray(data)
    for _ in range(rng.randint(1, 8)):
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        header[rng.randrange(min(len(data), 80))] = rng.randrange(256)
    noise = rng.randbytes(some)
    kinds = [
        data[:at] + rest
        for rest in (
            b"",
            noise + data[at + some :],
            data[at + some :],
            noise + data[at:],
            other[at:],
        )
    ]
    out = rng.choice([*kinds, bytes(flipped), bytes(header), noise])
    return with_sums(out) if rng.random() < 0.6 else out


def _image(row: Row, rng: random.Random) -> None:
    data = mutate_file(rng.choice([*FILES.values(), *ANIMATED.values()]), rng)
    if rng.random() < 0.2:
        data = claiming(
            rng.choice(["PNG", "JPEG", "GIF", "BMP", "WEBP"]),
            rng.randrange(1 << 14),
            rng.randrange(1 << 14),
        )
    elif rng.random() < 0.03:
        data = b""
    row["images"] = [{"bytes": data, "path": rng.choice(["x.png", "", None])}]
    row["prompt"] = [{"role": "user", "content": "<image>Sum ?"}]


def _column(row: Row, rng: random.Random) -> None:
    name = rng.choice([*SCHEMA.names, "trace", "transcription"])
    row[name] = rng.choice(VALUES)
    if rng.random() < 0.3:
        del row[name]


def _text(row: Row, rng: random.Random) -> None:
    name, text = (
        rng.choice([rng.choice(SCHEMA.names), "trace", "prompt", "answer"]),
        rng.choice(TEXTS),
    )
    row[name] = (
        [{"role": rng.choice(["user", ""]), "content": text}]
        if name in ("prompt", "messages")
        else text
    )


def _verifier(row: Row, rng: random.Random) -> None:
    row["verifier"] = rng.choice(
        ["exact", "int", "number", "choice", "reasoning_gym", "open", "oracle", ""]
    )
    row["answer"] = rng.choice(TEXTS)
    row["verifier_args"] = rng.choice(ARGS) if rng.random() < 0.7 else "{}"


MUTATIONS: list[Mutation] = [_image, _image, _image, _column, _column, _text, _verifier, _verifier]


def fuzz(count: int, seed: int, catastrophes: int) -> Counter[str]:
    """Reasons of `count` mutated rows, `catastrophes` of them for the math verifier. Each is
    refused with a known reason, or can be written and has the digest that the data set gives it.
    """
    rng, reasons = random.Random(seed), Counter[str]()
    evil = set(rng.sample(range(count), catastrophes))
    for start in range(0, count, 250):
        rows = [mutated(rng, number in evil) for number in range(start, min(start + 250, count))]
        found = check_rows(rows)
        for checked in found:
            assert checked.reason == "" or checked.reason in REASONS
            assert (
                checked.detail.isascii()
                and len(checked.detail) < 400
                and " at 0x" not in checked.detail
            )
        passed = [
            (row, checked) for row, checked in zip(rows, found, strict=True) if not checked.reason
        ]
        narrow = [{name: row[name] for name in SCHEMA.names} for row, _ in passed]
        pa.Table.from_pylist(narrow, schema=SCHEMA).validate(full=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            digests = [image_digest([image["bytes"] for image in row["images"]]) for row in narrow]
        assert digests == [checked.image_sha256 for _, checked in passed]
        reasons.update(checked.reason for checked in found)
    return reasons


def mutated(rng: random.Random, evil: bool) -> Row:
    if evil:
        return row_with(verifier="math", answer=rng.choice(CATASTROPHES))
    row = row_with(*rng.choices(list(FILES.values()), k=rng.randrange(2)))
    for mutation in rng.choices(MUTATIONS, k=rng.choice([1, 1, 1, 2, 3])):
        mutation(row, rng)
    return row


def test_mutated_rows_are_refused_with_a_reason_or_can_be_written(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    """2,000 rows, one of which would keep the math verifier busy for ever; every check of single
    rows has its share of them.
    """
    monkeypatch.setattr(math_worker, "SECONDS", 0.5)
    reasons = fuzz(2000, seed=0, catastrophes=1)
    assert reasons.total() == 2000 and reasons[""] > 100
    names = list(REASONS)
    assert {
        *names[names.index("bad_schema") : names.index("answer_fails") + 1],
        "long_answer",
    } <= reasons.keys()
    assert capfd.readouterr() == ("", "") and not list(recwarn)


if __name__ == "__main__":
    begun, rows_wanted = time.perf_counter(), int(sys.argv[1])
    counted = fuzz(rows_wanted, seed=int(sys.argv[2]), catastrophes=rows_wanted // 500)
    print(
        json.dumps(dict(counted.most_common()), indent=1),
        f"{counted.total()} rows, {time.perf_counter() - begun:.0f} s",
    )
