"""Landlock for programs that a model wrote: rules that the kernel ties to a process and its heirs.

They are laid around bubblewrap (`forker.py`), so they still hold where a program has broken out of
the namespaces: no TCP connection or port, no signal to a process outside, no abstract socket of
others. Files are not ruled, since bubblewrap could not mount then; inside, the mounts decide.
"""

import ctypes
import struct
from functools import lru_cache

from factory.grading.forker import CREATE_RULESET

ASK_VERSION = 1
TCP = 0b11
"""Bind and connect; from ABI 4 (Linux 6.7) on."""
SCOPE = 0b11
"""Abstract sockets and signals; from ABI 6 (Linux 6.12) on."""


@lru_cache(maxsize=1)
def rules() -> bytes | None:
    """What a process restricts itself by; None where the kernel has no such rules."""
    version = ctypes.CDLL(None).syscall(CREATE_RULESET, None, 0, ASK_VERSION)
    if version < 4:
        return None
    files, scope = 0, SCOPE if version >= 6 else 0
    return struct.pack("=QQQ", files, TCP, scope)[: 24 if version >= 6 else 16]
