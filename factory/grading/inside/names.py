"""Inside a sandbox: the names that `site` gives every program, without its paths."""

import _thread
import os
import site
import sys

PACKAGES = "/packages"
"""Where numpy lies, if it is there."""

STACK = 8 << 20
"""Of a thread: the limit of the main thread's stack would else be reserved for each of them."""


def add():
    """exit, quit, help and the like in builtins."""
    site.setquit()
    site.setcopyright()
    site.sethelper()
    _thread.stack_size(STACK)
    if os.path.isdir(PACKAGES):
        sys.path.append(PACKAGES)
