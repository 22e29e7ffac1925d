"""Which sockets of a process listen, as Linux tells it."""

import os
import socket
import sys
from pathlib import Path

import pytest

needs_proc = pytest.mark.skipif(
    not Path("/proc/net/tcp").is_file(), reason="sockets are read from /proc/net"
)
_LISTENS = "0A"  # TCP_LISTEN of the kernel's tcp_states.h


def listening(pid=None):
    """Addresses and ports on which a process listens: ``{("127.0.0.1", 4711)}``."""
    pid = pid or os.getpid()
    sockets = listeners(pid)
    return {sockets[name] for name in held_by(pid) & sockets.keys()}


def listeners(pid="self"):
    """All sockets that listen where a process is, by name, with address and port."""
    sockets = {}
    for name in ("tcp", "tcp6"):
        table = Path(f"/proc/{pid}/net/{name}")
        rows = table.read_text().splitlines()[1:] if table.is_file() else []
        for words in map(str.split, rows):
            if words[3] == _LISTENS:
                sockets[f"socket:[{words[9]}]"] = _place(words[1])
    return sockets


def held_by(pid):
    """What a process has open, sockets by the names of :func:`listeners`."""
    held = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            held.add(os.readlink(entry))
        except OSError:  # closed meanwhile
            continue
    return held


def _place(word):
    """``0100007F:1F90`` to ("127.0.0.1", 8080); 32-bit words in the machine's order."""
    digits, _, port = word.partition(":")
    raw = bytes.fromhex(digits)
    words = [raw[i : i + 4] for i in range(0, len(raw), 4)]
    packed = b"".join(w[::-1] if sys.byteorder == "little" else w for w in words)
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, packed), int(port, 16)
