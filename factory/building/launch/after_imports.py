"""The fork server imports this last: what it holds by then is left out of garbage collection, there
and in its forks.

A worker's first full collection would take half a second over the 800,000 objects of libraries, and
by writing to each of them copy 200 MB that it shares with the server. For the same reason the
server ends without taking itself apart, which takes two seconds: there is nothing to put away.
"""

import atexit
import gc
import os


def _leave(server: int) -> None:
    if os.getpid() == server:
        os._exit(0)


gc.freeze()
gc.enable()
atexit.register(_leave, os.getpid())
