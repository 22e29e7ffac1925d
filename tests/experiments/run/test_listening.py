"""Who listens on the network while a real run goes on, from its start to its end."""

import pytest
import yaml

from experiments.bench.faults import two_ranks as two
from tests.experiments.launched import listened
from tests.experiments.small_runs import DECODERS
from tests.listening import needs_proc

pytestmark = [needs_proc, pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_run_of_one_process_listens_on_nothing(tiny_zoo, tmp_path):
    config = two.write_config(tmp_path, tiny_zoo["student"].parent, ["dual"], 1)
    settings = yaml.safe_load(config.read_text())
    teachers = settings["teachers"]
    settings["teachers"] = {name: teachers[name] for name in DECODERS[:2]}
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    process = two.launch(config, log=tmp_path / "log.txt", processes=1)
    assert listened(process, tmp_path) == set()


def test_a_run_of_two_processes_on_one_machine_listens_on_loopback_alone(undisturbed):
    places = undisturbed.places
    assert len({pid for pid, _, _ in places}) == 2  # gloo's, of both
    assert {address for _, address, _ in places} == {"127.0.0.1"}
