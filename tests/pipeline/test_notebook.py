"""The notebook of the interface for Python: it runs, and says what it says it says."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "examples" / "from_python.ipynb"


def outputs(notebook: dict) -> dict[str, list[str]]:
    """What each cell shows, by its text; not what a random model happened to write."""
    shown = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and "verdict.outcome" not in source:
            shown[source] = [
                "".join(output.get("text") or output["data"]["text/plain"])
                for output in cell["outputs"]
            ]
    return shown


def test_the_notebook_runs_and_its_outputs_are_those_that_are_kept(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "notebook.py"), str(NOTEBOOK)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    kept = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert outputs(json.loads(done.stdout)) == outputs(kept)
    assert all(cell["execution_count"] for cell in kept["cells"] if cell["cell_type"] == "code")
