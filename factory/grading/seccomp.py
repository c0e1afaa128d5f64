"""A seccomp filter for programs that a model wrote, as bytes for `bwrap --seccomp`.

The namespaces keep a program from what it must not see. The filter takes away kernel interfaces
that no test program needs and that escapes from containers were made with.
"""

import platform
import struct

NONE = 0xFFFF
"""Stands for a system call that an architecture does not have."""
DENIED: dict[str, tuple[int, int]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "personality": (135, 92),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "quotactl": (179, 60),
    # Memory that no limit of a process counts.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "io_setup": (206, 0),
    "inotify_init": (253, NONE),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    "landlock_create_ruleset": (444, 444),
    # What another process holds or how it runs.
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
}
"""System calls that fail with EPERM: numbers on x86_64 and on aarch64 (Linux's own tables)."""

SETSID = (112, 157)
"""Answers 0 and does nothing: the scheduler gives each session a share of its own, and a run that
leads many would starve its neighbours."""
MMAP, SETSOCKOPT, FCNTL = (9, 222), (54, 208), (72, 25)
MAP_SHARED, MAP_ANONYMOUS = 0x01, 0x20
"""Both: memory that stays when no process has it resident, so that nothing counts it."""
SOL_SOCKET = 1
BUFFER_SIZES = (7, 8, 32, 33)
"""SO_SNDBUF, SO_RCVBUF and their FORCE: a socket keeps the buffers that it is counted with."""
F_SETPIPE_SZ = 1031

CLONE = (56, 220)
CLONE3 = (435, 435)
SOCKET = (41, 198)
CLONE_NEWUSER = 0x10000000
AF_UNIX = 1
ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""The audit number of an architecture and its place in the tuples above."""

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
EPERM, ENOSYS, EAFNOSUPPORT = 1, 38, 97
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
"""Offsets in struct seccomp_data; of an argument the lower half is read (little-endian)."""
LOAD, EQUAL, GREATER_OR_EQUAL, SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
X32_BIT = 0x40000000


def filter_program(machine: str | None = None) -> bytes | None:
    """The filter for this machine's architecture; None where its system calls are not known.

    Foreign architectures and x32 calls are killed or refused, clone3 does not exist (its flags
    cannot be looked at, and libraries fall back to clone), clone may not make a user namespace, and
    sockets are local ones only.
    """
    architecture = ARCHITECTURES.get(machine or platform.machine())
    if architecture is None:
        return None
    audit, index = architecture
    code = [
        _statement(LOAD, ARCHITECTURE),
        _jump(EQUAL, audit, 1, 0),
        _statement(RETURN, KILL),
        _statement(LOAD, NUMBER),
        _jump(GREATER_OR_EQUAL, X32_BIT, 0, 1),
        _statement(RETURN, ERRNO | EPERM),
        _jump(EQUAL, CLONE3[index], 0, 1),
        _statement(RETURN, ERRNO | ENOSYS),
    ]
    for numbers in DENIED.values():
        code += [_jump(EQUAL, numbers[index], 0, 1), _statement(RETURN, ERRNO | EPERM)]
    code += [_jump(EQUAL, SETSID[index], 0, 1), _statement(RETURN, ERRNO)]
    code += _refused_arguments(index)
    code += [
        _jump(EQUAL, SOCKET[index], 0, 4),
        _statement(LOAD, FIRST_ARGUMENT),
        _jump(EQUAL, AF_UNIX, 1, 0),
        _statement(RETURN, ERRNO | EAFNOSUPPORT),
        _statement(RETURN, ALLOW),
        _jump(EQUAL, CLONE[index], 0, 3),
        _statement(LOAD, FIRST_ARGUMENT),
        _jump(SET, CLONE_NEWUSER, 0, 1),
        _statement(RETURN, ERRNO | EPERM),
        _statement(RETURN, ALLOW),
    ]
    return b"".join(code)


def _refused_arguments(index: int) -> list[bytes]:
    """The statements that refuse calls by their arguments; each group ends with the call's number
    loaded again, or has left it alone."""
    refuse, again = _statement(RETURN, ERRNO | EPERM), _statement(LOAD, NUMBER)
    return [
        _jump(EQUAL, MMAP[index], 0, 5),
        _statement(LOAD, FIRST_ARGUMENT + 24),
        _jump(SET, MAP_ANONYMOUS, 0, 2),
        _jump(SET, MAP_SHARED, 0, 1),
        refuse,
        again,
        _jump(EQUAL, FCNTL[index], 0, 4),
        _statement(LOAD, FIRST_ARGUMENT + 8),
        _jump(EQUAL, F_SETPIPE_SZ, 0, 1),
        refuse,
        again,
        _jump(EQUAL, SETSOCKOPT[index], 0, 5 + len(BUFFER_SIZES)),
        _statement(LOAD, FIRST_ARGUMENT + 8),
        _jump(EQUAL, SOL_SOCKET, 0, 2 + len(BUFFER_SIZES)),
        _statement(LOAD, FIRST_ARGUMENT + 16),
        *(
            _jump(EQUAL, size, len(BUFFER_SIZES) - number - 1, int(number == len(BUFFER_SIZES) - 1))
            for number, size in enumerate(BUFFER_SIZES)
        ),
        refuse,
        again,
    ]


def _statement(code: int, value: int) -> bytes:
    return struct.pack("<HBBI", code, 0, 0, value)


def _jump(code: int, value: int, if_true: int, if_false: int) -> bytes:
    """Compare the accumulator with `value`; skip so many instructions on either side."""
    return struct.pack("<HBBI", code, if_true, if_false, value)
