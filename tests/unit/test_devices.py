"""What `factory doctor` says about GPUs, from what NVIDIA's tool prints."""

from pathlib import Path

import pytest

from factory.building.recipe import load_machine
from factory.doctor import devices

GPU = {
    "index": "0", "name": "NVIDIA H100 80GB HBM3", "memory.total": "81559",
    "memory.free": "81000", "compute_cap": "9.0", "mig.mode.current": "Disabled",
}  # fmt: skip
STATUS = "| NVIDIA-SMI 580.65.06   Driver Version: 580.65.06   CUDA Version: 13.0 |"
NVLINK = """
        GPU0    GPU1    GPU2    NIC0    CPU Affinity
GPU0     X      NV18    NV18    SYS     0-47
GPU1    NV18     X      NV18    SYS     0-47
GPU2    NV18    NV18     X      PIX     48-95
NIC0    SYS     SYS     PIX      X
"""


def test_gpus_are_named_with_their_memory_and_what_they_cannot_do() -> None:
    fine = devices.gpu_findings([GPU, {**GPU, "index": "1"}])
    assert [(f.name, f.status) for f in fine] == [("GPUs", "ok"), ("GPU memory", "ok")]
    assert fine[0].state == "2 x NVIDIA H100 80GB HBM3, 79.6 GiB"
    old = {**GPU, "name": "Tesla V100", "compute_cap": "7.0", "memory.free": "20480",
           "mig.mode.current": "[N/A]"}  # fmt: skip
    sliced = {**GPU, "mig.mode.current": "Enabled", "index": "1"}
    messages = {f.name: f for f in devices.gpu_findings([old, sliced])}
    assert {name: f.status for name, f in messages.items()} == dict.fromkeys(
        ("GPUs", "GPU memory", "bfloat16", "MIG"), "warning"
    )
    assert messages["GPU memory"].state == "free: GPU 0: 20.0 of 79.6 GiB"
    assert messages["bfloat16"].state == "not on GPU 0"


@pytest.mark.parametrize(
    ("status", "built_for", "expected"),
    [
        (STATUS, "13.0", "ok"),
        (STATUS, "12.8", "ok"),
        (STATUS, None, "ok"),
        (STATUS.replace("13.0", "12.9"), "12.8", "ok"),
        (STATUS.replace("13.0", "12.8"), "12.9", "ok"),
        (STATUS.replace("13.0", "12.4"), "13.0", "problem"),
        ("NVIDIA-SMI has failed", "13.0", "warning"),
    ],
)
def test_a_driver_runs_what_was_built_for_its_major_version_or_an_earlier_one(
    status: str, built_for: str | None, expected: str
) -> None:
    assert devices.driver_finding(status, built_for).status == expected


@pytest.mark.parametrize(
    ("topology", "expected", "text"),
    [
        (NVLINK, "ok", "NV18 in 3 pairs"),
        (NVLINK.replace("GPU1    NV18     X      NV18", "GPU1    NV18     X      PHB"), "warning",
         "NV18 in 2 pairs, PHB in 1 pairs"),
        (NVLINK.replace("GPU0     X      NV18", "\x1b[4mGPU0     X      SYS"), "warning",
         "NV18 in 2 pairs, SYS in 1 pairs"),
        ("", "warning", "not told"),
        (NVLINK.replace("GPU2    NV18", "gpu"), "ok", "NV18 in 3 pairs"),
    ],
)  # fmt: skip
def test_links_are_counted_by_pairs(topology: str, expected: str, text: str) -> None:
    finding = devices.links_finding(topology, 3)
    assert (finding.status, finding.state) == (expected, text)


def test_nccl_and_shared_memory_are_what_ranks_need() -> None:
    assert devices.nccl_finding({"nvidia-nccl-cu13": "2.28.9"}).status == "ok"
    assert devices.nccl_finding({}).status == "warning"
    two = {"nvidia-nccl-cu12": "2.27.5", "nvidia-nccl-cu13": "2.28.9"}
    assert devices.nccl_finding(two).status == "warning"
    assert devices.shared_memory_finding(0.0625).status == "warning"
    assert devices.shared_memory_finding(16.0).status == "ok"


def test_packages_that_refuse_each_other_are_named() -> None:
    wishes = {
        "trl": ["transformers>=4.56.2", "torch>=2.6; extra == 'old'", "absent>=1"],
        "vllm": ["torch==2.13.0", "numpy", "transformers<6; python_version < '3'", "not a wish ~"],
    }
    versions = {"trl": "1.16", "vllm": "0.31.0", "torch": "2.12.0+cu130", "transformers": "5.17.0",
                "numpy": "2.2.0"}  # fmt: skip
    finding = devices.together_finding(wishes, versions)
    assert finding.status == "warning"
    assert finding.state == "vllm wants torch==2.13.0, not 2.12.0+cu130"
    versions["torch"] = "2.13.0+cpu"
    assert devices.together_finding(wishes, versions).status == "ok"


def test_a_machine_without_gpus_has_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    (finding,) = devices.device_findings()
    assert finding.status == "ok"
    assert "none" in finding.state


def test_what_nvidias_tool_prints_becomes_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ", ".join(GPU.values())
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        f'#!/bin/sh\ncase "$1" in --query*) echo "{row}"; echo "{row.replace("0,", "1,", 1)}";;\n'
        f'topo) printf "GPU0 X NV18\\nGPU1 NV18 X\\n";; *) echo "{STATUS}";; esac\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(devices, "nccl_versions", lambda: {"nvidia-nccl-cu13": "2.28.9"})
    monkeypatch.setattr(devices, "torch_cuda", lambda: "13.0")
    names = [finding.name for finding in devices.device_findings()]
    assert names == ["GPUs", "GPU memory", "driver", "NCCL", "links", "shared memory"]
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed' >&2; exit 9\n")
    (finding,) = devices.device_findings()
    assert finding.status == "warning"
    assert "has failed" in finding.state


@pytest.mark.parametrize(
    ("name", "gpus", "status", "words"),
    [
        ("cpu", 0, "ok", "takes no GPU"),
        ("1x80", 1, "ok", "takes 1 of 1 GPUs"),
        ("1x80", 0, "problem", "takes 1 GPUs, and 0 are here"),
        ("node8", 4, "problem", "takes 8 GPUs, and 4 are here"),
        ("slurm", 0, "ok", "a Slurm job of 2 nodes with 8 GPUs each"),
    ],
)
def test_a_machine_file_is_held_against_the_machine(
    name: str, gpus: int, status: str, words: str
) -> None:
    finding = devices.machine_finding(load_machine(Path(name)), gpus)
    assert (finding.status, finding.state) == (status, words)
