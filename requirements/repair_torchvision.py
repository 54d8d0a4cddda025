"""Lets torchvision's CUDA build be imported beside a CPU torch; `--undo` takes the repair back.

Its library of operators does not load there, which torchvision allows, but it then registers shapes
for two of the operators without asking whether they exist. The repair defines these two names.
Image transforms need no operator; the operators themselves still refuse with torchvision's own
message. `make env` runs this; beside a CUDA torch it changes nothing.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

MARK = "# bimode: beside a CPU torch"
REPAIR = f"""

{MARK}
if not _has_ops():
    _BIMODE_LIBRARY = torch.library.Library("torchvision", "DEF")
    for _bimode_name in ("nms", "qnms"):
        _BIMODE_LIBRARY.define(
            f"{{_bimode_name}}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
"""


def main() -> None:
    found = find_spec("torchvision")  # finds the package without importing it
    if found is None or not found.submodule_search_locations:
        return
    file = Path(found.submodule_search_locations[0]) / "extension.py"
    text = file.read_text()
    kept = text.partition(REPAIR)[0] if MARK in text else text
    file.write_text(kept if "--undo" in sys.argv else kept + REPAIR)


if __name__ == "__main__":
    main()
