"""What must not be in a published folder: pickles, secrets, paths of this machine."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

PICKLE_SUFFIXES = frozenset(
    [".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".dill"]
)
"""Formats that can run code when they are loaded, or that are used for it."""
CODE_SUFFIXES = frozenset([".py", ".pyc", ".so", ".sh", ".exe", ".dll", ".js"])
TEXT_SUFFIXES = frozenset([".json", ".jsonl", ".md", ".yaml", ".yml", ".txt", ".jinja"])
SECRETS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})",
    "an API key": r"\bsk-(?:[a-z]{2,8}-){0,3}[A-Za-z0-9_-]{32,}",
    "an AWS key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a Google key": r"\bAIza[A-Za-z0-9_-]{35}",
    "a Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{20,}",
    "a private key": r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----",
    "a signed web token": r"\beyJ[A-Za-z0-9_-]{16,}\.eyJ[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",
    "a password in an address": r"\b[a-z][a-z0-9+.-]{1,12}://[^\s/:@]{1,64}:[^\s/:@]{3,128}@",
}
_SECRET = re.compile("|".join(f"(?P<s{i}>{p})" for i, p in enumerate(SECRETS.values())))
_HOME = re.compile(r"(?<![\w.])/(?:home|Users)/[\w.-]+/|\b[A-Za-z]:\\{1,2}Users\\")
STEP = 2**20
OVERLAP = 4096


def executables(folder: Path) -> list[str]:
    """Files that are, or hold, pickles or code: by their names and by their first bytes."""
    messages = []
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            messages.append(f"{name}: is a link; what is published holds files only")
        elif path.suffix in PICKLE_SUFFIXES or is_pickle(path):
            messages.append(f"{name}: a pickle, or a format that may hold one: it can run code")
        elif path.suffix in CODE_SUFFIXES:
            messages.append(f"{name}: code has no place beside weights")
    return messages


def is_pickle(path: Path) -> bool:
    """Whether a file begins as pickle protocol 2 to 5 does, or is a zip archive of torch's kind."""
    with path.open("rb") as file:
        head = file.read(4)
    if len(head) >= 2 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return True
    if head == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith(".pkl") for name in archive.namelist())
        except zipfile.BadZipFile:
            return True
    return False


def secrets(folder: Path) -> list[str]:
    """Token-like strings in text files: the file and the kind, never the string."""
    kinds = (
        f"{path.relative_to(folder).as_posix()}: looks like {kind}"
        for path, text in _texts(folder)
        if (kind := secret_in(text))
    )
    return list(dict.fromkeys(kinds))


def secret_in(text: str) -> str | None:
    """The kind of the first token-like string in a text, None if there is none."""
    match = _SECRET.search(text)
    return None if match is None else list(SECRETS)[int(str(match.lastgroup)[1:])]


def machine_paths(folder: Path, places: tuple[Path, ...]) -> list[str]:
    """Text files that name a home folder or one of `places` (this checkout, the store)."""
    lines = (
        f"{path.relative_to(folder).as_posix()}: names a folder of this machine: {path_found}"
        for path, text in _texts(folder)
        if (path_found := machine_path_in(text, places))
    )
    return list(dict.fromkeys(lines))


def machine_path_in(text: str, places: tuple[Path, ...]) -> str | None:
    """The first folder of this machine that a text names, None if there is none."""
    for folder in places:
        # "/" and "/root" are too short to mean this machine: prose and chat text hold them.
        if len(folder.parts) > 2 and re.search(rf"(?<![\w.]){re.escape(str(folder))}(?!\w)", text):
            return str(folder)
    match = _HOME.search(text)
    return None if match is None else match.group()


def _texts(folder: Path) -> Iterator[tuple[Path, str]]:
    """(file, text) of every text file, long ones in pieces that overlap."""
    for path in _files(folder):
        if path.suffix not in TEXT_SUFFIXES or path.is_symlink():
            continue
        kept = ""
        with path.open(encoding="utf-8", errors="replace") as file:
            while piece := file.read(STEP):
                yield path, kept + piece
                kept = piece[-OVERLAP:]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
