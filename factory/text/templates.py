"""A model's tokenizer and its chat template, which is a program that a stranger wrote.

transformers runs it in Jinja's sandbox, which keeps it from files and code but bounds neither time
nor memory. Here both are bounded, and its clock stands still: equal settings give equal prompts on
any day.
"""

import resource
import signal
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from factory.core.errors import ArtifactError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS = 20.0
"""A template takes well below a millisecond a message; so long only one takes that does not end."""
AGAIN_SECONDS = 0.25
MEMORY_BYTES = 1 << 30
"""That a process may grow by while it writes one conversation."""
LONGEST_TEMPLATE = 1 << 20
LONGEST_TEXT = 16 << 20
"""Characters: beyond what any model reads."""
TODAY = datetime(2024, 7, 26)
"""What a template that asks for the day is told: the one that Llama's own falls back on."""


class TemplateFault(ValueError):
    """A template raises, takes too much, or writes no text; the message says which, in one line."""


def open_tokenizer(folder: Path | str) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model's folder; ArtifactError where there is none that opens."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare ones
        raise ArtifactError(f"{folder}: its tokenizer cannot be opened: {_line(error)}") from error


def written_messages(
    messages: Sequence[Mapping[str, str]], tokenizer: "PreTrainedTokenizerBase", *, opens: bool,
    **switches: Any,
) -> str:  # fmt: skip
    """A conversation as the tokenizer's chat template writes it; with `opens` up to where an answer
    begins. `switches` are variables of the template. TemplateFault where it cannot."""
    template = tokenizer.chat_template
    if isinstance(template, str) and len(template) > LONGEST_TEMPLATE:
        raise TemplateFault(f"it has more than {LONGEST_TEMPLATE} characters")
    try:
        with _bounded():
            text = tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=opens,
                strftime_now=TODAY.strftime,
                **switches,
            )
    except _LateError as error:
        raise TemplateFault(f"it does not end within {SECONDS:g} seconds") from error
    except MemoryError as error:
        raise TemplateFault(f"it takes more than {MEMORY_BYTES >> 30} GiB") from error
    except Exception as error:  # whatever a stranger's program raises is its own doing
        raise TemplateFault(_line(error)) from error
    if not isinstance(text, str) or len(text) > LONGEST_TEXT:
        raise TemplateFault(f"it writes more than {LONGEST_TEXT} characters, or no text")
    return text


class _LateError(BaseException):
    """Not an Exception, which filters of Jinja's would take for one of their own."""


@contextmanager
def _bounded() -> Generator[None]:
    """Bounds of memory and, in the main thread, of time; what held before holds again after it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = _size() + MEMORY_BYTES
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    if soft == resource.RLIM_INFINITY or most < soft:
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        if threading.current_thread() is threading.main_thread():
            with _alarm():
                yield
        else:
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def _alarm() -> Generator[None]:
    def late(number: int, frame: FrameType | None) -> None:
        raise _LateError

    handler = signal.signal(signal.SIGALRM, late)
    # Again and again: a signal that another thread takes may reach this one late, or never.
    left, again = signal.setitimer(signal.ITIMER_REAL, SECONDS, AGAIN_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, handler)
        if left:  # of who else had set one; what passed since is a template's millisecond
            signal.setitimer(signal.ITIMER_REAL, left, again)


def _size() -> int:
    """Address space of this process, bytes; more than any where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    except OSError:
        return 1 << 62
    return int(pages) * resource.getpagesize()


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:300] or type(error).__name__


def token_ids(
    texts: list[str], tokenizer: "PreTrainedTokenizerBase", *, is_text: bool = False
) -> list[list[int]]:
    """Ids of each text; with `is_text` special tokens in them are ordinary characters."""
    from transformers import PreTrainedTokenizerFast

    of_class = getattr(type(tokenizer), "_encode_plus", None)
    if of_class is not PreTrainedTokenizerFast._encode_plus:  # in Python, or a way of its own
        settings: Any = {"add_special_tokens": False, "split_special_tokens": is_text}
        return tokenizer(texts, **settings)["input_ids"]
    # Without offsets, masks and types, which nobody reads: a fifth faster.
    backend = cast("PreTrainedTokenizerFast", tokenizer).backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = is_text or tokenizer.split_special_tokens
    return [made.ids for made in backend.encode_batch_fast(texts, add_special_tokens=False)]
