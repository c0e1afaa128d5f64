"""What holds for every test: one thread, no network. Set before any library reads it."""

import gc
import os
import signal
from collections.abc import Iterator
from itertools import count

import hypothesis
import pytest

# As from a shell, where `nohup` or a runner started these tests: builds inherit what is ignored.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["DO_NOT_TRACK"] = "1"
# A gate tries the same examples each time, and no clock decides. `make explore` draws new ones.
hypothesis.settings.register_profile("gate", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", deadline=None, print_blob=True)
hypothesis.settings.load_profile("gate")
# Trainers call for full collections, half a second each over all that libraries hold: 6.8 of the 15
# CPU seconds of the tests of `sft`. What the files of tests import is left out of them.
gc.disable()


def pytest_make_parametrize_id(val: object) -> str | None:
    """Names bytes by their length: the workers of one run must agree on each test's name, and
    packed bytes hold the second of their packing."""
    return f"{len(val)}-bytes" if isinstance(val, bytes) else None


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    # Else libraries say at exit that their objects are left.
    gc.unfreeze()


@pytest.fixture(autouse=True)
def own_measurements(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What a test measures, or pretends to, decides nothing for the next one."""
    folder = tmp_path_factory.getbasetemp() / f"cache-{next(_TESTS)}"
    monkeypatch.setenv("FACTORY_CACHE", str(folder))


_TESTS = count()


@pytest.fixture
def fresh_doors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads plug-ins anew, and leaves the doors as they were."""
    from factory.core import plugin_files, registry

    registry.open_doors()
    monkeypatch.setattr(plugin_files, "_loaded", {})
    monkeypatch.setattr(plugin_files, "_texts", {})
    for door in list(registry.DOORS.values()):
        monkeypatch.setattr(door, "table", dict(door.table))


@pytest.fixture
def warm_builds() -> None:
    """Builds in this process find a fork server with its imports done."""
    from warm import warm

    warm()


@pytest.fixture(scope="module")
def float64() -> Iterator[None]:
    """Two ways to compute one thing are compared in float64, see `doubles`."""
    from doubles import in_float64

    with in_float64():
        yield


@pytest.fixture
def float64_here() -> Iterator[None]:
    """The same for one test of a file."""
    from doubles import in_float64

    with in_float64():
        yield


@pytest.fixture
def one_thread() -> None:
    """Torch on one thread, for tests that compare sums bit by bit; others do not import torch."""
    import torch

    torch.set_num_threads(1)
