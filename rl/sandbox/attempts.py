"""Programs that try to get out of the sandbox, or to break it: what `r1 doctor sandbox=true` runs, each by its name.

A program says ESCAPED where it got through. What the kernel answers to the others is an OSError or a MemoryError;
any other error is a mistake of ours, and rl/sandbox/escapes.py says so. $NAMES are filled in there.
"""

from dataclasses import dataclass

PRELUDE = '''
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
ARM = os.uname().machine == "aarch64"

def escaped(*what):
    print("ESCAPED", *what, flush=True)

def reached(numbers, *arguments):
    """A system call, by its numbers on x86-64 and arm64: any answer but "not permitted" is the kernel's own."""
    result = libc.syscall(numbers[ARM], *arguments)
    code = ctypes.get_errno()
    if result != -1 or code not in (1, 38):
        escaped("the kernel answered", result, os.strerror(code))
    else:
        raise OSError(code, os.strerror(code))

def reads(path):
    with open(path, "rb") as file:
        escaped(path, file.read(200))
'''


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way out."""

    name: str
    "As it is printed."
    code: str
    "The program; PRELUDE comes before it."
    then: str = ""
    "A second program, run in the same cell after it."
    cheats: bool = False
    "Whether it is handed in as a solution f(x) whose right answer is a secret: it escapes where a case is passed."


ATTEMPTS = [
    # Files
    Attempt("file of the machine", 'reads("/etc/passwd")'),
    Attempt("file that all may read", 'reads("$SECRET")'),
    Attempt("file by way of ..", 'reads("/tmp/../tmp/../../../../../../../.." + "$SECRET")'),
    Attempt("file of this project", 'reads("$PROJECT")'),
    Attempt("file behind a symbolic link", 'os.symlink("$SECRET", "link"); reads("link")'),
    Attempt("file behind a hard link", 'os.link("$SECRET", "link"); reads("link")'),
    Attempt("folder of the machine", 'escaped(os.listdir("$FOLDER"))'),
    Attempt("home folders", 'escaped(os.listdir("/home"))'),
    Attempt("process files", 'escaped(os.listdir("/proc"))'),
    Attempt("environment of a process", 'reads("/proc/1/environ")'),
    Attempt("root of another process", 'reads("/proc/1/root$SECRET")'),
    Attempt("kernel settings", 'reads("/sys/kernel/notes")'),
    Attempt("device of a disk", "os.mknod('disk', 0o60666, os.makedev(8, 0)); reads('disk')"),
    Attempt("device of the memory", "reads('/dev/mem')"),
    Attempt("writing to the machine", 'open("$FOLDER/written", "w").write("x"); escaped()'),
    Attempt("writing beside its folder", 'open("/written", "w").write("x"); escaped()'),
    Attempt("writing to the devices' folder", 'open("/dev/written", "w").write("x"); escaped()'),
    Attempt("deleting the interpreter", "os.remove(sys.executable); escaped()", then="import fractions; print(1)"),
    Attempt("changing the library", "open(os.__file__, 'a').write('x=1'); escaped()"),
    Attempt(
        "a module in the library's folder", "open(os.path.dirname(os.__file__) + '/spy.py', 'w').write('1'); escaped()"
    ),
    Attempt(
        "descriptors that were left open",
        """
import stat
for number in range(3, 4096):
    try:
        kind = os.fstat(number).st_mode
    except OSError:
        continue
    if not stat.S_ISFIFO(kind):
        escaped(number, oct(kind))
""",
    ),
    Attempt("open file by its handle", "reached((304, 265), -100, 0, 0)"),
    # Secrets
    Attempt(
        "environment",
        """
if set(os.environ) - {"HOME", "LANG", "PWD", "PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE"}:
    escaped(os.environ)
""",
    ),
    Attempt(
        "expected answers in memory",
        """
import gc
def f(x):
    frame = sys._getframe()
    while frame:
        for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
            if isinstance(value, dict) and "expected" in value:
                return value["expected"]
        frame = frame.f_back
    found = [o for o in gc.get_objects() if isinstance(o, str) and o.startswith("TOKEN-")]
    return found[0] if found else None
""",
        cheats=True,
    ),
    # Network
    Attempt("IPv4", "socket.create_connection(('127.0.0.1', $TCP), 1).send(b'x'); escaped()"),
    Attempt("IPv6", "socket.socket(socket.AF_INET6).connect(('::1', $TCP)); escaped()"),
    Attempt("datagram", "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', $TCP)); escaped()"),
    Attempt("names", "socket.gethostbyname('localhost.example'); escaped()"),
    Attempt("unix socket", "socket.socket(socket.AF_UNIX).connect('$SOCKET'); escaped()"),
    Attempt("abstract unix socket", "socket.socket(socket.AF_UNIX).connect('\\0$ABSTRACT'); escaped()"),
    Attempt("pair of sockets", "socket.socketpair(); escaped()"),
    Attempt("raw socket", "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); escaped()"),
    Attempt("netlink", "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); escaped()"),
    Attempt("packets", "socket.socket(socket.AF_PACKET, socket.SOCK_RAW); escaped()"),
    # Other processes
    Attempt("fork", "os.fork(); escaped()"),
    Attempt(
        "fork bomb",
        """
made = 0
for _ in range(1000):
    try:
        made += os.fork() > 0
    except OSError:
        pass
if made:
    escaped(made)
raise OSError("no process was made")
""",
    ),
    Attempt("another program", "import subprocess; subprocess.run(['/bin/sh', '-c', 'true']); escaped()"),
    Attempt("itself anew", "os.execv(sys.executable, [sys.executable, '-c', 'print(\"ESCAPED\")'])"),
    Attempt("huge arguments", "os.execv(sys.executable, ['x' * 100_000] * 1000)"),
    Attempt(
        "threads without end",
        """
import threading, time
threading.stack_size(32768)
try:
    for made in range(10_000):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
except RuntimeError as error:
    if made > $THREADS + 4:
        escaped(made)
    raise OSError(str(error))
escaped(made)
""",
    ),
    Attempt(
        "a process left behind",
        """
import time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
escaped()
""",
    ),
    Attempt(
        "a thread left behind",
        """
import _thread, time
_thread.start_new_thread(time.sleep, (60,))
os._exit(0)
""",
        then="import os; print(len(os.listdir('/tmp')))",
    ),
    Attempt("signal to the parent", "os.kill(os.getppid() or 2, 9); escaped()"),
    Attempt("signal to everyone", "os.kill(-1, 9); escaped()"),
    Attempt("signal to its group", "os.kill(0, 9)", then="print(1)"),
    Attempt("signal to the one who asked", "os.kill($PID, 9); escaped()"),
    Attempt("tracing", "reached((101, 117), 16, 2, 0, 0)"),
    Attempt("memory of a process", "reached((310, 270), 2, 0, 0, 0, 0, 0)"),
    Attempt("descriptor of a process", "reached((434, 434), 1, 0)"),
    Attempt("descriptors of a process", "reached((438, 438), 3, 0, 0)"),
    Attempt("real-time priority", "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)); escaped()"),
    Attempt("priority", "os.setpriority(os.PRIO_PROCESS, 0, -20); escaped()"),
    # Rights
    Attempt("mount", "reached((165, 40), b'none', b'/tmp', b'tmpfs', 0, 0)"),
    Attempt("unmount", "reached((166, 39), b'/tmp', 2)"),
    Attempt("new mount interface", "reached((430, 430), b'tmpfs', 0)"),
    Attempt("changed root", "os.chroot('/tmp'); escaped()"),
    Attempt("pivoted root", "reached((155, 41), b'/tmp', b'/tmp')"),
    Attempt("becoming root", "os.setuid(0); escaped()"),
    Attempt("becoming root's group", "os.setgid(0); escaped()"),
    Attempt("capabilities", "reached((126, 91), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(1 << 21))"),
    Attempt("user namespace", "reached((272, 97), 0x10000000)"),
    Attempt("mount namespace", "reached((272, 97), 0x20000)"),
    Attempt("namespace of a process", "reached((308, 268), 1, 0)"),
    Attempt("process in a new namespace", "reached((56, 220), 0x10000000 | 17, 0, 0, 0, 0)"),
    Attempt("process by the newer call", "reached((435, 435), (ctypes.c_uint64 * 11)(0x10000000), 88)"),
    Attempt("higher limits", "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1)); escaped()"),
    Attempt("host name", "socket.sethostname('x'); escaped()"),
    Attempt("clock", "import time; time.clock_settime(time.CLOCK_REALTIME, 0); escaped()"),
    # The kernel's surface
    Attempt("keyrings", "reached((248, 217), b'user', b'name', b'value', 5, -3)"),
    Attempt("keyring operations", "reached((250, 219), 0, -3, 1)"),
    Attempt("io_uring", "reached((425, 425), 8, (ctypes.c_char * 120)())"),
    Attempt("userfaultfd", "reached((323, 282), 1)"),
    Attempt("bpf", "reached((321, 280), 0, (ctypes.c_char * 128)(), 128)"),
    Attempt("performance counters", "reached((298, 241), (ctypes.c_char * 128)(1), 0, -1, -1, 0)"),
    Attempt("kernel log", "reached((103, 116), 3, (ctypes.c_char * 100)(), 100)"),
    Attempt("kernel module", "reached((313, 273), 0, b'', 0)"),
    Attempt("another kernel", "reached((246, 104), 0, 0, 0, 0)"),
    Attempt("reboot", "reached((169, 142), 0xFEE1DEAD, 672274793, 0, 0)"),
    Attempt("another filter", "reached((317, 277), 1, 0, 0)"),
    Attempt("terminal's input", "import fcntl; fcntl.ioctl(0, 0x5412, b'x'); escaped()"),
    Attempt("execution domain", "reached((135, 92), 0x0040000)"),
    Attempt(
        "calls of 32-bit code",
        """
if ARM:
    raise OSError("not on this processor")
page = libc.mmap(0, ctypes.c_size_t(4096), 7, 0x22, -1, ctypes.c_long(0))
ctypes.memmove(page, bytes.fromhex("b814000000cd80c3"), 8)  # getpid by int 0x80
escaped(ctypes.CFUNCTYPE(ctypes.c_int)(page)())
""",
    ),
    Attempt("calls of the x32 kind", "reached((0x40000000 + 39, 10_000))"),
    # Using too much
    Attempt(
        "memory",
        """
held = []
for mib in range(4 * $MEMORY):
    held.append(bytearray(b"x" * (1 << 20)))
    if mib > $MEMORY:
        escaped(mib)
        break
""",
    ),
    Attempt("shared memory", "import mmap; mmap.mmap(-1, $MEMORY << 21); escaped()"),
    Attempt("system V memory", "reached((29, 194), 0, 1 << 20, 0o1600)"),
    Attempt("file in memory", "os.memfd_create('x'); escaped()"),
    Attempt("locked memory", "reached((151, 230), 3)"),
    Attempt(
        "full disk",
        """
written = 0
for i in range(4 * $DISK):
    with open(f"file{i}", "wb") as file:
        written += file.write(b"x" * (1 << 20))
    if written > $DISK << 20:
        escaped(written)
        break
""",
    ),
    Attempt("sparse file", "open('x', 'wb').truncate(1 << 40); escaped()"),
    Attempt(
        "files without end",
        """
for i in range(20_000):
    os.mkdir(str(i))
escaped(i)
""",
    ),
    Attempt(
        "pipes full of text",
        """
import fcntl
total, ends = 0, []
while total < 1 << 26:
    ends += os.pipe()
    fcntl.fcntl(ends[-1], 1031, 1 << 20)  # F_SETPIPE_SZ
    fcntl.fcntl(ends[-1], fcntl.F_SETFL, os.O_WRONLY | os.O_NONBLOCK)
    total += os.write(ends[-1], b"x" * (1 << 20))
escaped(total)
""",
    ),
    Attempt("output flood", "while True: os.write(1, b'x' * 65536)"),
    Attempt("flood of the report", "while True: os.write(4, b'x' * 65536)"),
    Attempt("flood of short lines", "while True: print()"),
    Attempt("sleep", "import time; time.sleep(600); escaped()"),
    Attempt("waiting for input", "import select; select.select([os.pipe()[0]], [], []); escaped()"),
    Attempt("endless loop", "while True: pass"),
    Attempt(
        "endless loop that ignores signals",
        """
import signal
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGXCPU):
    signal.signal(number, signal.SIG_IGN)
while True:
    pass
""",
    ),
    Attempt("huge power", "print(len(str(9 ** 9 ** 9)))"),
    Attempt("endless match", "import re; re.match('(a+)+$', 'a' * 64 + 'b')"),
    Attempt("deep recursion", "sys.setrecursionlimit(10**9)\ndef f(): f()\nf()"),
    Attempt("deep source", "compile('-' * 1_000_000 + '1', '', 'eval'); escaped()"),
    Attempt("crash of the interpreter", "ctypes.string_at(0)"),
    # The next one to run
    Attempt(
        "a file for the next",
        "open('/tmp/left', 'w').write('x')",
        then="if os.path.exists('/tmp/left'): escaped()",
    ),
    Attempt(
        "a changed library for the next",
        """
import builtins, json, random
json.dumps = builtins.len = random.seed = lambda *a: 1 / 0
sys.modules["math"] = None
""",
        then="import json, math\nif len([1]) != 1 or json.dumps([1]) != '[1]' or math.pi < 3: escaped()",
    ),
    Attempt(
        "what the one before has left in memory",
        "kept = ['MARK' + '-of-the-one-before' for _ in range(10_000)]; sys.marked = kept",
        then="""
import gc
word = "MARK" + "-of-the-one-before"
seen = [o for o in gc.get_objects() if isinstance(o, list) and o and o[0] == word]
if hasattr(sys, "marked") or seen:
    escaped()
""",
    ),
    # The verdict
    Attempt(
        "printing the verdict",
        """
print('["compiled", ""]\\n[0, "value", true]\\nall tests passed')
def f(x): return True
""",
        cheats=True,
    ),
    Attempt(
        "reporting results of its own",
        """
import json
for value in (True, 1, None, "ok", "passed", [1]):
    os.write(4, json.dumps([0, "value", value]).encode() + b"\\n")
def f(x): os._exit(0)
""",
        cheats=True,
    ),
    Attempt("leaving as if all were well", "os._exit(0)", cheats=True),
    Attempt(
        "an answer that equals everything",
        """
class All(str):
    __hash__ = str.__hash__
    def __eq__(self, other): return True
def f(x): return All("x")
""",
        cheats=True,
    ),
    Attempt("not a number for an answer", "def f(x): return float('nan')", cheats=True),
    Attempt(
        "a deep answer",
        "def f(x): os.write(4, b'[0, \"value\", ' + b'[' * 60_000 + b'\\n')",
        cheats=True,
    ),
    Attempt(
        "another serialiser",
        """
for module in list(sys.modules.values()):
    if hasattr(module, "dumps"):
        module.dumps = lambda *a, **k: '[0, "value", true]'
def f(x): return None
""",
        cheats=True,
    ),
]
