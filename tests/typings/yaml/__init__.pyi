"""What is used of PyYAML 6."""

import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from . import constructor as constructor

class Mark:
    line: int

class YAMLError(Exception): ...

class MarkedYAMLError(YAMLError):
    def __init__(
        self, context: str | None, context_mark: Mark | None, problem: str, problem_mark: Mark
    ) -> None: ...
    context: str | None
    problem: str | None
    problem_mark: Mark | None

class Node:
    start_mark: Mark
    value: Any

class MappingNode(Node): ...
class SequenceNode(Node): ...

class AliasEvent:
    start_mark: Mark

class SafeLoader:
    yaml_implicit_resolvers: ClassVar[dict[str, Any]]
    def peek_event(self) -> Any: ...
    def compose_node(self, parent: Any, index: Any) -> Any: ...
    def construct_object(self, node: Any, deep: bool = False) -> Any: ...
    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]: ...
    @classmethod
    def add_implicit_resolver(
        cls, tag: str, regexp: re.Pattern[str], first: Sequence[str]
    ) -> None: ...
    @classmethod
    def add_constructor(cls, tag: str, constructor: Callable[[Any, Any], Any]) -> None: ...

def compose(stream: str, Loader: type[SafeLoader]) -> Node | None: ...
def load(stream: str, Loader: type[SafeLoader]) -> Any: ...
def safe_load(stream: str) -> Any: ...
def safe_dump(data: Any, **settings: Any) -> str: ...
