"""Text as its reader may see it, and what in it would pass for a tag or for a further turn."""

import re
import unicodedata
from functools import lru_cache

# All but _INST look at folded text: lower case, compatibility forms and look-alikes undone. Every
# repetition is bounded, so that a flood of "<" costs linear time.
_TURN_MARK = re.compile(r"<\|[a-z_\u2581 ]{3,40}\|>|<(?:start|end)_of_turn>|<</?sys>>")
_SPEAKER = re.compile(
    r"(?m:^)[ \t*#>_-]{0,12}"
    r"(?:(?P<user>user|human|instruction)|(?P<assistant>assistant)|system)[ \t*_]{0,4}:"
)
_INST = re.compile(r"(?<!\w)\[/?INST\]")
"""Llama 2's and Mistral's mark: in small letters, or behind a name, it is an index."""
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
TAG_LIKE = re.compile(
    r"<[\s/\\]{0,16}(?:t\s?h\s?i\s?n\s?k|a\s?n\s?s\s?w\s?e\s?r)(?:ing|s)?"
    r"(?:\s{1,4}[a-z_]{1,20}=[^<>]{0,40})?[\s/\\]{0,16}>"
)
_WRITTEN_OUT = {"&lt;": "<", "&gt;": ">"}
_INVISIBLE = frozenset("\u115f\u1160\u3164\uffa0\u2800")
"""Letters and signs that show nothing, though Unicode counts them as letters or symbols."""
_CONFUSABLES = {
    "<": "\u2039\u3008\u27e8\u276e\u02c2\u1438\u300a\u00ab",
    ">": "\u203a\u3009\u27e9\u276f\u02c3\u1433\u300b\u00bb",
    "/": "\u2215\u2044\u2571",
    "a": "\u0430\u0251\u03b1",
    "e": "\u0435\u0454\u03b5",
    "h": "\u04bb\u0570",
    "i": "\u0456\u0131\u0269\u03b9",
    "k": "\u043a\u03ba",
    "n": "\u043f\u0578\u03b7",
    "r": "\u0433\u0280\u1d26",
    "s": "\u0455\ua731",
    "t": "\u0442\u03c4\u1d1b",
    "w": "\u051d\u1d21\u0561\u03c9",
}
"""Characters of other scripts that look like those of the tags, after case folding."""
_LATIN = {other: letter for letter, others in _CONFUSABLES.items() for other in others}


TAG = re.compile(r"</?(?:think|answer)>")
_END = re.compile(
    r"\s*(?:<\|(?:im_end|endoftext|eot_id|end|end_of_text|eom_id|end\u2581of\u2581sentence)\|>"
    r"|<\uff5cend\u2581of\u2581sentence\uff5c>|</s>|<eos>|<end_of_turn>)\s*\Z"
)
"""The model's own end of a turn, as stored texts keep it."""


def without_end(text: str) -> str:
    """The text without one end token at its very end; linear."""
    tail = text[-60:]
    match = _END.search(tail)
    return text if match is None else text[: len(text) - len(tail) + match.start()]


_QUOTES = {
    **dict(zip("`'\"\u201c\u2018\u00ab", "`'\"\u201d\u2019\u00bb", strict=True)),
    **dict(zip("\u2039\u300c\u300e\u00bb", "\u203a\u300d\u300f\u00ab", strict=True)),
    "\u201e": "\u201c\u201d",
}
"""Marks that open a quotation, with those that close it."""
_BLANK = " .\n\u2026"


def without_quotations(written: list[re.Match[str]], full_text: str) -> list[re.Match[str]]:
    """The tags without those inside the thoughts that only speak of the form.

    That is a blank answer, which quotes the request, and a tag between marks of quotation.
    """
    kept: list[re.Match[str]] = []
    number = 0
    while number < len(written):
        tag, *others = written[number : number + 2]
        if len(kept) == 1 and kept[0].group() == "<think>":
            if _is_quoted(tag, full_text):
                number += 1
                continue
            is_pair = others and (tag.group(), others[0].group()) == ("<answer>", "</answer>")
            if is_pair and not full_text[tag.end() : others[0].start()].strip(_BLANK):
                number += 2
                continue
        kept.append(tag)
        number += 1
    return kept


def _is_quoted(tag: re.Match[str], full_text: str) -> bool:
    """Whether it stands between marks of quotation; at the end of a text the second may come."""
    closing = _QUOTES.get(full_text[tag.start() - 1 : tag.start()])
    return closing is not None and full_text[tag.end() : tag.end() + 1] in ("", *closing)


PROMPT_END = 24
"""Tokens of a prompt that may hold the tag which opens the thoughts."""


def only_quotes(text: str, prompt: str) -> bool:
    """Whether the </answer> at a text's end closes no form: its open thoughts only quote it.

    `prompt` is the end of the prompt, which may have opened the thoughts.
    """
    opening = "<think>" if prompt.rstrip().endswith("<think>") else ""
    full_text = opening + text
    tags = without_quotations(list(TAG.finditer(full_text)), full_text)
    return full_text.endswith("</answer>") and [tag.group() for tag in tags] == ["<think>"]


def made_up_exchange(text: str) -> str:
    """A user's turn with an assistant's behind it, at the beginnings of lines outside of fences.

    One role alone is an ordinary word with a colon: "System:" stands over equations.
    """
    question = None
    for match in _SPEAKER.finditer(fold(_outside_fences(text))):
        if match["user"] and question is None:
            question = match
        elif match["assistant"] and question is not None:
            return _turn_problem(question)
    return ""


def made_up_turn(answer: str) -> str:
    """A turn's mark in an answer, or somebody's turn behind its box or else its first line.

    Outside of fences: a program may print what it likes.
    """
    outside = _outside_fences(answer.strip())
    mark = _TURN_MARK.search(fold(outside)) or _INST.search(outside)
    if mark:
        return _turn_problem(mark)
    _, _, behind = outside.partition("\\boxed{" if "\\boxed{" in outside else "\n")
    speakers = (match for match in _SPEAKER.finditer(fold(behind)) if match.lastgroup)
    turn = next(speakers, None)
    return _turn_problem(turn) if turn else made_up_exchange(answer)


def _turn_problem(match: re.Match[str]) -> str:
    return f"a made-up turn: {match.group().strip().lower()}"


def _outside_fences(text: str) -> str:
    """The text with the lines of fenced blocks left empty; a fence that is not closed is none."""
    if "```" not in text and "~~~" not in text:
        return text
    lines, fence, begin = text.split("\n"), "", 0
    for number, line in enumerate(lines):
        match = _FENCE.match(line)
        if match is None:
            continue
        if not fence:
            fence, begin = match[1], number
        elif match[1].startswith(fence) and not line[match.end() :].strip():
            lines[begin : number + 1] = [""] * (number + 1 - begin)
            fence = ""
    return "\n".join(lines)


def fold(text: str) -> str:
    """Text as a reader may see it: compatibility forms, case, accents and other scripts undone.

    Folded character by character: normalising a whole hostile text (long runs of combining
    marks) takes quadratic time.
    """
    if text.isascii():
        folded = text.lower()
    else:
        folded = text.translate({ord(c): _fold_character(c) for c in set(text)})
    for written, sign in _WRITTEN_OUT.items():
        folded = folded.replace(written, sign)
    return folded


@lru_cache(maxsize=4096)
def _fold_character(character: str) -> str:
    plain = unicodedata.normalize("NFKD", character).casefold()
    seen = (
        c
        for c in plain
        if unicodedata.category(c) not in ("Mn", "Me", "Cf") and c not in _INVISIBLE
    )
    return "".join(_LATIN.get(c, c) for c in seen)
