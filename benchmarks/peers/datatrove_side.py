"""datatrove's side of benchmarks/curation.py, with its own blocks: ParquetReader, exact
deduplication in its three steps, LambdaFilter, ParquetWriter, each step on LocalPipelineExecutor.
Its interpreter has datatrove and Pillow, and no bimode.

Chosen in its favor: tasks are forked from a process that has imported everything; pixels are
decoded and hashed once, in the signature; what repeats is dropped before it is filtered; its
adapters copy no document; neither content-defined chunks nor a page index are written.

python -m benchmarks.peers.datatrove_side INPUT WORK TASKS
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
import time
import unicodedata
from pathlib import Path
from typing import Any

from benchmarks.peers.talk import Answer, Line

MAX_QUESTION, MAX_ANSWER, MAX_TRACE, MAX_REPETITION = 8000, 2000, 32000, 0.5  # `curate.filter`
GRAM, MIN_TOKENS, TAIL_TOKENS = 4, 40, 200
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
TOKEN = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]{{1,16}}|[^\w\s]{{1,16}}")
FIRST_PRIORITY = 65535


def content(doc: Any) -> bytes:
    """Canonical question and digest of the pixels, which datatrove hashes
    (`data_curation.dedup.fingerprints.content_key`).
    """
    from PIL import Image

    hasher = hashlib.sha256(
        " ".join(unicodedata.normalize("NFKC", doc.text).casefold().split()).encode()
    )
    for image in doc.metadata["images"]:
        with Image.open(io.BytesIO(image["bytes"])) as picture:
            hasher.update(f"{picture.mode}{picture.size}".encode())
            hasher.update(picture.tobytes())
    return hasher.digest()


def priority(doc: Any) -> int:
    """Of rows that are the same that of the first file stays."""
    return FIRST_PRIORITY - int(
        doc.metadata["file_path"].rpartition("-")[2].removesuffix(".parquet")
    )


def passes(doc: Any) -> bool:
    """`data_curation.checks.filters.filter_row`, as far as length and repetition go."""
    question, answer, trace = doc.text, doc.metadata["answer"], doc.metadata["trace"]
    if len(question) > MAX_QUESTION or len(answer) > MAX_ANSWER or len(trace) > MAX_TRACE:
        return False
    return max(repetition(question), repetition(trace)) <= MAX_REPETITION


def repetition(text: str) -> float:
    """`data_curation.checks.filters.repetition`."""
    tokens = TOKEN.findall(text.casefold())
    return (
        max(_repeated(tokens), _repeated(tokens[-TAIL_TOKENS:]))
        if len(tokens) >= MIN_TOKENS
        else 0.0
    )


def _repeated(tokens: list[str]) -> float:
    grams = len(tokens) - GRAM + 1
    return 1 - len(set(zip(*(tokens[k:] for k in range(GRAM)), strict=False))) / grams


def row_of(_writer: Any, doc: Any) -> dict[str, Any]:
    """The row as it is written."""
    return {
        "id": doc.id,
        "question": doc.text,
        **{k: v for k, v in doc.metadata.items() if k != "file_path"},
    }


def curate(source: Path, work: Path, tasks: int) -> dict[str, float]:
    """Reads `source`, writes `work`/data; returns the seconds of each of the three steps."""
    import pyarrow.parquet as pq
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        ExactDedupConfig,
        ExactDedupFilter,
        ExactDedupSignature,
        ExactFindDedups,
    )
    from datatrove.pipeline.filters import LambdaFilter
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter

    config = ExactDedupConfig(content_getter=content, document_priority=priority)
    reader = {"data_folder": str(source), "text_key": "question", "glob_pattern": "*.parquet"}
    schema = pq.read_schema(next(source.glob("*.parquet")))
    writer = ParquetWriter(
        str(work / "data"),
        compression="zstd",
        adapter=row_of,
        schema=schema,
        use_content_defined_chunking=False,
        write_page_index=False,
    )
    signatures, duplicates = str(work / "signatures"), str(work / "duplicates")
    steps = {
        "sign": [
            ParquetReader(**reader),
            ExactDedupSignature(signatures, config, finder_workers=tasks),
        ],
        "find": [ExactFindDedups(signatures, duplicates, config, lines_to_buffer=1000)],
        "write": [
            ParquetReader(**reader),
            ExactDedupFilter(duplicates, config),
            LambdaFilter(passes),
            writer,
        ],
    }
    seconds = {}
    for name, blocks in steps.items():
        began = time.perf_counter()
        log = str(work / f"log-{name}")
        LocalPipelineExecutor(
            blocks, tasks=tasks, workers=tasks, logging_dir=log, start_method="fork"
        ).run()
        seconds[name] = time.perf_counter() - began
    return seconds


def main() -> None:
    source, work, tasks = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    line = Line()
    import datatrove.executor
    import datatrove.pipeline.dedup
    import datatrove.pipeline.filters
    import datatrove.pipeline.readers
    import datatrove.pipeline.writers  # noqa: F401  imported here, so that no run pays for it

    line.on_event(Answer())
    while name := line.next():
        began, cpu = time.perf_counter(), sum(os.times()[:4])
        parts = curate(source, work / name, tasks)
        parts["cpu"] = sum(os.times()[:4]) - cpu  # its processes have ended, so they count
        line.on_event(Answer(seconds=time.perf_counter() - began, parts=parts))


if __name__ == "__main__":
    main()
