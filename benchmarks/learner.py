"""Learner: tokens a second of forward, backward and optimizer step, ours on packed rows against
TRL's GRPOTrainer on padded.

Both get the same model (Qwen3, 7 M parameters, float32), sequences and advantages, and nothing is
timed before their gradients agree. Tokens are real ones, prompt and response without padding. Not
timed: loading, generation, scoring, TRL's padding, and the first step of each side.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.peers.command import Options, run, start
from benchmarks.peers.compare import alternate, compared, show
from benchmarks.peers.talk import SideError

PROMPTS, GROUP = 3, 16
GOAL = 3.0
TOLERANCE = 1e-4  # relative, of each parameter's gradient


def benchmark(options: Options, folder: Path) -> None:
    """Sets up, proves equal gradients, times, reports."""
    from benchmarks.peers.model import draw_workload, write_model

    parameters = write_model(folder / "model")
    work = draw_workload(folder / "model", prompts=PROMPTS, group=GROUP)
    work.save(folder)
    ours = start("ours", "benchmarks.peers.our_learner", [str(folder)], options, folder)
    peer = start("TRL", "benchmarks.peers.trl_grpo", ["learner", str(folder)], options, folder)
    try:
        for side in (ours, peer):
            side.answer()
            side.ask("gradients")
        worst = compare_gradients(folder)
        runs = alternate(ours, peer, options.rounds)
        rates = tuple([a.tokens / a.seconds for a in side] for side in runs)
        result = compared(
            "learner", GOAL, "tokens/s", (rates[0], rates[1]), (ours, peer), options.threads
        )
    finally:
        ours.close()
        peer.close()
    notes = [
        (
            f"{parameters / 1e6:.1f} M parameters, float32, {options.threads} thread(s) a side,"
            f" {options.rounds} rounds"
        ),
        (
            f"{len(work.lengths)} sequences, {work.tokens} tokens; padded they are {work.padded}, "
            f"{work.padded / work.tokens:.2f} times as many"
        ),
        f"gradients agree: relative difference at most {worst:.1e}",
    ]
    show(result, notes)


def compare_gradients(folder: Path) -> float:
    """The largest relative difference of a parameter's gradient. Raises SideError if it is over
    TOLERANCE.
    """
    from safetensors.torch import load_file

    ours, peer = load_file(folder / "ours.safetensors"), load_file(folder / "trl.safetensors")
    if ours.keys() != peer.keys():
        raise SideError(f"gradients of other parameters: {sorted(ours.keys() ^ peer.keys())[:3]}")
    apart = {name: float((ours[name] - g).norm() / g.norm()) for name, g in peer.items()}
    name = max(apart, key=lambda n: apart[n])
    if not apart[name] <= TOLERANCE:
        raise SideError(f"gradients differ by {apart[name]:.1e} in {name}: nothing was timed")
    return apart[name]


if __name__ == "__main__":
    run((__doc__ or "").splitlines()[0], 5, benchmark)
