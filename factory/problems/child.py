"""The process in which plug-in sources run: a line in asks for a row, a JSON answer goes out."""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from factory.core.interpreter import die_with_parent
from factory.core.plugin_files import PluginFile, load_same
from factory.core.registry import DOORS, open_doors


def main(plugins: str) -> None:
    """Answer until standard input closes; whatever a plug-in prints goes nowhere."""
    die_with_parent()  # it may hang: then it does not see that its input is closed
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    load_same([PluginFile.model_validate(row) for row in json.loads(plugins)])
    open_doors()
    out.write("ready\n")
    out.flush()
    rows: Iterator[str] | None = None
    for line in sys.stdin:
        try:
            if rows is None:
                rows = _rows(json.loads(line))
            answer = {"row": next(rows)}
        except StopIteration:
            answer = {}
        # A user's function may raise anything, SystemExit too.
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(answer) + "\n")
        out.flush()


def _rows(request: dict[str, Any]) -> Iterator[str]:
    """JSON of the records that a row's function gives; TypeError for anything else."""
    row = DOORS[request["door"]].row(request["name"])
    config = row.value.config.model_validate_json(json.dumps(request["config"]))
    seed, wanted = request["seed"], row.value.gives
    given = row.value.function(config) if seed is None else row.value.function(config, seed)
    if not isinstance(given, Iterable):
        raise TypeError(f"gave {given!r}, {wanted.__name__}s one after the other are wanted")
    for item in given:
        if not isinstance(item, wanted):
            raise TypeError(f"gave {item!r}, a {wanted.__name__} is wanted")
        # ValueError and TypeError for what JSON cannot hold: it would be another row in the file.
        yield json.dumps(item.model_dump(), allow_nan=False)


if __name__ == "__main__":
    main(sys.argv[1])
