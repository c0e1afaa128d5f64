"""The script of `make gpu-check` on the processor: deadlines, figures, the table."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "gpu"))
import ten_minutes


def test_a_dry_check_writes_its_figures_and_a_table(tmp_path: Path) -> None:
    command = [sys.executable, ten_minutes.__file__, "--dry", "--out", tmp_path, "--only", "facts"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "checks.jsonl").read_text(encoding="utf-8"))
    assert (row["check"], row["verdict"]) == ("facts", "ok")
    assert row["tflops"] > 0 and row["tb_per_second"] > 0
    assert "| facts | ok |" in done.stdout


def test_a_check_ends_at_its_deadline_and_a_fault_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = ten_minutes.Ground(tmp_path, dry=True)
    script = tmp_path / "script.py"
    monkeypatch.setattr(ten_minutes, "__file__", str(script))
    script.write_text("import time; time.sleep(60)")
    late = ten_minutes.run_check("facts", ground, 1.0)
    assert late["verdict"] == "late"
    assert late["seconds"] < 10
    script.write_text("raise SystemExit('CUDA error: out of memory')")
    assert ten_minutes.run_check("facts", ground, 20.0)["verdict"] == "CUDA error: out of memory"


def test_all_checks_together_fit_ten_minutes_with_room_for_the_slowest() -> None:
    seconds = [limit for limit, _ in ten_minutes.CHECKS.values()]
    assert min(seconds) > 5
    assert max(seconds) < 200


def test_a_table_has_a_line_a_check() -> None:
    rows = [
        {"check": "sft", "verdict": "ok", "seconds": 31.0, "planned_gib": 37.7, "peak_gib": 36.2,
         "ratio": 0.9602, "tokens_per_second": 21034.2, "note": "a|b"},
        {"check": "grpo", "verdict": "late", "seconds": 90.0},
    ]  # fmt: skip
    assert ten_minutes.table(rows).splitlines()[2:] == [
        "| sft | ok | 31 | 37.7 | 36.2 | 0.9602 | 2.103e+04 | note a/b |",
        "| grpo | late | 90 |  |  |  |  |  |",
    ]
