"""A script as a module; and a whole SLURM on this machine: one controller, two nodes,
all on loopback."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "sinfo")
SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

CONFIG = """\
ClusterName=mtkd-test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=1
MpiDefault=none
ReturnToService=2
KillWait=5
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={n1} CPUs=2
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={n2} CPUs=2
PartitionName=test Nodes=n1,n2 Default=YES MaxTime=30 State=UP
"""


@dataclass
class Cluster:
    """A running SLURM; commands are run with ``call``."""

    folder: Path
    programs: dict[str, str]
    environment: dict[str, str]
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def call(self, *words: str, check: bool = True, **options: object) -> str:
        """Run a client program; its output, stripped."""
        done = subprocess.run(
            words,
            env={**self.environment, **options.pop("env", {})},
            capture_output=True,
            text=True,
            timeout=60,
            **options,
        )
        if check and done.returncode:
            raise AssertionError(f"{words}: {done.stderr}\n{self.logs()}")
        return done.stdout.strip()

    def start(self, *words: str) -> None:
        """Start a daemon which stays in the foreground."""
        log = (self.folder / "daemons.out").open("ab")
        self.daemons.append(
            subprocess.Popen(words, env=self.environment, stdout=log, stderr=log)
        )

    def state(self, job: str) -> str:
        """The state of a job, such as RUNNING."""
        shown = self.call("scontrol", "show", "job", "-o", job)
        return shown.partition("JobState=")[2].split()[0]

    def wait(self, what: str, holds: Callable[[], bool], seconds: float = 90) -> None:
        """Wait until something holds, or fail with the cluster's logs."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, f"no {what} in {seconds} s\n{self.logs()}"
            time.sleep(0.2)

    def logs(self) -> str:
        """The last lines of every log."""
        files = [*self.folder.glob("*.log"), *self.folder.glob("*.out")]
        tails = {
            file.name: file.read_text(errors="replace").splitlines()[-15:]
            for file in files
        }
        return "\n".join(f"-- {n}\n" + "\n".join(lines) for n, lines in tails.items())

    def stop(self) -> None:
        """End every job with its processes, then every daemon started here."""
        end = time.monotonic() + 40
        while jobs := self.call("squeue", "-h", "-o", "%A", check=False).split():
            if time.monotonic() > end:
                break
            for how in ("--batch", "--ctld"):  # the script, then whatever it started
                self.call("scancel", how, "--signal=KILL", *jobs, check=False)
            time.sleep(0.5)
        for daemon in reversed(self.daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(timeout=15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def start_munge(cluster: Cluster) -> None:
    """Start munged as its own user where we are root; it refuses to be root."""
    folder, prefix = cluster.folder, []
    home = folder / "munge"
    home.mkdir(mode=0o755)
    key = home / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    if os.getuid() == 0:
        shutil.chown(home, "munge", "munge")
        shutil.chown(key, "munge", "munge")
        folder.chmod(0o1777)
        prefix = [shutil.which("setpriv") or "setpriv"]
        prefix += ["--reuid=munge", "--regid=munge", "--clear-groups"]
    cluster.start(
        *prefix,
        cluster.programs["munged"],
        "--foreground",
        f"--key-file={key}",
        f"--socket={folder}/munge.socket",
        f"--pid-file={home}/pid",
        f"--seed-file={home}/seed",
        f"--log-file={home}/log",
        "--num-threads=2",
    )
    cluster.wait("munge socket", (folder / "munge.socket").exists, 20)


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """Two nodes, idle; torn down at the end of the session."""
    programs = {name: shutil.which(name, path=SEARCH) for name in PROGRAMS}
    missing = sorted(name for name, path in programs.items() if path is None)
    if missing:
        why = f"no SLURM here: {', '.join(missing)} missing; apt-get install "
        why += "slurmctld slurmd slurm-client munge"
        if os.environ.get("MTKD_REQUIRE_SLURM"):
            pytest.fail(why)
        pytest.skip(why)
    folder = Path(tempfile.mkdtemp(prefix="mtkd-slurm-", dir="/tmp"))
    # a job inherits what the shell exports; nothing of a launch or of another job
    launch = ("SLURM_", "MASTER_", "RANK", "LOCAL_RANK", "WORLD_SIZE")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(launch)}
    environment["SLURM_CONF"] = str(folder / "slurm.conf")
    environment["PATH"] = SEARCH
    cluster = Cluster(folder, programs, environment)
    try:
        folder.chmod(0o755)
        start_munge(cluster)
        controller, n1, n2 = free_ports(3)
        (folder / "state").mkdir()
        user = subprocess.run(["id", "-un"], capture_output=True, text=True).stdout
        (folder / "slurm.conf").write_text(
            CONFIG.format(
                host=socket.gethostname().partition(".")[0],
                user=user.strip(),
                folder=folder,
                controller=controller,
                n1=n1,
                n2=n2,
            )
        )
        cluster.start(programs["slurmctld"], "-D")
        for node in ("n1", "n2"):
            cluster.start(programs["slurmd"], "-D", "-N", node)
        idle = lambda: (  # noqa: E731
            cluster.call("sinfo", "-h", "-N", "-o", "%T", check=False).split()
            == ["idle", "idle"]
        )
        cluster.wait("two idle nodes", idle, 40)
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def script(request) -> Iterator[Any]:
    """The functions of the script that a file of tests is named after."""
    name = request.path.stem.removeprefix("test_")
    spec = importlib.util.spec_from_file_location(
        f"script_{name}", SCRIPTS / f"{name}.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]
