"""Mutated files of every format that is read: ``python -m tests.fuzz_files 500`` says how each took
them.

Each is read in the child of `bimode.storage.limited`, as curation does, and a picture decoded in
one too. Prints a line of counts per format; exits 1 where a file took more than 5 s or a gigabyte,
was answered with anything but rows and refusals, or where a file appeared outside.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import sys
import tarfile
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pyarrow import ipc

from bimode.inputs.pictures import FORMATS
from bimode.storage import limited
from data_curation.sources.files import SourceFile
from data_curation.sources.readers import read_records, split_file
from data_curation.sources.refusal import Refusal
from tests.limited_work import decode
from tests.pictures import encoded

ROOT = Path(__file__).resolve().parents[1]
SECONDS, MEMORY = 5.0, 1 << 30
NUMBERS = [
    bytes(4),
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\x10\0",
    b"\xff" * 8,
]


@dataclass(slots=True)
class Outcome:
    """What became of the mutated files of a format."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0  # of the slowest
    memory: int = 0  # bytes, the most that a child had
    problems: list[str] = field(default_factory=list)


def sound_files() -> dict[str, bytes]:
    """A file of each format, by a name that its reader knows."""
    rows = [
        {
            "q": f"question {at}",
            "n": at,
            "x": at / 7,
            "tags": ["a", "b"] * (at % 3),
            "image": {"bytes": bytes([at]) * 90, "path": f"{at}.png"},
        }
        for at in range(80)
    ]
    table = pa.Table.from_pylist(rows)
    texts = [
        {"q": f"question {at}", "n": at, "deep": {"list": [1, [2, {"a": None}]]}}
        for at in range(80)
    ]
    lines = "".join(json.dumps(text) + "\n" for text in texts).encode()
    files = {"lines.jsonl": lines, "lines.jsonl.gz": gzip.compress(lines, mtime=0)}
    files["list.json"] = json.dumps(texts, indent=1).encode()
    files["metadata.csv"] = b'file_name,q\n1.png,"a, ""b"""\n' + b"2.png,c\n" * 50
    for name, renderer in (
        ("a.parquet", "snappy"),
        ("zstd.parquet", "zstd"),
        ("plain.parquet", "none"),
    ):
        out = io.BytesIO()
        pq.write_table(table, out, row_group_size=30, compression=renderer)
        files[name] = out.getvalue()
    for name, new, renderer in (
        ("file.arrow", ipc.new_file, None),
        ("stream.arrow", ipc.new_stream, None),
        ("zstd.arrow", ipc.new_file, "zstd"),
        ("lz4.arrow", ipc.new_stream, "lz4"),
    ):
        out = io.BytesIO()
        with new(out, table.schema, options=ipc.IpcWriteOptions(compression=renderer)) as writer:
            writer.write_table(table, max_chunksize=30)
        files[name] = out.getvalue()
    for name, mode in (("a.tar", "w"), ("a.tgz", "w:gz")):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
            for at in range(20):
                for ending, data in (
                    ("json", json.dumps(texts[at]).encode()),
                    ("png", b"no picture" * 9),
                ):
                    info = tarfile.TarInfo(f"{at:04d}.{ending}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        files[name] = out.getvalue()
    return files | sound_pictures()


def sound_pictures() -> dict[str, bytes]:
    noise = Image.effect_noise((96, 64), 60)
    color = Image.merge("RGB", [noise, noise.rotate(90).resize(noise.size), noise.rotate(180)])
    files = {f"plain.{kind}": encoded(color, kind) for kind in FORMATS}
    files |= {
        "progressive.JPEG": encoded(color, "JPEG", progressive=True),
        "palette.PNG": encoded(color.convert("P"), "PNG", transparency=0),
        "lossless.WEBP": encoded(color.convert("RGBA"), "WEBP", lossless=True),
        "lzw.TIFF": encoded(color, "TIFF", compression="tiff_lzw"),
        "deflate.TIFF": encoded(noise.convert("I;16"), "TIFF", compression="tiff_adobe_deflate"),
        "jpeg.TIFF": encoded(color, "TIFF", compression="jpeg"),
        "fax.TIFF": encoded(color.convert("1"), "TIFF", compression="group4"),
    }
    return files


def mutate(content: bytes, noise: random.Random) -> bytes:
    """`content` with one to eight changes; most keep its length, so that offsets still fit."""
    data = bytearray(content)
    for _ in range(noise.choice([1, 1, 2, 3, 8])):
        at = noise.randrange(len(data))
        match noise.randrange(8):
            case 0 | 1:
                data[at] = noise.randrange(256)
            case 2:
                data[at] ^= 1 << noise.randrange(8)
            case 3 | 4:
                number = noise.choice(NUMBERS)
                data[at : at + len(number)] = number
            case 5:
                other = noise.randrange(len(data))
                size = noise.randrange(1, 64)
                data[at : at + size] = data[other : other + size]
            case 6:
                del data[at : at + noise.randrange(1, 64)]
            case _:
                data[at:at] = noise.randbytes(noise.randrange(1, 64))
        if not data:
            return b"x"
    return bytes(data)


def outcome_of(path: Path) -> Counter[str]:
    """Read the file at `path`; the counts of what came of it. Raises whatever no reader may."""
    counts: Counter[str] = Counter()
    if path.suffix[1:] in FORMATS:
        try:
            counts.update(limited.stream(decode, path))
        except limited.ChildEndedError as error:
            counts[str(error)] += 1
        return counts
    file = SourceFile(str(path), path.name, 0, 0)
    for part in split_file(file, "auto"):
        for _, record in read_records(part):
            if isinstance(record, Refusal):
                died = record.detail if "its reader" in record.detail else ""
                counts[died or f"refused {record.reason}"] += 1
            else:
                counts["read"] += 1
    return counts


def fuzz(name: str, content: bytes, count: int, folder: Path) -> Outcome:
    """Read `count` mutations of `content`, seeded by `name` and their number."""
    outcome = Outcome()
    for seed in range(count):
        path = folder / name
        path.write_bytes(mutate(content, random.Random(f"{name} {seed}")))
        start = time.monotonic()
        try:
            outcome.counts += outcome_of(path)
        except Exception as error:
            outcome.problems.append(f"seed {seed}: {error!r}")
        seconds = time.monotonic() - start
        outcome.seconds = max(outcome.seconds, seconds)
        outcome.memory = max([outcome.memory, *map(_peak, limited.IDLE)])
        if seconds > SECONDS or outcome.memory > MEMORY:
            outcome.problems.append(f"seed {seed}: {seconds:.1f} s, {outcome.memory >> 20} MB")
        path.unlink()
    return outcome


def _peak(child: limited.Child) -> int:
    status = Path(f"/proc/{child[0].pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")), 0)


def _files_outside() -> set[Path]:
    skipped = (".git", ".venv", "__pycache__", ".ruff_cache", ".mypy_cache", ".pytest_cache")
    return {each for each in ROOT.rglob("*") if not any(part in skipped for part in each.parts)}


def main(count: int) -> int:
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        before = _files_outside()
        for name, content in sound_files().items():
            outcome = fuzz(name, content, count, Path(folder))
            counts = ", ".join(f"{what} {n}" for what, n in sorted(outcome.counts.items()))
            print(
                f"{name:18s} {outcome.seconds:5.2f} s {outcome.memory >> 20:5d} MB  {counts}",
                flush=True,
            )
            for problem in outcome.problems:
                print("   ", problem)
            bad += len(outcome.problems)
        new = [*(_files_outside() - before), *Path(folder).iterdir()]
    print(f"{len(new)} new files", *new)
    return 1 if bad or new else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
