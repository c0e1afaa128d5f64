"""The wheel in an environment and a folder that know nothing of this checkout.

What it needs besides lies in the present environment, which a line in a .pth file adds: fetching it
takes minutes, and a workflow does so. With FACTORY_LONG_TESTS=1 the whole smoke recipe is built and
the offline suite measured, which takes most of an hour on two cores.
"""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from building import MACHINE
from wheel import built_wheel

IS_LONG = bool(os.environ.get("FACTORY_LONG_TESTS"))
SIDE_PACKAGES = [path for path in sys.path if path.endswith("site-packages")]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of a wheel that pip installed into a new environment."""
    folder = tmp_path_factory.mktemp("installed")
    wheel, home = built_wheel(folder), folder / "env"
    venv.create(home, with_pip=False, symlinks=True)
    pip = [sys.executable, "-P", "-m", "pip", "--python", str(home), "install", "-q", "--no-deps"]
    subprocess.run([*pip, "--no-index", str(wheel)], check=True)
    paths = {"base": str(home), "platbase": str(home)}
    site = Path(sysconfig.get_path("purelib", "venv", paths))
    (site / "others.pth").write_text("\n".join(SIDE_PACKAGES) + "\n", encoding="utf-8")
    return home / "bin" / "factory"


def run(program: Path, folder: Path, *words: str) -> str:
    """What it prints, in a folder with nothing but a machine file."""
    folder.mkdir(exist_ok=True)
    (folder / "machine.yaml").write_text(MACHINE, encoding="utf-8")
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    done = subprocess.run(
        [str(program), *words], cwd=folder, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", **kept},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_command_is_that_of_the_wheel(program: Path, tmp_path: Path) -> None:
    assert run(program, tmp_path / "empty", "--version").startswith("distill-factory ")
    python = program.with_name("python")
    ask = "import factory; print(factory.__file__)"
    done = subprocess.run([python, "-c", ask], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith(str(program.parents[1])), done.stderr


def test_the_demo_and_a_build_by_name_work_in_an_empty_folder(
    program: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "empty"
    assert "report: artifacts/reports/demo/report.html" in run(program, folder, "demo")
    until = () if IS_LONG else ("--until", "base")
    output = run(program, folder, "build", "smoke", "--machine", "machine.yaml", *until)
    assert "report: artifacts/reports/smoke/report.html" in output
    rows = run(program, folder, "ls").splitlines()
    assert {row.partition("-")[0] for row in rows} >= {"base"}


@pytest.mark.skipif(not IS_LONG, reason="half an hour: FACTORY_LONG_TESTS=1")
def test_the_offline_suite_is_measured_in_an_empty_folder(program: Path, tmp_path: Path) -> None:
    output = run(program, tmp_path / "empty", "eval", "embedded", "--suite", "offline")
    assert "gsm8k_100" in output and "next: factory show" in output
