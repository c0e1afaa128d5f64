"""Programs as forks of a process that has imported everything that any stage needs.

A `factory` command that is started from a shell spends ten seconds of a CPU on imports, most of
them in its fork server: more than the stages of a small recipe take together. Here the command is
a fork of a server with its imports done, and so is the command's own fork server, a fork of the
command. All else is as from a shell: processes, sessions, pipes, environments, and who dies with
whom. `test_builds.py` and `test_kill_and_resume.py` hold what comes out to commands from a shell.
"""

import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from multiprocessing import forkserver, util
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, NoReturn

from factory.building.launch.local import preload
from factory.core.machine import Machine, environment
from factory.stages import STAGES

ROOT = Path(__file__).resolve().parents[1]


class WarmProgram:
    """A running program, with what tests use of `subprocess.Popen`."""

    def __init__(
        self, command: Sequence[str], *, output: Path, errors: Path,
        settings: Mapping[str, str], folder: Path = ROOT,
    ) -> None:  # fmt: skip
        """`command` begins with `factory` or the path of a script; it is run in `folder`.

        What it prints goes to `output` and `errors`, which may be the same file; `settings` are
        its environment besides this process's.
        """
        settings = {**os.environ, **SETTINGS, **settings}
        arguments = (command, output, errors, settings, folder)
        self._process = warm().Process(target=_work, args=arguments)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("warm program", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, sign: signal.Signals) -> None:
        os.kill(self.pid, sign)

    def kill(self) -> None:
        self._process.kill()


def run_script(
    path: Path, *arguments: str, settings: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """What `python path arguments` gives; the scripts that it starts in turn are forks too."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        program = WarmProgram(
            [str(path), *arguments], output=output, errors=errors, settings=settings
        )
        status = program.wait()
        texts = (file.read_text(encoding="utf-8") for file in (output, errors))
        return subprocess.CompletedProcess(arguments, status, *texts)


SETTINGS = environment(Machine(device="cpu", matmul="float32", threads=1))
"""Of the server and all that comes from it: libraries read them when they are imported."""


@cache
def warm() -> ForkServerContext:
    """This process's fork server with the imports of every stage done.

    Builds inside this process use it too, since Python knows one fork server a process.
    """
    context = multiprocessing.get_context("forkserver")
    server: Any = forkserver._forkserver
    server._stop()  # one that a build in this process has started knows less
    modules = dict.fromkeys(module for stage in STAGES.values() for module in stage.preload)
    # The last three for commands and `problems` stages.
    modules |= dict.fromkeys(("factory.cli", "factory.report.writing", "reasoning_gym"))
    context.set_forkserver_preload(preload(list(modules)))
    with _environment({**os.environ, **SETTINGS}):
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    try:
        _set_environment(settings)
        yield
    finally:
        _set_environment(before)


def _set_environment(settings: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(settings)


def _work(
    command: Sequence[str], output: Path, errors: Path, settings: Mapping[str, str], folder: Path
) -> None:
    """What a fork of the server does: become a program of its own."""
    os.setsid()
    os.chdir(folder)
    util.spawnv_passfds = _fork_interpreter
    subprocess.run = _run_script
    become(command, output=output, errors=errors, settings=settings)


def become(
    command: Sequence[str], *, output: Path, errors: Path, settings: Mapping[str, str]
) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), descriptor)
    _set_environment(settings)
    if "DIES_AT" in settings:
        _die_at(*os.environ.pop("DIES_AT").split(" "))
    sys.argv = list(command)
    if command[0] == "factory":
        from factory.cli import main

        main()
    else:
        sys.path.insert(0, str(Path(command[0]).parent))
        runpy.run_path(command[0], run_name="__main__")


def _die_at(event: str, text: str) -> None:
    """Let this process, not its forks, kill itself at the first such audit event whose first
    argument holds a text: right before what the event announces is done."""
    own = os.getpid()

    def hear(name: str, arguments: tuple[object, ...]) -> None:
        if name == event and text in str(arguments[0]) and os.getpid() == own:
            os.kill(own, signal.SIGKILL)

    sys.addaudithook(hear)


def fork(work: Callable[[], None]) -> int:
    """Process id of a child that does the work and ends with the status that it gives."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    child = os.fork()
    if child == 0:
        _end_with(work)
    return child


def _end_with(work: Callable[[], None]) -> NoReturn:
    status = 1
    try:
        work()
        status = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


def _fork_interpreter(path: bytes, arguments: Sequence[str], descriptors: Sequence[int]) -> int:
    """In the place of multiprocessing's own: run in a fork what a new interpreter would.

    That is what Python 3.11's fork server is started with, `python -c "...; main(...)"`.
    """

    def work() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        kept = sorted({0, 1, 2, *descriptors})
        for low, high in zip(kept, [*kept[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
            os.closerange(low + 1, high)
        exec(arguments[-1], {})

    return fork(work)


_run = subprocess.run


def _run_script(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
    """In the place of `subprocess.run`: a script that the program starts is a fork of it."""
    if command[0] != sys.executable or not command[1].endswith(".py"):
        return _run(command, **options)
    assert options.keys() == {"capture_output", "text", "check", "env"}
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        child = fork(
            lambda: become(command[1:], output=output, errors=errors, settings=options["env"])
        )
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = (file.read_text(encoding="utf-8") for file in (output, errors))
        return subprocess.CompletedProcess(command, status, *texts)
