"""Another distribution with a module `factory`, as factory-boy, in the same environment."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from factory.doctor.checks import module_finding

ROOT = Path(__file__).resolve().parents[2]


def _install_other(site: Path, *, is_later: bool) -> None:
    """A fake wheel's files: those that are there already stay where ours was the later one."""
    files = {"__init__.py": "from .base import Factory\n", "base.py": "class Factory: ...\n"}
    files["errors.py"] = "class FactoryError(Exception): ...\n"
    for name, text in files.items():
        target = site / "factory" / name
        if is_later or not target.exists():
            target.write_text(text, encoding="utf-8")
    info = site / "factory_boy-3.3.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: factory_boy\nVersion: 3.3.0\n", encoding="utf-8")
    (info / "RECORD").write_text("factory/__init__.py,,\nfactory/base.py,,\n", encoding="utf-8")


@pytest.mark.parametrize("is_later", [True, False])
def test_a_module_of_that_name_of_others_is_told_and_never_a_traceback(
    is_later: bool, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    ignored = shutil.ignore_patterns("__pycache__", "*.zip")
    shutil.copytree(ROOT / "factory", site / "factory", ignore=ignored)
    _install_other(site, is_later=is_later)
    done = subprocess.run(
        [sys.executable, "-c", "from factory.cli import main; main()", "--version"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
        env={**os.environ, "PYTHONPATH": str(site)},
    )  # fmt: skip
    if is_later:
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith(f"error: {site}/factory/__init__.py is a file of factory_boy")
        assert done.stderr.count("\n") == 1
        return
    assert done.returncode == 0 and done.stdout.startswith("distill-factory ")
    ask = "from factory.core.ownership import others; print(others())"
    done = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True, cwd=tmp_path, check=True,
        env={**os.environ, "PYTHONPATH": str(site)},
    )  # fmt: skip
    assert done.stdout == "['factory_boy']\n"


def test_the_doctor_says_who_shares_the_module() -> None:
    assert module_finding([]).status == "ok"
    finding = module_finding(["factory_boy"])
    assert finding.status == "problem" and "factory_boy" in finding.state
