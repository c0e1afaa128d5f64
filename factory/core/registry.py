"""Doors: tables that a user extends by name, with the built-in rows registered in the same way.

A recipe holds names. A row comes with the factory, with an installed package (an entry point of the
group `model_factory.<door>`, imported when its name is first wanted) or from a file that the user
names on the command line (`plugin_files.py`). A name is taken once, and a built-in one for good.
"""

import difflib
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Generic, Literal, TypeVar

from factory.core.entry_points import (
    GROUP,
    distribution_of,
    entry_points,
    is_own,
    module_sha256,
)
from factory.core.errors import FactoryError, PluginError, RecipeError

T = TypeVar("T")


@dataclass(frozen=True)
class Origin:
    """Where a row was registered from."""

    kind: Literal["factory", "package", "file"]
    name: str
    """Of a package: its name and version; of a file: its path."""
    sha256: str = ""
    """Of the file, or of the package's module that defines the row."""

    @property
    def label(self) -> str:
        """What a manifest says of it: a file without the folders of this machine."""
        return f"file {Path(self.name).name}" if self.kind == "file" else str(self)

    def __str__(self) -> str:
        return "the factory" if self.kind == "factory" else f"{self.kind} {self.name}"


FACTORY = Origin("factory", "factory")
_origin: ContextVar[Origin] = ContextVar("origin", default=FACTORY)


@contextmanager
def registering(origin: Origin) -> Generator[None]:
    """Rows that are registered meanwhile come from there."""
    token = _origin.set(origin)
    try:
        yield
    finally:
        _origin.reset(token)


def current_origin() -> Origin:
    """Where rows come from that are registered now."""
    return _origin.get()


@dataclass(frozen=True)
class Row(Generic[T]):
    """A registered name."""

    name: str
    version: int
    value: T
    origin: Origin

    @property
    def identity(self) -> list[int | str]:
        """What makes a stage that uses the row another one when it changes."""
        return [self.version, self.origin.sha256]


@dataclass(frozen=True)
class Named:
    """Marks a string field as the name of a row behind a door."""

    door: str


def modules_of(package: str) -> list[str]:
    """The modules and packages that lie in a package's folder, by name; none is imported."""
    path = import_module(package).__path__
    return sorted(f"{package}.{module.name}" for module in iter_modules(path))


class Door(Mapping[str, T]):
    """The rows of one sort. `modules` register the built-in ones when they are imported."""

    def __init__(self, name: str, noun: str, modules: Sequence[str]) -> None:
        self.name = name
        self.noun = noun
        self._modules = tuple(modules)
        self.table: dict[str, Row[T]] = {}
        """The rows that are registered by now; read it through the methods, which fill it."""
        self._is_filled = False
        self._filling: set[int] = set()
        DOORS[name] = self

    def register(self, name: str, value: T, *, version: int) -> None:
        """Take a row; PluginError where its name is taken."""
        origin = _origin.get()
        if not name.isidentifier():
            raise PluginError(
                f"{origin}: the name of {self.noun} must be letters, digits and _, found {name!r}"
            )
        present = self.table.get(name)
        if present is not None:
            raise PluginError(
                f"{self.noun} {name!r} of {origin} is registered already by {present.origin}: "
                "rename it"
            )
        self.table[name] = Row(name, version, value, origin)

    def row(self, name: str) -> Row[T]:
        """The row of that name; RecipeError lists the known ones, PluginError says what an
        installed package does wrong."""
        self._fill()
        entries = self._entries()
        if name not in self.table and name in entries:
            self._import(name, entries[name])
        elif name in entries and self.table[name].origin != _origin_of(entries[name]):
            raise PluginError(
                f"{self.noun} {name!r} of {self.table[name].origin} is also named by package "
                f"{distribution_of(entries[name])}: uninstall it, or have it renamed"
            )
        if name not in self.table:
            raise RecipeError(self._unknown(name))
        return self.table[name]

    def __getitem__(self, name: str) -> T:
        return self.row(name).value

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def get(self, name: str, default: Any = None) -> Any:
        """The value of that name, or the default where nobody registered it."""
        try:
            return self[name]
        except RecipeError:
            return default

    def names(self) -> list[str]:
        """All names: those registered by now, then those of packages, which are not imported."""
        self._fill()
        return [*self.table, *sorted(set(self._entries()) - set(self.table))]

    def rows(self) -> list[Row[T]]:
        """The rows that are registered by now."""
        self._fill()
        return list(self.table.values())

    def load_own(self) -> None:
        """Import the rows of the factory's own packages, which are else imported when wanted."""
        self._fill()
        for name, entry in self._entries().items():
            if is_own(entry) and name not in self.table:
                self._import(name, entry)

    def check(self, name: str) -> str:
        """The name, for a field of a record: ValueError where no row has it."""
        try:
            self.row(name)
        except FactoryError as error:
            raise ValueError(str(error)) from error
        return name

    def forget(self, origin: Origin) -> None:
        """Leave out the rows from there: its file could not be loaded whole."""
        self.table = {name: row for name, row in self.table.items() if row.origin != origin}

    def _fill(self) -> None:
        thread = threading.get_ident()
        # A row's module may ask for its own door; another thread waits in the import of a module.
        if self._is_filled or thread in self._filling:
            return
        self._filling.add(thread)
        try:
            # Whoever loads a plug-in meanwhile: these rows are the factory's own.
            with registering(FACTORY):
                for module in self._modules:
                    import_module(module)
        finally:
            self._filling.discard(thread)
        # Whoever imported one of them before: rows with a module each stand in the modules' order.
        order = {module.rpartition(".")[2]: index for index, module in enumerate(self._modules)}
        rows = sorted(self.table.items(), key=lambda item: order.get(item[0], len(order)))
        self.table = dict(rows)
        self._is_filled = True

    def _entries(self) -> Mapping[str, EntryPoint]:
        return entry_points().get(f"{GROUP}.{self.name}", {})

    def _import(self, name: str, entry: EntryPoint) -> None:
        package = distribution_of(entry)
        if not is_own(entry):
            open_doors()
        try:
            with registering(_origin_of(entry)):
                entry.load()
        except PluginError:
            raise
        # A package's import may raise anything, and none of it is a bug of ours.
        except Exception as error:
            raise PluginError(
                f"package {package}: {entry.value} cannot be imported: "
                f"{type(error).__name__}: {error}"
            ) from error
        if name not in self.table:
            raise PluginError(
                f"package {package}: importing {entry.module} registers no {self.noun} {name!r}"
            )

    def _unknown(self, name: str) -> str:
        names = self.names()
        close = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        return (
            f"no {self.noun} {name!r}{hint}; there are {', '.join(names)}; others come with an "
            "installed package or by --plugin FILE"
        )


DOORS: dict[str, Door[Any]] = {}
"""All doors that are open by now, by name."""
OPENERS = (
    "factory.core.records",
    "factory.problems.benchmark",
    "factory.problems.source",
    "factory.problems.trace_source",
    "factory.rewards.reward",
    "factory.evaluation.measure",
    "factory.stages.stage",
    "factory.report.section",
)
"""The modules that make the doors."""


def open_doors() -> None:
    """Make every door and fill it with the factory's rows, those of its own packages included.

    Before foreign code runs: a built-in module that it imports first would register its rows under
    the plug-in's name.
    """
    for module in OPENERS:
        import_module(module)
    for door in list(DOORS.values()):
        door.load_own()


def _origin_of(entry: EntryPoint) -> Origin:
    if is_own(entry):
        return FACTORY
    return Origin("package", distribution_of(entry), module_sha256(entry.module))
