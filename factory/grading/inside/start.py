"""Inside a sandbox: runs a file as `python FILE` would; given to Python itself, not as a file.

Arguments are the most processes there may be (0: as many as there are), the file, and its own. The
count begins at nothing here, with every run. Not even `os` is imported: that takes a millisecond.
"""

import _sitebuiltins
import _thread
import builtins
import resource
import sys

if most := int(sys.argv[1]):
    resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
    sys.path.append("/packages")  # where numpy lies, if it is there
sys.argv[:] = sys.argv[2:]
builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D (i.e. EOF)")
builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D (i.e. EOF)")
builtins.help = _sitebuiltins._Helper()
# The limit of the main thread's stack would else be reserved for each thread.
_thread.stack_size(8 << 20)
__doc__ = None
__file__ = sys.argv[0]
with open(__file__, encoding="utf-8") as file:
    source = file.read()
del _sitebuiltins, _thread, builtins, resource, sys, file, most
exec(compile(globals().pop("source"), __file__, "exec"), globals())
