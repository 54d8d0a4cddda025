"""The prompts of a data folder, which somebody else may have written: a row is checked where it is
read.

A row that fails a check costs itself. It becomes a prompt without content that says why in
`refused`: the rollout worker gives that as its result, an evaluation lists it and counts it as
wrong, and BPO's ledger has it as `refused`. Pictures are decoded later, once, by the worker.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bimode.errors import RefusedPromptError
from bimode.grading.verify import new_budget
from bimode.inputs.pictures import picture_header
from bimode.inputs.row_check import check_answer, check_columns, check_text
from bimode.records import Prompt
from bimode.storage.dataset import PROMPT_COLUMNS, Row, check_split, read_rows, row_prompt


def read_prompts(path: Path, split: str) -> list[Prompt]:
    """Read the prompts of `split` below `path`, ordered by id; rows that are refused too.

    Raises ConfigError if the split is missing, or its files have not the columns of a data set.
    """
    check_split(path, split, PROMPT_COLUMNS)
    rows = _identified(read_rows(path, split, PROMPT_COLUMNS), split)
    new_budget()
    prompts = sorted(map(checked_prompt, rows), key=lambda prompt: prompt.id)
    new_budget()  # hostile rows cost a model's answers nothing
    return prompts


def prompt_ids(path: Path, split: str) -> list[str]:
    """Read the ids of `read_prompts`, in its order."""
    check_split(path, split, ["id"])
    return sorted(row["id"] for row in _identified(read_rows(path, split, ["id"]), split))


def checked_prompt(row: Row) -> Prompt:
    """Make a prompt of a row with a sound id; without content, if a check refuses the row."""
    try:
        check_columns(row, PROMPT_COLUMNS)
        check_text(row)
        for image in row["images"]:
            picture_header(image["bytes"] or b"")
        check_answer(row["answer"], row["verifier"], row["verifier_args"])
    except RefusedPromptError as error:
        why = ": ".join(filter(None, (error.reason, error.detail)))
        return Prompt(row["id"], "", (), "", "", "", "", "", refused=why)
    return row_prompt(row)


def _identified(rows: Iterator[Row], split: str) -> Iterator[Row]:
    """`rows`, where one whose own id cannot be used is called by its place."""
    for at, row in enumerate(rows):
        try:
            check_columns(row, ["id"])
        except RefusedPromptError:
            row = row | {"id": f"{split} row {at}", "prompt": None}
        yield row
