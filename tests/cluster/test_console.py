"""Lines of ours reach the terminal, those that C++ writes past Python its log, and all is as before
afterwards.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import os, sys
from pathlib import Path
from cluster.console import native_stderr_in
print("before", file=sys.stderr)
with native_stderr_in(Path(sys.argv[1])):
    os.write(2, b"core_worker.cc: noise\\n")
    print("during \u00e9", file=sys.stderr)
    os.system("echo child >&2")
os.write(2, b"after\\n")
try:
    with native_stderr_in(Path(sys.argv[1])):
        raise KeyboardInterrupt
except KeyboardInterrupt:
    print("end", file=sys.stderr)
"""


def test_what_is_written_past_python_goes_to_the_log(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "before\nduring \u00e9\nafter\nend\n"
    assert (tmp_path / "native-stderr.log").read_text() == "core_worker.cc: noise\nchild\n"
