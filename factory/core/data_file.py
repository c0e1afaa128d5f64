"""The files that a recipe names: where they lie, and what is recorded of them."""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import GetCoreSchemaHandler, SerializationInfo, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from factory.core.shipped import shipped

WITH_PATHS = {"paths": True}
"""Serialisation context of what another process or another recipe reads: files by their paths."""


class DataFile(str):
    """A file or folder that a recipe names: as text the path where it is, `written` as it stands.

    A relative path is looked for beside the recipe and those it extends, then in the current
    folder, then among what comes with the factory. Nothing there: it is meant from the current
    folder. A pattern means the first folder where something is called like it. `~` is the user's
    home. What is written enters the fingerprint, so that a moved recipe stays the same; a job,
    which another process reads, holds the path. ValueError where it means two files.
    """

    written: str = ""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_after_validator_function(
            cls._read,
            core_schema.str_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(
                cls._write, info_arg=True, return_schema=core_schema.str_schema()
            ),
        )

    @classmethod
    def _read(cls, written: str, info: ValidationInfo) -> "DataFile":
        folders: Sequence[Path] = (info.context or {}).get("folders", ())
        file = cls(_file_of(written, folders))
        file.written = getattr(written, "written", written)
        return file

    def _write(self, info: SerializationInfo) -> str:
        return str(self) if info.context == WITH_PATHS else getattr(self, "written", str(self))


def _file_of(written: str, folders: Sequence[Path]) -> str:
    if written.startswith("~/"):
        return str(Path(written).expanduser())
    if not written or Path(written).is_absolute():
        return written
    candidates = [folder / written for folder in (*folders, Path())]
    is_pattern = any(sign in written for sign in "*?[")
    existing = [path for path in candidates if path.exists()]
    if is_pattern and not existing:
        matched = [p for p in candidates if next(glob.iglob(str(p), recursive=True), None)]
        return str(next(iter(matched), written))
    for other in existing[1:]:
        if not other.samefile(existing[0]):
            raise ValueError(f"means {existing[0]} or {other}; write the whole path")
    from_factory = shipped("recipes").parent / written
    if not existing and written.startswith(("recipes/", "evals/")) and from_factory.exists():
        return str(from_factory)
    return str(existing[0]) if existing else written
