"""Completions of the call under way, on disk as they come: a block that is cut is not lost."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from factory.core.guarded import append_guarded, intact_rows
from factory.sampling.sampler import Completion


class Kept:
    """One file a call, named by what is asked; any number of threads may add to it."""

    def __init__(self, scratch: Path | None, name: str) -> None:
        """`scratch` outlives a kill; None keeps nothing."""
        self._scratch = scratch
        self._name = name
        self._path: Path | None = None
        self._lock = Lock()

    def begin(self, requested: Any) -> dict[int, Completion]:
        """Completions of an earlier call that asked just this (JSON), by place.

        Those of the call before are in the caller's hands by now: their file goes.
        """
        if self._scratch is None:
            return {}
        text = json.dumps(requested, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        before, self._path = self._path, self._scratch / f"{self._name}-{digest}.jsonl"
        if before is not None and before != self._path:
            before.unlink(missing_ok=True)
        return {row["place"]: Completion.from_row(row) for row in intact_rows(self._path)}

    def add(self, completions: Mapping[int, Completion]) -> None:
        """Force completions to disk, by place."""
        if self._path is not None:
            rows = [
                {"place": index, **completion.row()} for index, completion in completions.items()
            ]
            with self._lock:
                append_guarded(self._path, rows)
