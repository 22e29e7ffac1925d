"""Who listens on the network while a real run goes on, from its start to its end."""

import pytest
import yaml

from experiments.bench.faults import two_ranks as two
from tests.experiments.launched import listened
from tests.experiments.small_runs import DECODERS
from tests.listening import needs_proc

pytestmark = [needs_proc, pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_run_of_one_process_listens_on_nothing(tiny_zoo, tmp_path, warm):
    """Nor does what it has imported: a process inherits what another had opened."""
    config = two.write_config(tmp_path, tiny_zoo["student"].parent, ["dual"], 1)
    settings = yaml.safe_load(config.read_text())
    teachers = settings["teachers"]
    settings["teachers"] = {name: teachers[name] for name in DECODERS[:2]}
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    drawing, log = "tests.experiments.undrawn:drawing", tmp_path / "log.txt"
    process = warm.start(drawing, "train", str(config), log=log)
    assert listened(process, tmp_path) == set()
    assert two.finished(tmp_path / "run") and list(tmp_path.rglob("run/**/*.png"))


def test_a_run_of_two_processes_on_one_machine_listens_on_loopback_alone(
    undisturbed, left_alone
):
    """To its end, and from its start by the launcher's command."""
    for places in (undisturbed.places, left_alone.places):
        assert len({pid for pid, _, _ in places}) == 2  # gloo's, of both
        assert {address for _, address, _ in places} == {"127.0.0.1"}
