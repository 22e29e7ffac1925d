"""Where the launchers of a run's processes meet, and no stranger reaches them.

torchrun's own meeting places (``c10d``, ``static``) listen on every interface, ask for
no password, and ``c10d`` unpickles what it is told. Here the processes of one machine
meet in a file that is the user's alone; those of several at an address of the first,
which listens on that address and on no other.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from torch.distributed import (  # type: ignore[attr-defined]
    HashStore,
    PrefixStore,
    Store,
    TCPStore,
)
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint
from torch.distributed.elastic.utils.distributed import get_free_port

from align.errors import InputError
from student.loop.launch import MEETING

BACKEND = "mtkd"
"""The meeting place's name for ``--rdzv-backend`` and ``LaunchConfig``."""

PATIENCE = timedelta(minutes=10)
"""How long launchers of several machines wait for the first one's."""


class Meeting(RendezvousHandler):
    """Launchers that know their number and each other's from the start."""

    def __init__(self, params: RendezvousParameters) -> None:
        """Open the meeting place.

        Raises:
            InputError: the first machine cannot listen where the endpoint says.
        """
        self._run_id, self._nodes = params.run_id, params.max_nodes
        self._node = int(params.get("node", 0))
        self._folder: TemporaryDirectory[str] | None = None
        self._store: Store = HashStore()  # of one launcher
        if self._nodes == 1:
            self._folder = TemporaryDirectory(prefix="mtkd-")  # mode 0700
            os.environ[MEETING] = str(Path(self._folder.name) / "meeting")
            # Nobody listens there; another program may have its first process do so.
            self._address = RendezvousStoreInfo("127.0.0.1", get_free_port())
        else:
            os.environ.pop(MEETING, None)
            host, port = parse_rendezvous_endpoint(params.endpoint, 0)
            host = _own_address(host) if self._node == 0 else host
            self._store = _store(host, port, self._node == 0)
            self._address = RendezvousStoreInfo(host, port)
            _talk_over(_interface_towards(host))

    def get_backend(self) -> str:
        """How torchrun calls it."""
        return BACKEND

    @property
    def use_agent_store(self) -> bool:
        """Whether processes find each other in the launchers' store."""
        return self._nodes > 1

    def next_rendezvous(self) -> RendezvousInfo:
        """Who takes part: all that were announced, by their numbers."""
        store = PrefixStore(self._run_id, self._store)
        return RendezvousInfo(store, self._node, self._nodes, self._address)

    def is_closed(self) -> bool:
        """Never: nobody joins later."""
        return False

    def set_closed(self) -> None:
        """Nobody joins later."""

    def num_nodes_waiting(self) -> int:
        """None: nobody joins later."""
        return 0

    def get_run_id(self) -> str:
        """Tells this launch from others."""
        return self._run_id

    def shutdown(self) -> bool:
        """Remove the file."""
        if self._folder is not None:
            self._folder.cleanup()
        return True


def _store(host: str, port: int, first: bool) -> Store:
    """The first launcher's store, listening on one address, or a connection to it."""
    listening = _listen(host, port) if first else None
    return TCPStore(
        host,
        port,
        is_master=first,
        timeout=PATIENCE,
        wait_for_workers=False,
        # The store takes the socket over. Given none, it would listen everywhere.
        master_listen_fd=listening.detach() if listening is not None else None,
    )


def _own_address(host: str) -> str:
    """Where the first machine listens: what others take its name for.

    Many a machine takes its own name for loopback, which others do not reach.
    """
    if host == "localhost" or not _resolves_to_loopback(host):
        return host
    others = [
        f"{known.address} ({name})"
        for name, addresses in psutil.net_if_addrs().items()
        for known in addresses
        if known.family == socket.AF_INET and not known.address.startswith("127.")
    ]
    if len(others) != 1:
        raise InputError(
            f"{host} is loopback to this machine itself, and it has the addresses "
            f"{', '.join(others) or '(none)'}; give --rdzv-endpoint (MASTER_ADDR) the "
            "one by which the other machines reach it"
        )
    return others[0].partition(" ")[0]


def _resolves_to_loopback(host: str) -> bool:
    """Whether a name, not a number, stands for this machine alone."""
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return False
    with suppress(OSError):
        return ipaddress.ip_address(socket.gethostbyname(host)).is_loopback
    return False  # listening will say so


def _listen(host: str, port: int) -> socket.socket:
    try:
        if port == 0:
            raise OSError("the other machines cannot know a port that is free")
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        opened = socket.socket(family, kind, protocol)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}:{port} ({error}); give --rdzv-endpoint an "
            "address of the first machine and a free port (MASTER_ADDR, MASTER_PORT)"
        ) from None
    return opened


def _interface_towards(host: str) -> str | None:
    """The interface by which this machine reaches an address, its own included."""
    family, _, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)  # sends nothing
        source = probe.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(known.address.partition("%")[0] == source for known in addresses):
            return name
    return None


def _talk_over(interface: str | None) -> None:
    """Have the processes listen on one interface, unless the user has named others."""
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)


def register() -> None:
    """Let torchrun know the meeting place, as :data:`BACKEND`."""
    rendezvous_handler_registry.register(BACKEND, Meeting)
