"""What is used of datasets 5.2, whose own annotations leave rows and columns open."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

from . import config as config

class Value:
    def __init__(self, dtype: str) -> None: ...

class Features(dict[str, Any]): ...

class Dataset:
    @property
    def features(self) -> Features: ...
    @classmethod
    def from_dict(cls, mapping: Mapping[str, Sequence[Any]]) -> Dataset: ...
    @classmethod
    def from_list(cls, mapping: Sequence[Mapping[str, Any]]) -> Dataset: ...
    @staticmethod
    def from_generator(
        generator: Callable[..., Iterator[Mapping[str, Any]]],
        *,
        features: Features | None = None,
        cache_dir: str | None = None,
        gen_kwargs: Mapping[str, Any] | None = None,
        fingerprint: str | None = None,
    ) -> Dataset: ...
    def select(self, indices: Sequence[int]) -> Dataset: ...
    def shard(self, num_shards: int, index: int, contiguous: bool = True) -> Dataset: ...
    def to_parquet(self, path_or_buf: str | PathLike[str]) -> int: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[dict[str, Any]]: ...

def load_dataset(
    path: str,
    name: str | None = None,
    *,
    split: str,
    revision: str | None = None,
    data_files: Sequence[str] | None = None,
    cache_dir: str | None = None,
) -> Dataset: ...
