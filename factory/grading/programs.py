"""The program in an answer, as people write it, and the program that is run."""

import re
import textwrap

TAGS = {
    "python": frozenset(("python", "py", "python3", "python2", "py3", "cpython")),
    "cpp": frozenset(("cpp", "c++", "cc", "cxx", "c++17", "c++20", "cpp17")),
}
"""What a fenced block of a language is tagged with, in any case."""
_FENCE = re.compile(r"([ \t]*(?:(?:[-*+]|\d{1,3}[.)])[ \t]+)?)(`{3,}|~{3,})[ \t]*([^\s`{]*)[^\n`]*")
_CODE = re.compile(
    r"[=({;]|^\s*(?:import|from|def|class|for|while|if|return|print)\b", re.MULTILINE
)
_MARKS = re.compile(r"^[ \t]*(?:`{3,}|~{3,})[^\n`]*(?:\n|\Z)|`{3,}[ \t]*$", re.MULTILINE)
_INLINE = re.compile(r"`{3,}([^`\n]+)`{3,}")
_FUTURE = re.compile(r"^from[ \t]+__future__[ \t]+import[^\n]*\n?", re.MULTILINE)


def program_of(answer: str, language: str = "python") -> str:
    """The program in an answer; linear in its length.

    That is the last fenced block tagged as the language, else the last untagged one that is more
    than bare values (an example of the output is no program); never one tagged otherwise. A fence
    that is never closed ends with the answer. Without fences it is the whole answer; stray marks
    are no code.
    """
    blocks = [block for block in _blocks(answer) if block[1].strip()]
    if not blocks:
        inline = _INLINE.fullmatch(answer.strip())
        if inline:
            return inline[1]
        return _MARKS.sub("", answer) if "```" in answer or "~~~" in answer else answer
    tagged = [text for tag, text in blocks if tag.casefold() in TAGS[language]]
    untagged = [text for tag, text in blocks if not tag]
    programs = [text for text in untagged if _CODE.search(text)]
    chosen = tagged or programs or untagged
    return chosen[-1] if chosen else ""


def _blocks(answer: str) -> list[tuple[str, str]]:
    """(tag, text) of every fenced block, without the indent of its fence (CommonMark)."""
    blocks: list[tuple[str, str]] = []
    lines: list[str] | None = None
    indent, fence, tag = 0, "", ""
    for line in answer.splitlines(keepends=True):
        match = _FENCE.match(line)
        if lines is None:
            if match and not line[match.end() :].strip():
                indent, fence, tag, lines = len(match[1]), match[2], match[3], []
            continue
        closes = match and match[2].startswith(fence) and not match[3]
        if closes and match and not line[match.end() :].strip():
            blocks.append((tag, "".join(lines)))
            lines = None
            continue
        lines.append(line[_common(line, indent) :])
    if lines is not None:
        blocks.append((tag, _MARKS.sub("", "".join(lines))))
    return blocks


def _common(line: str, indent: int) -> int:
    return min(indent, len(line) - len(line.lstrip(" \t")))


def complete(prompt: str) -> str:
    """A prompt that ends in the head of a function, with an empty body."""
    lines = prompt.rstrip().splitlines()
    if not lines or not lines[-1].endswith(":"):
        return prompt
    head = lines[-1]
    indent = head[: len(head) - len(head.lstrip())]
    return f"{prompt.rstrip()}\n{indent}    pass\n"


def whole_program(prompt: str, source: str) -> str:
    """The program after its prompt; a source that begins indented continues the prompt's body.

    Imports from __future__ are legal at the top alone, so they go before the prompt.
    """
    if not prompt:
        return f"{textwrap.dedent(source) if source[:1] in (' ', chr(9)) else source}\n"
    is_body = source[:1] in (" ", "\t")
    future = "" if is_body else "".join(line.rstrip() + "\n" for line in _FUTURE.findall(source))
    source = _FUTURE.sub("", source) if future else source
    return f"{future}{prompt}{'' if is_body else chr(10) * 2}{source}\n"


def indented_block(text: str) -> str:
    """What a well-formed text's answer block holds, with the indent of a first line of its own."""
    block = text.rpartition("<answer>")[2].rpartition("</answer>")[0]
    first, _, rest = block.partition("\n")
    return re.sub(r"\A(?:[ \t]*\n)+", "", rest).rstrip() if not first.strip() else block.strip()
