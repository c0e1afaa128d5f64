"""Landlock for programs that a model wrote: rules that the kernel ties to a process and its heirs.

It is laid around bubblewrap, so it still holds where a program has broken out of the namespaces: no
TCP connection or port, no signal to a process outside, no abstract socket of others. Files are not
ruled here, since bubblewrap could not mount then; inside, the mounts decide.
"""

import ctypes
import os
import struct
from collections.abc import Callable
from functools import lru_cache

CREATE_RULESET, RESTRICT_SELF = 444, 446
"""System calls, the same numbers on all architectures."""
ASK_VERSION = 1
TCP = 0b11
"""Bind and connect; from ABI 4 (Linux 6.7) on."""
SCOPE = 0b11
"""Abstract sockets and signals; from ABI 6 (Linux 6.12) on."""
NO_NEW_PRIVILEGES = 38


@lru_cache(maxsize=1)
def restriction() -> Callable[[], None] | None:
    """What a child process calls to restrict itself; None where the kernel has no such rules.

    The call raises OSError if the kernel refuses, so that nothing runs less restricted than said.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(CREATE_RULESET, None, 0, ASK_VERSION)
    if version < 4:
        return None
    files, scope = 0, SCOPE if version >= 6 else 0
    rules = struct.pack("=QQQ", files, TCP, scope)[: 24 if version >= 6 else 16]

    def restrict() -> None:
        ruleset = libc.syscall(CREATE_RULESET, rules, len(rules), 0)
        refused = ruleset < 0 or libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        if refused or libc.syscall(RESTRICT_SELF, ruleset, 0):
            raise OSError(ctypes.get_errno(), "Landlock refused its rules")
        os.close(ruleset)

    return restrict
