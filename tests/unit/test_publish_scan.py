"""What must not be in a published folder is found, and ordinary text is not."""

import io
import pickle
import zipfile
from pathlib import Path

import pytest

from factory.publish.card import licences_text
from factory.publish.gate import card_faults
from factory.publish.licences import Source, terms
from factory.publish.scan import (
    executables,
    is_pickle,
    machine_path_in,
    machine_paths,
    secret_in,
    secrets,
)
from factory.report.markdown import markdown_block, markdown_text
from tests.report_example import HOSTILE

TOKEN = "hf_" + "aB3" * 12


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"token: {TOKEN}", "a Hugging Face token"),
        ("ghp_" + "x1Y2" * 10, "a GitHub token"),
        ("sk-proj-" + "a1B2" * 10, "an API key"),
        ("AKIA" + "ABCD1234" * 2, "an AWS key"),
        ("-----BEGIN RSA PRIVATE KEY-----", "a private key"),
        ("https://user:hunter22@host/x", "a password in an address"),
    ],
)
def test_a_token_like_string_is_named_by_its_kind(text: str, kind: str) -> None:
    assert secret_in(f"before {text} after") == kind


@pytest.mark.parametrize(
    "text", ["hf_hub", "sk-learn", "What is 12:30 at 5@6?", "https://host:8000/x", "a" * 200]
)
def test_ordinary_text_is_no_secret(text: str) -> None:
    assert secret_in(text) is None


def test_a_secret_is_found_beyond_the_first_piece_and_never_printed(tmp_path: Path) -> None:
    from factory.publish.scan import STEP

    text = "x" * (STEP - 10) + " " + TOKEN
    (tmp_path / "notes.txt").write_text(text, encoding="utf-8")
    assert secrets(tmp_path) == ["notes.txt: looks like a Hugging Face token"]


def test_folders_of_this_machine_are_found_and_prose_is_not(tmp_path: Path) -> None:
    position = Path("/srv/checkout/store")
    for text in ("at /srv/checkout/store/x", "/home/someone/file", r"C:\Users\someone"):
        assert machine_path_in(text, (position,)), text
    for text in ("/", "and/or", "https://host/home/", "/srv/checkout/stores", "/root"):
        assert machine_path_in(text, (position, Path("/root"))) is None, text
    (tmp_path / "config.json").write_text('{"path": "/home/someone/m"}', encoding="utf-8")
    assert machine_paths(tmp_path, ()) == [
        "config.json: names a folder of this machine: /home/someone/"
    ]


def test_pickles_are_found_by_their_bytes_whatever_their_name(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("model/data.pkl", b"x")
    for protocol in range(2, 6):
        (tmp_path / "notes.txt").write_bytes(pickle.dumps([1], protocol=protocol))
        assert is_pickle(tmp_path / "notes.txt")
    (tmp_path / "notes.txt").write_bytes(archive.getvalue())
    assert is_pickle(tmp_path / "notes.txt")
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    (tmp_path / "modeling.py").write_text("", encoding="utf-8")
    (tmp_path / "plain.txt").write_text("PK is a word", encoding="utf-8")
    (tmp_path / "link.txt").symlink_to(tmp_path / "plain.txt")
    result = executables(tmp_path)
    assert [line.partition(":")[0] for line in result] == [
        "link.txt", "modeling.py", "notes.txt", "pytorch_model.bin",
    ]  # fmt: skip


def test_hostile_text_passes_the_card_check_escaped_and_fails_it_bare(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    head = "---\nlicense: mit\n---\n\n"
    escaped = f"{head}{markdown_text(HOSTILE)}\n\n{markdown_block(HOSTILE)}\n"
    card.write_text(escaped, encoding="utf-8")
    assert card_faults(card) == []
    for bare, reason in (
        ("<img src=x>", "raw HTML"),
        ("[here](javascript:x)", "a link"),
        ("![x](y)", "a link"),
        ("\u202eabc", "U+202E"),
        ("````text\nx\n```\n<i>\n````\n<b>", "raw HTML"),
    ):
        card.write_text(f"{escaped}{bare}\n", encoding="utf-8")
        (fault,) = card_faults(card)
        assert reason in fault
    card.write_text(f"{escaped}````text\n```\n<i>\n````\n", encoding="utf-8")
    assert card_faults(card) == []
    card.write_text(f"---\nlicense: [\n---\n{escaped}", encoding="utf-8")
    assert "front matter" in card_faults(card)[0]


def source(licence: str, role: str = "base") -> Source:
    return Source(role, "base", "some/model", licence)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("name", "licence", "reason"),
    [
        ("small", "apache-2.0", None),
        ("small", "cc-by-4.0", None),
        ("small", "", "has no stated licence"),
        ("small", "cc-by-nc-4.0", "not among those known"),
        ("small", "llama3.1", "begins with 'Llama'"),
        ("Llama-small", "llama3.1", None),
    ],
)
def test_a_licence_allows_or_is_the_reason(name: str, licence: str, reason: str | None) -> None:
    result = terms(name, [source(licence)])
    if reason is None:
        assert result.problems == () and result.licence == licence
    else:
        assert reason in result.problems[0]


@pytest.mark.parametrize(
    ("data", "licence"), [("mit", "apache-2.0"), ("", "unknown"), ("cc-by-nc-4.0", "other")]
)
def test_a_bases_licence_says_nothing_where_the_data_may_not_be_used(
    data: str, licence: str
) -> None:
    used = [source("apache-2.0"), source(data, "data")]
    result = terms("small", used)
    assert result.licence == licence
    said = licences_text(used, result)
    assert ("Published under apache-2.0." in said) == (data == "mit")
    assert ("Not for others to use" in said) == (data != "mit")


def test_llamas_outputs_ask_for_the_name_and_the_notice_too() -> None:
    used = [source("apache-2.0"), source("llama3.3", "teacher")]
    assert "Llama" in terms("student", used).problems[0]
    allowed = terms("Llama-student", used)
    assert allowed.licence == "apache-2.0" and allowed.notices == ("Built with Llama",)
