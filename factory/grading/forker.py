"""A small process that starts programs: a fork copies the tables of a process's memory, and a
grading worker has three times as much of it, or ten with the libraries of mathematics.

A script of the standard library alone, from Python 3.8 on. Its standard input is a socket of
packets: a request is JSON with descriptors, an answer JSON. It ends, and with it what it started,
when the socket closes. A program that has ended is kept for `/proc` until it is asked to be reaped.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import gc
import json
import os
import resource
import signal
import socket

CREATE_RULESET, RESTRICT_SELF, NO_NEW_PRIVILEGES = 444, 446, 38
DIE_WITH_PARENT = 1
MOST_BYTES, MOST_DESCRIPTORS = 1 << 18, 64
LIBRARY = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    door = socket.socket(fileno=0)
    gc.freeze()
    while True:
        space = socket.CMSG_SPACE(4 * MOST_DESCRIPTORS)
        message, parts, _, _ = door.recvmsg(MOST_BYTES, space, socket.MSG_CMSG_CLOEXEC)
        if not message:
            return
        descriptors = array.array("i", b"".join(data for _, _, data in parts)).tolist()
        request = json.loads(message)
        if "reap" in request:
            answer = {"status": os.waitpid(request["reap"], 0)[1]}
        else:
            answer = started(request, descriptors)
        door.send(json.dumps(answer).encode())


def started(request: dict, descriptors: list[int]) -> dict:
    """The id of a process that runs the command already, or why there is none."""
    reading, writing = os.pipe()
    try:
        pid = os.fork()
        if not pid:
            become(request, descriptors, writing)
    except OSError as error:
        os.close(writing)
        return {"failure": str(error)}
    else:
        os.close(writing)
        with open(reading, "rb", closefd=False) as file:
            failure = file.read()
        if failure:
            os.waitpid(pid, 0)
        return {"failure": failure.decode()} if failure else {"pid": pid}
    finally:
        for descriptor in (reading, *descriptors):
            os.close(descriptor)


def become(request: dict, descriptors: list[int], writing: int) -> None:
    """Turn this process into the command, or say why not; never returns."""
    try:
        targets = request["descriptors"]
        above = max([*targets, *descriptors, writing]) + 1
        writing = fcntl.fcntl(writing, fcntl.F_DUPFD_CLOEXEC, above)
        moved = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, above) for number in descriptors]
        for number, target in zip(moved, targets, strict=True):
            os.dup2(number, target)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        os.chdir(request["folder"])
        limit(request)
        command = request["command"]
        os.execve(command[0], command, request["environment"])
    except BaseException as error:
        os.write(writing, f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:1000])
    finally:
        os._exit(127)


def limit(request: dict) -> None:
    """Lay around this process what holds for all that comes from it."""
    if request["group"] is not None:
        wish(f"{request['group']}/cgroup.procs", b"0")  # what is looked at holds without it
    # Where memory runs out after all, the kernel takes these processes first. A process that has
    # changed its user may not say so, and /proc may be missing: a wish, not a wall.
    wish("/proc/self/oom_score_adj", b"1000")
    identity = request["identity"]
    if identity is not None:
        os.setgroups([])
        os.setresgid(identity, identity, identity)
        os.setresuid(identity, identity, identity)
    for kind, size in request["limits"]:
        resource.setrlimit(kind, (size, size))
    if request["landlock"] is not None:
        restrict(bytes.fromhex(request["landlock"]))
    LIBRARY.prctl(DIE_WITH_PARENT, signal.SIGKILL)


def wish(path: str, text: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY)
    except OSError:
        return
    try:
        os.write(descriptor, text)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def restrict(rules: bytes) -> None:
    """Tie Landlock rules to this process and its heirs; OSError if the kernel refuses, so that
    nothing runs less restricted than said."""
    ruleset = LIBRARY.syscall(CREATE_RULESET, rules, len(rules), 0)
    refused = ruleset < 0 or LIBRARY.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if refused or LIBRARY.syscall(RESTRICT_SELF, ruleset, 0):
        raise OSError(ctypes.get_errno(), "Landlock refused its rules")
    os.close(ruleset)


if __name__ == "__main__":
    main()
