"""`make faults` on one command."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_killed_caption_ends_as_undisturbed(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/faults.py", "--kills", "1", "--only", "killed caption"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"TMPDIR": str(tmp_path)})
    assert re.search(r"killed \| `coca caption` \| [1-9]\d* \| \d+ \| as undisturbed", run.stdout), run
    assert (run.returncode, list(tmp_path.iterdir())) == (0, [])


def test_every_disturbance_is_explained() -> None:
    page, program = (ROOT / "docs" / "robustness.md").read_text(), (ROOT / "benchmarks" / "faults.py").read_text()
    kinds = re.findall(r'^    "([a-z- ]+)": Scenario', program, re.MULTILINE)
    assert len(kinds) == 8
    assert all(f"\n| {kind} | " in page for kind in kinds)
