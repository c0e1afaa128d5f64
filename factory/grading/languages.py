"""How programs of a language are built and run: the table that a new language is added to."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Language:
    file: str
    """The source's name in `/program`."""
    run: tuple[str, ...] = ()
    """The command; empty for Python, whose interpreter's place differs from machine to machine."""
    compile: tuple[str, ...] = ()
    """Writes the program to standard output: only that leaves the sandbox."""


LANGUAGES = {
    "python": Language("main.py"),
    "cpp": Language(
        "main.cpp",
        run=("/bin/sh", "-c", "cat /program/main > m && chmod +x m && exec ./m"),
        compile=(
            "/bin/sh", "-c", "g++ -std=c++17 -O1 -o m /program/main.cpp && cat m",
        ),
    ),
}  # fmt: skip
