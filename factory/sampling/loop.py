"""Completions that repeat themselves without end."""

from collections.abc import Sequence

from factory.core.records import Loop


def ends_in_loop(token_ids: Sequence[int], loop: Loop) -> bool:
    """Whether the last tokens are one piece `loop.times` times over.

    A piece has `shortest` to `longest` tokens. Asked after every token, so most pieces are refused
    by one comparison.
    """
    for length in range(loop.shortest, loop.longest + 1):
        size = length * loop.times
        if size > len(token_ids):
            return False
        if token_ids[-1] != token_ids[-1 - length]:
            continue
        tail = token_ids[-size:]
        if tail[length:] == tail[:-length]:
            return True
    return False
