"""Plug-in files: Python that the user names on the command line, `--plugin my_rewards.py`.

Nothing else makes a file run: no recipe, no folder, no variable. A file is read once, and the bytes
that were hashed are those that are compiled. Its folder is not on the path, so that a neighbouring
file is never imported by accident.
"""

import hashlib
import linecache
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType, UnionType
from typing import Any

from factory.core.errors import FactoryError, PluginError, Unpriced
from factory.core.files import write_file
from factory.core.records import Record
from factory.core.registry import DOORS, Origin, Row, open_doors, registering

LOAD_SECONDS = 30
"""Wall clock that a file may take to register its rows."""
CALL_SECONDS = 10
"""Wall clock of a function of a row that is called while a recipe is planned."""


class PluginFile(Record):
    """A loaded file: what a worker needs to load the same bytes."""

    path: str
    sha256: str


_loaded: dict[str, PluginFile] = {}
_texts: dict[str, bytes] = {}


def load_plugins(paths: Sequence[Path]) -> tuple[PluginFile, ...]:
    """Load files that a user named, each once; PluginError says where one goes wrong."""
    return tuple(_load(path.resolve(), as_given=path) for path in paths)


def load_same(files: Sequence[PluginFile]) -> None:
    """Load what another process loaded; PluginError if a file has other bytes by now."""
    for file in files:
        loaded = _load(Path(file.path), as_given=Path(file.path), expected=file.sha256)
        if loaded.sha256 != file.sha256:
            raise PluginError(_changed(file.path))


def loaded_plugins() -> tuple[PluginFile, ...]:
    """The files that this process has loaded, in order."""
    return tuple(_loaded.values())


def keep_texts(folder: Path) -> None:
    """Write the loaded files' text into a folder, by hash: to be read, never run."""
    for sha256, data in _texts.items():
        path = folder / f"{sha256}.py"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_file(path, data.decode("utf-8", errors="replace"))


def rows_of(file: PluginFile) -> list[Row[Any]]:
    """What a loaded file registered, behind all doors."""
    return [
        row
        for door in DOORS.values()
        for row in door.rows()
        if row.origin == Origin("file", file.path, file.sha256)
    ]


def _load(path: Path, *, as_given: Path, expected: str | None = None) -> PluginFile:
    if str(path) in _loaded:
        return _loaded[str(path)]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PluginError(f"--plugin {as_given}: cannot be read: {error.strerror}") from error
    sha256 = hashlib.sha256(data).hexdigest()
    if expected not in (None, sha256):
        raise PluginError(_changed(str(path)))
    origin = Origin("file", str(path), sha256)
    open_doors()
    try:
        _run(data, path, sha256, origin)
    except BaseException:
        for door in list(DOORS.values()):
            door.forget(origin)
        raise
    _loaded[str(path)] = PluginFile(path=str(path), sha256=sha256)
    _texts[sha256] = data
    return _loaded[str(path)]


def _run(data: bytes, path: Path, sha256: str, origin: Origin) -> None:
    try:
        code = compile(data, str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f"{path}:{line}" if line else str(path)
        raise PluginError(f"--plugin {where}: is no Python: {error}") from error
    module = ModuleType(f"factory_plugin_{sha256[:16]}")
    module.__file__ = str(path)
    # Records and dataclasses look their module up by name; tracebacks show the lines that ran.
    sys.modules[module.__name__] = module
    text = data.decode("utf-8", errors="replace")
    linecache.cache[str(path)] = (len(text), None, text.splitlines(keepends=True), str(path))
    try:
        with registering(origin), within(LOAD_SECONDS, "loading"):
            exec(code, module.__dict__)
    except PluginError:
        raise
    except ModuleNotFoundError as error:
        raise PluginError(
            f"--plugin {_place(error, path)}: module {error.name!r} is not installed; a plug-in is "
            "one file: install the module, or make a package of both"
        ) from error
    except KeyboardInterrupt:
        raise
    # Foreign code may raise anything, SystemExit too, and none of it is a bug of ours.
    except BaseException as error:
        raise PluginError(
            f"--plugin {_place(error, path)}: {type(error).__name__}: {error}"
        ) from error


def _place(error: BaseException, path: Path) -> str:
    """The file with the line of it that was at work."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f"{path}:{lines[-1]}" if lines else str(path)


def guarded(
    function: Callable[..., Any], where: str, origin: Origin, gives: type | UnionType
) -> Callable[..., Any]:
    """A function of a row, called so that what a user's does wrong is a PluginError with its name.

    It may take ten seconds, and what it returns is of type `gives`. `where` names row and use, as
    in `problem source tickets: files`. A function of the factory comes back as it is.
    """
    if origin.kind == "factory":
        return function

    def call(*arguments: Any) -> Any:
        try:
            with within(CALL_SECONDS, "at work"):
                value = function(*arguments)
        except (FactoryError, Unpriced):
            raise
        # A user's function may raise anything, and none of it is a bug of ours.
        except (Exception, SystemExit) as error:
            raise PluginError(f"{origin}: {where}: {type(error).__name__}: {error}") from error
        if not isinstance(value, gives):
            wanted = getattr(gives, "__name__", str(gives))
            raise PluginError(f"{origin}: {where}: gave {value!r}, a {wanted} is wanted")
        return value

    return call


@contextmanager
def within(seconds: int, doing: str) -> Generator[None]:
    """TimeoutError after so long; signals reach the main thread alone, elsewhere without limit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"still {doing} after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _changed(path: str) -> str:
    return (
        f"--plugin {path}: changed while it is in use: what was planned with it is not what it is "
        "now; start again"
    )
