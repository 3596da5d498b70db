"""Which system calls a program in the sandbox may make: a seccomp filter as the kernel reads it, without libseccomp.

What a single process of Python needs is allowed: files, memory, time, signals to itself, threads. All else fails with
"not permitted": processes, other programs, sockets, mounts, namespaces, keys, tracing, io_uring, userfaultfd, bpf.
Calls by another processor's convention (32-bit code on x86-64) end the process.
"""

import errno
import platform
import struct

# name: (x86-64, arm64); None where a processor has no such call.
ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # files that are open
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "close": (3, 57),
    "close_range": (436, 436),
    "lseek": (8, 62),
    "fstat": (5, 80),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "fcntl": (72, 25),
    "flock": (73, 32),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "ftruncate": (77, 46),
    "fallocate": (285, 47),
    "fadvise64": (221, 223),
    "sendfile": (40, 71),
    "copy_file_range": (326, 285),
    "getdents64": (217, 61),
    "fchdir": (81, 50),
    "fchmod": (91, 52),
    "fstatfs": (138, 44),
    # files by name: the sandbox has none but its own and the interpreter's
    "open": (2, None),
    "openat": (257, 56),
    "creat": (85, None),
    "stat": (4, None),
    "lstat": (6, None),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "statfs": (137, 43),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "chmod": (90, None),
    "fchmodat": (268, 53),
    "umask": (95, 166),
    "truncate": (76, 45),
    "utimensat": (280, 88),
    # pipes and waiting
    "pipe": (22, None),
    "pipe2": (293, 59),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_wait": (232, None),
    "epoll_pwait": (281, 22),
    "eventfd2": (290, 19),
    # memory
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "msync": (26, 227),
    "brk": (12, 214),
    # signals: it is alone in its process namespace
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136),
    "rt_sigsuspend": (130, 133),
    "rt_sigtimedwait": (128, 137),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "pause": (34, None),
    "alarm": (37, None),
    "setitimer": (38, 103),
    "getitimer": (36, 102),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    # threads; clone itself is below
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "set_tid_address": (218, 96),
    "rseq": (334, 293),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "getcpu": (309, 168),
    "exit": (60, 93),
    "exit_group": (231, 94),
    # time, and what it may know of itself
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "uname": (63, 160),
    "getrandom": (318, 278),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getppid": (110, 173),
    "getpgrp": (111, None),
    "getpgid": (121, 155),
    "getsid": (124, 156),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getresuid": (118, 148),
    "getresgid": (120, 150),
    "getgroups": (115, 158),
    "getrlimit": (97, 163),
    "setrlimit": (160, 164),
    "prlimit64": (302, 261),
    "wait4": (61, 260),
    "waitid": (247, 95),
}
CLONE, CLONE3, IOCTL = (56, 220), (435, 435), (16, 29)
_CLONE_THREAD = 0x10000
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

# Classic BPF (linux/filter.h), and what seccomp does with the returned value (linux/seccomp.h).
_LOAD, _RETURN, _EQUAL, _ANY_BIT = 0x20, 0x06, 0x15, 0x45
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data


def build(machine: str | None = None) -> bytes:
    """The filter as an array of struct sock_filter, 8 bytes each; machine: as platform.machine() says, by default this.

    Raises KeyError for a processor whose numbers are not listed.
    """
    column, architecture = _ARCHITECTURES[machine or platform.machine()]

    def if_number(number: int, then: list[bytes]) -> list[bytes]:
        return [_instruction(_EQUAL, number, 0, len(then)), *then]

    def fails(code: int) -> list[bytes]:
        return [_instruction(_RETURN, _ERROR | code)]

    allow = [_instruction(_RETURN, _ALLOW)]
    program = [_instruction(_LOAD, _ARCHITECTURE), _instruction(_EQUAL, architecture, 1, 0)]
    program += [_instruction(_RETURN, _KILL), _instruction(_LOAD, _NUMBER)]
    for numbers in ALLOWED.values():
        if numbers[column] is not None:
            program += if_number(numbers[column], allow)
    thread = [_instruction(_LOAD, _FIRST_ARGUMENT), _instruction(_ANY_BIT, _CLONE_THREAD, 0, 1)]
    program += if_number(CLONE[column], [*thread, *allow, *fails(errno.EPERM)])
    program += if_number(CLONE3[column], fails(errno.ENOSYS))  # its flags are in memory: glibc then takes clone
    program += if_number(IOCTL[column], fails(errno.ENOTTY))  # as files that are no terminal answer
    return b"".join(program + fails(errno.EPERM))


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
