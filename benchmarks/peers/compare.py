"""Two sides in turn (A B A B ...), their medians, a table to read and one line of JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

from benchmarks.peers.talk import Answer, Side


@dataclass(frozen=True, slots=True)
class Result:
    """`ratio` is median(ours) / median(peer) of `runs`, so that more is better; `peak_mib` adds
    up what each process of a side needed at most, so pages that processes share count in each."""

    name: str
    ratio: float
    goal: float
    ours: float
    peer: float
    unit: str
    runs: dict[str, list[float]]
    peak_mib: dict[str, float]
    threads: int


def alternate(ours: Side, peer: Side, rounds: int) -> tuple[list[Answer], list[Answer]]:
    """`rounds` steps of each side, never both at once."""
    pairs = [(ours.ask("step"), peer.ask("step")) for _ in range(rounds)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def compared(
    name: str,
    goal: float,
    unit: str,
    runs: tuple[Sequence[float], Sequence[float]],
    sides: tuple[Side, Side],
    threads: int,
) -> Result:
    """The result of runs in `unit`, where more is better; the sides must still be there."""
    ours, peer = (median(r) for r in runs)
    keys = ("ours", "peer")
    return Result(
        name=name,
        ratio=round(ours / peer, 3),
        goal=goal,
        ours=round(ours, 3),
        peer=round(peer, 3),
        unit=unit,
        runs={key: [round(x, 3) for x in r] for key, r in zip(keys, runs, strict=True)},
        peak_mib={key: round(sum(side.peaks_mib())) for key, side in zip(keys, sides, strict=True)},
        threads=threads,
    )


def show(result: Result, notes: Sequence[str]) -> None:
    """Prints notes, table and, last, the line of JSON."""
    for note in notes:
        print(note)
    print(f"\n{'':8}{result.unit:>16}{'spread':>20}{'peak MiB':>12}")
    for key, middle in (("ours", result.ours), ("peer", result.peer)):
        runs = result.runs[key]
        spread = f"{min(runs):.4g} - {max(runs):.4g}"
        name = "TRL" if key == "peer" else key
        print(f"{name:8}{middle:16.4g}{spread:>20}{result.peak_mib[key]:12.0f}")
    print(f"{'ratio':8}{result.ratio:16.3g}{f'goal {result.goal:g}':>20}\n")
    print(json.dumps(asdict(result)))
