"""Whether this kernel lets us make user namespaces at all, asked without our own code."""

import shutil
import subprocess

import pytest


def _are_given() -> bool:
    unshare = shutil.which("unshare")
    if unshare is None:
        return True  # cannot be asked: let the tests say
    done = subprocess.run([unshare, "--user", "--map-root-user", "true"], capture_output=True)
    return done.returncode == 0


needs_namespaces = pytest.mark.skipif(
    not _are_given(), reason="this kernel gives no user namespaces, so there is no sandbox to test"
)
