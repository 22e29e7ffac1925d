"""Where launchers meet: in the user's own folder, or at one address."""

import os
import socket
import stat
from pathlib import Path

import pytest
from torch.distributed.elastic.rendezvous import RendezvousParameters

from align.errors import InputError
from student.loop import meeting
from student.loop.launch import MEETING
from student.loop.meeting import BACKEND, Meeting
from tests.listening import listening, needs_proc

INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What a meeting sets is put back."""
    for name in (MEETING, *INTERFACES):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def meet(nodes, endpoint="", node=0):
    return Meeting(
        RendezvousParameters(
            backend=BACKEND,
            endpoint=endpoint,
            run_id="it",
            min_nodes=nodes,
            max_nodes=nodes,
            node=str(node),
        )
    )


def free_port(host):
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


@needs_proc
def test_processes_of_one_machine_meet_in_a_folder_that_is_the_users_alone():
    before = listening()
    place = meet(1)
    folder = Path(os.environ[MEETING]).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not place.use_agent_store
    info = place.next_rendezvous()
    assert (info.rank, info.world_size) == (0, 1)
    assert listening() <= before
    place.shutdown()
    assert not folder.exists()


@needs_proc
@pytest.mark.edges
def test_the_first_of_several_listens_on_the_address_it_is_given_and_no_other():
    host = "127.0.0.2"  # not the one that everything on loopback takes
    port, before = free_port(host), listening()
    first = meet(2, f"{host}:{port}")
    assert listening() - before == {(host, port)}
    second = meet(2, f"{host}:{port}", node=1)
    assert listening() - before == {(host, port)}
    one, two = first.next_rendezvous(), second.next_rendezvous()
    assert (one.rank, two.rank, two.world_size) == (0, 1, 2)
    one.store.set("key", "value")
    assert two.store.get("key") == b"value"
    assert first.use_agent_store and MEETING not in os.environ
    assert {os.environ[name] for name in INTERFACES} == {"lo"}


def test_interfaces_that_the_user_names_stay(monkeypatch):
    for name in INTERFACES:
        monkeypatch.setenv(name, "ib0")
    meeting._talk_over("eth0")
    assert {os.environ[name] for name in INTERFACES} == {"ib0"}


@pytest.mark.parametrize("endpoint", ["192.0.2.254:29400", "127.0.0.1:0", ""])
def test_an_address_that_is_not_the_first_machines_is_named(endpoint):
    with pytest.raises(
        InputError, match=r"cannot listen on .*MASTER_ADDR, MASTER_PORT"
    ):
        meet(2, endpoint)


class Address:
    """As psutil tells of one."""

    family = socket.AF_INET

    def __init__(self, address):
        self.address = address


@pytest.mark.parametrize(
    ("host", "others", "address"),
    [
        ("node1", ["10.1.0.1"], "10.1.0.1"),  # its name is 127.0.1.1 to itself
        ("node1", ["10.1.0.1", "10.2.0.1"], None),
        ("localhost", ["10.1.0.1"], "localhost"),
        ("127.0.0.7", ["10.1.0.1"], "127.0.0.7"),
        ("elsewhere", ["10.1.0.1"], "elsewhere"),
    ],
)
def test_a_name_that_is_loopback_to_its_own_machine_stands_for_its_other_address(
    monkeypatch, host, others, address
):
    names = {"node1": "127.0.1.1", "localhost": "127.0.0.1", "elsewhere": "10.9.0.1"}
    monkeypatch.setattr(socket, "gethostbyname", names.__getitem__)
    every = {"lo": [Address("127.0.0.1")]}
    every |= {f"eth{i}": [Address(a)] for i, a in enumerate(others)}
    monkeypatch.setattr(meeting.psutil, "net_if_addrs", lambda: every)
    if address is not None:
        assert meeting._own_address(host) == address
        return
    with pytest.raises(InputError, match=r"10.1.0.1 \(eth0\), 10.2.0.1 \(eth1\)"):
        meeting._own_address(host)
