"""YAML as people read it, and what of it is refused."""

from pathlib import Path

import pytest

from factory.core.errors import RecipeError
from factory.core.yaml12 import MAX_BYTES, load_mapping, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6), ("1E5", 1e5), (".5", 0.5), ("2.", 2.0), ("-3", -3), ("010", 10),
        ("on", "on"), ("yes", "yes"), ("Off", "Off"), ("true", True), ("false", False),
        ("1:30", "1:30"), ("2024-01-01", "2024-01-01"), ("0x10", "0x10"), ("1_000", "1_000"),
        ("null", None), ("~", None), (".inf", ".inf"), ("=", "="), ('"1e-6"', "1e-6"),
    ],
)  # fmt: skip
def test_scalars_are_what_they_look_like(text: str, value: object) -> None:
    result = parse(text, "here")
    assert result == value and type(result) is type(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", "here:3: key 'a' stands twice"),
        ("a: {b: 1, b: 2}\n", "here:1: key 'b' stands twice"),
        ("a: &x 1\nb: *x\n", "here:2: aliases"),
        ("a: 1\n1: 2\n", "here:2: key 1 must be text"),
        ("? [a]\n: 1\n", "must be text"),
        ("a: [1\n", "here:2"),
        ("a: 1\n\tb: 2\n", "here:2"),
        ("a: !!python/object:os.system {}\n", "here:1: tags are not supported"),
        ("a: !!int x\n", "here:1: tags are not supported"),
        ("a: !!binary aGk=\n", "here:1: tags are not supported"),
        ("a: 1\n---\nb: 2\n", "single document"),
        ("a: 1e999\n", "here:1: number 1e999 is too large"),
        (f"a: {'9' * 5000}\n", "here:1: a number of too many digits"),
        ("a: \x00\n", "not readable as YAML"),
        ("[" * 5000, "here"),
    ],
)
def test_what_is_refused_is_named_with_its_line(text: str, expected: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(text, "here")
    assert expected in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


def test_bytes_that_are_not_utf8_are_named_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: a\ndescription: caf\xe9\n")
    with pytest.raises(RecipeError, match=r"latin\.yaml:2: not UTF-8"):
        load_mapping(path)


def test_a_byte_order_mark_is_harmless(tmp_path: Path) -> None:
    path = tmp_path / "marked.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: a\n")
    assert load_mapping(path) == {"name": "a"}


def test_a_file_too_large_a_folder_and_an_empty_file_are_refused(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(RecipeError, match="at most"):
        load_mapping(large)
    with pytest.raises(RecipeError, match="cannot be read: Is a directory"):
        load_mapping(tmp_path)
    empty = tmp_path / "empty.yaml"
    empty.touch()
    with pytest.raises(RecipeError, match="must be a mapping"):
        load_mapping(empty)
