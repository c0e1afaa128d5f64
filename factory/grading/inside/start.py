"""Inside a sandbox: runs the program given as first argument as `python PROGRAM` would."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import names

del sys.path[0], sys.modules["names"]
names.add()
sys.argv[:] = sys.argv[1:]
with open(sys.argv[0], encoding="utf-8") as file:
    source = file.read()
__file__ = sys.argv[0]
del os, sys, names, file
exec(compile(globals().pop("source"), __file__, "exec"), globals())
