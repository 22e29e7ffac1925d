"""Runs in which several students learn together: deep mutual learning."""

import json
import math
from types import SimpleNamespace
from zlib import crc32

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.nn import functional as F

from align.schedules import Timetable
from experiments.config.parsing import ConfigError, merge
from experiments.config.presets import load_registry
from experiments.config.tree import load_config
from experiments.record.history import read_json
from experiments.record.run_dir import read_run
from experiments.report.page import report_text
from experiments.run.driver import run_training
from experiments.run.peers.companions import Peers
from experiments.run.peers.learner import Learner
from experiments.run.peers.lesson import lesson_of
from experiments.run.plan import plan_run
from student.config import TrainConfig
from student.loop.batches import BatchMaker
from student.loop.launch import MEETING
from teacher.loading.models import load_model
from tests.experiments.small_runs import small_config

SILENT = {"lambda_k": 0, "lambda_v": 0, "beta_cos": 0, "gamma_kl": 0}
TERMS = {"kd": 1.0, "projected_kl": 1.0}
HEARD = {"kd": ["ann"], "projected_kl": ["bob"]}
TRAIN = {"steps": 1, "lr_schedule": "constant", "learning_rate": 0.01}


def configured(folder, zoo, changes=None, bob=True):
    """A small config of a student and its peers, one of them of another vocabulary."""
    folder.mkdir(exist_ok=True)
    path = small_config(folder, zoo)
    data = yaml.safe_load(path.read_text())
    fresh = {"model": f"peer:{zoo['student']}", "options": {"init": "fresh"}}
    data["teachers"] = {"ann": fresh}
    if bob:
        data["teachers"]["bob"] = {"model": f"peer:{zoo['qwen-code']}"}
    heard = HEARD if bob else {"kd": ["ann"]}
    mutual = {"phases": ["dual"], "train": TRAIN, "loss": SILENT}
    mutual |= {"output": {**TERMS, "teachers": heard}, "phase": {}}
    mutual["phase"] = {"dual": {"teachers": {"min": 1, "families": "any"}}}
    if not bob:
        mutual["output"]["projected_kl"] = 0.0
    data = merge(merge(data, mutual), changes or {})
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return load_config(path)


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(left, right):
    mine, theirs = weights(left), weights(right)
    return mine.keys() == theirs.keys() and all(
        mine[key].equal(theirs[key]) for key in mine
    )


def peer_of(run, name, phase="1-dual"):
    return run / "phases" / phase / "peers" / name


def lines(run, kind):
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row["kind"] == kind]


def test_weight_decay_of_a_step_reaches_a_peer_as_it_does_the_student(monkeypatch):
    monkeypatch.setattr(Learner, "_passes", lambda learner, step: ([], [], []))
    monkeypatch.setattr(Learner, "_losses", lambda learner, results: {})
    distiller = torch.nn.Module()
    distiller.student = torch.nn.Linear(2, 2)
    distiller.timetable = Timetable(4)
    falling = {"from": 0.4, "to": 0.0}
    learner = Learner.of(
        SimpleNamespace(name="ann"),
        distiller,
        None,
        SimpleNamespace(accumulation=0, world_size=1),
        config=TrainConfig(weight_decay=falling, learning_rate=0.1),
        encode=None,
        bad=SimpleNamespace(note=lambda *said: True),
    )
    groups = learner.optimizer.param_groups
    assert not any("decays" in group for group in groups)
    for step, decay in enumerate((0.4, 0.3, 0.2)):
        kept = distiller.student.weight.detach().clone()
        learner.step(step + 1)
        decays = sorted(group["weight_decay"] for group in groups)
        assert decays == pytest.approx([0.0, decay])
        rate = groups[0]["lr"]
        # No gradient, so AdamW shrinks the matrix and does nothing else.
        torch.testing.assert_close(distiller.student.weight, kept * (1 - rate * decay))


@pytest.fixture(scope="module")
def mutual(tmp_path_factory, tiny_zoo):
    """One step of three students, and the texts that each of them read."""
    read = []
    make = BatchMaker.order

    def noted(self, number):
        order = make(self, number)
        read.append(order)
        return order

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchMaker, "order", noted)
        folder = tmp_path_factory.mktemp("mutual")
        return run_training(configured(folder, tiny_zoo)), read


def test_a_peer_learns_from_the_student_as_it_has_become_on_the_same_texts(
    mutual, tiny_zoo
):
    """Algorithm 1 of Zhang et al. by transformers alone."""
    run, (mine, anns, bobs) = mutual
    assert mine.batch.texts == anns.batch.texts == bobs.batch.texts
    ids, mask = anns.batch.ids, anns.batch.mask
    begun = load_model(
        tiny_zoo["student"], role="student", init_seed=crc32(b"ann") % 2**32
    ).model
    student = load_model(run / "student").model
    with torch.no_grad():
        taught = student(input_ids=ids, attention_mask=mask.long()).logits
    logits = begun(input_ids=ids, attention_mask=mask.long()).logits
    counts = mask[:, 1:]
    ce = F.cross_entropy(logits[:, :-1][counts], ids[:, 1:][counts])
    (line,) = lines(run, "peer")[:1]
    said = line["ann"]["terms"]
    kd = F.kl_div(
        logits[:, :-1][counts].log_softmax(-1),
        taught[:, :-1][counts].log_softmax(-1),
        reduction="batchmean",
        log_target=True,
    )
    (ce + kd).backward()
    assert math.isclose(said["ce"], ce.item(), rel_tol=1e-4)
    assert math.isclose(said["kd"], kd.item(), rel_tol=1e-3)
    optimizer = torch.optim.AdamW(
        begun.parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=0
    )
    torch.nn.utils.clip_grad_norm_(begun.parameters(), 1.0)
    optimizer.step()
    left = load_model(peer_of(run, "ann")).model
    pairs = list(zip(begun.parameters(), left.parameters(), strict=True))
    near = [torch.isclose(a, b, atol=2e-4).float().mean() for a, b in pairs]
    assert min(near) > 0.99  # a gradient of nothing may have either sign


def test_every_peer_is_saved_as_a_checkpoint_and_measured_as_the_student_is(
    mutual, tiny_zoo
):
    run, _ = mutual
    (phase,) = read_json(run / "summary.json")["phases"]
    assert phase["peers"].keys() == {"ann", "bob"}
    for name, measured in phase["peers"].items():
        assert measured["bpc"].keys() == phase["bpc"].keys()
        assert load_model(peer_of(run, name)).kind == "decoder"
    began = load_model(tiny_zoo["qwen-code"]).model.state_dict()
    assert not began["lm_head.weight"].equal(
        load_model(peer_of(run, "bob")).model.state_dict()["lm_head.weight"]
    )
    (step,) = lines(run, "train")
    peers = [line.get("ann") or line["bob"] for line in lines(run, "peer")]
    seconds = sum(peer["step_s"] for peer in peers)
    assert step["parts_s"]["peers"] == pytest.approx(seconds, rel=0.2)
    page = report_text(read_run(run))
    assert "## Peers" in page


def test_a_peer_that_is_touched_is_refused(mutual):
    run, _ = mutual
    file = peer_of(run, "ann") / "config.json"
    before = file.read_text()
    file.write_text(before + " ")
    try:
        with pytest.raises(ValueError, match=r"peers/ann'.*config\.json"):
            load_model(peer_of(run, "ann"))
    finally:
        file.write_text(before)


def lesson(folder, zoo, changes=None, name="ann"):
    config = configured(folder, zoo, changes)
    plan = plan_run(config, load_registry(config))
    (phase,) = plan.phases
    facts = {n: Predicting() for n in ("ann", "bob")}
    return lesson_of(phase, name, ["ann", "bob"], facts)


class Predicting:
    predicts = True


def test_a_peer_hears_whom_the_student_hears_by_the_same_term(tmp_path, tiny_zoo):
    ann = lesson(tmp_path, tiny_zoo)
    assert ann.teachers == ["student", "bob"]
    assert ann.output.teachers == {"kd": ["student"]}
    assert (ann.output.kd, ann.output.projected_kl) == (1.0, 0.0)
    both = {"output": {"kd": 0, "teachers": {"projected_kl": ["ann", "bob"]}}}
    bob = lesson(tmp_path, tiny_zoo, both, "bob")
    assert bob.output.teachers == {"projected_kl": ["student", "ann"]}
    alone = {"output": {"kd": 0, "teachers": {"projected_kl": ["bob"]}}}
    with pytest.raises(ConfigError, match="'ann' would not learn from the student"):
        lesson(tmp_path, tiny_zoo, alone)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"train": {"engine": "deepspeed", "zero_stage": 3}},
            r"teachers\.ann\.model is 'peer:.*zero_stage=2",
        ),
        ({"train": {"fp16": True}}, r"does not go with train\.fp16; set train\.bf16"),
        (
            {"train": {"optimizer": "adamw_8bit"}},
            r"does not go with train\.optimizer=adamw_8bit; set train\.optimizer=adamw",
        ),
        ({"output": {"kd": 0, "projected_kl": 0}}, r"no term on next-token outputs"),
        ({"store": {"read": ["ann"]}}, r"as if it stood still"),
        ({"store": {"read": True, "form": "fused"}}, r"store\.form=fused"),
        (
            {"teachers": {"bob": {"dtype": "bfloat16"}}},
            r"teachers\.bob\.dtype is bfloat16, but peer:.* trains, whole",
        ),
        (
            {"teachers": {"student": {"model": "peer:zoo:student"}}},
            r"give it another name",
        ),
        ({"teachers": {"bob": {"model": "peer:phase:-1"}}}, r"names no model to train"),
    ],
    ids=range(9),
)
def test_what_a_peer_does_not_go_with_is_refused_before_work(
    changes, words, tmp_path, tiny_zoo
):
    config = configured(tmp_path, tiny_zoo, changes)
    with pytest.raises(ValueError, match=words):
        plan_run(config, load_registry(config))


class Killed(RuntimeError):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"loss": {"lambda_k": 1.0, "lambda_v": 1.0}, "train": {"grad_accum": 2}},
        {"train": {"optimizer": "muon"}},
        {"train": {"engine": "deepspeed", "zero_stage": 2}},
    ],
    ids=["keys and values", "muon", "zero 2"],
)
def test_peers_go_on_bit_for_bit_after_a_kill(changes, tmp_path, tiny_zoo, monkeypatch):
    changes = merge({"train": {"steps": 4, "checkpoint_every": 1}}, changes)
    whole = run_training(configured(tmp_path / "whole", tiny_zoo, changes))
    move = Peers.after_step

    def killed(self, step):
        move(self, step)
        if step == 3:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Peers, "after_step", killed)
        run_training(configured(tmp_path / "killed", tiny_zoo, changes))
    resumed = run_training(configured(tmp_path / "killed", tiny_zoo, changes))
    assert same(whole / "student", resumed / "student")
    for name in ("ann", "bob"):
        assert same(peer_of(whole, name), peer_of(resumed, name))
    assert not same(peer_of(whole, "ann"), whole / "student")


@pytest.mark.slow
def test_a_peer_goes_on_from_the_phase_before_and_anew_where_the_student_does(
    tmp_path, tiny_zoo
):
    changes = {
        "student": {"init": "fresh"},
        "phases": ["first", "second", "third"],
        "phase": {
            "all": {"like": "single", "teachers": {"min": 1}},
            "third": {"begins": "anew"},
        },
        "train": {"learning_rate": 1e-6},
    }
    run = run_training(configured(tmp_path, tiny_zoo, changes, bob=False))
    first, second, third = (
        weights(peer_of(run, "ann", phase))["model.embed_tokens.weight"]
        for phase in ("1-first", "2-second", "3-third")
    )
    assert not first.equal(second)
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)
    assert (second - third).std() > 0.5 * second.std()


def in_two_processes(warm, folder):
    """Train a folder's config by two processes; the run's folder."""
    shared = {MEETING: str(folder / "meeting")}
    shared |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    logs = [folder / f"{rank}.err" for rank in range(2)]
    started = [
        warm.start(
            "experiments.cli:main",
            *("train", str(folder / "config.yaml")),
            log=log,
            environ={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank, log in enumerate(logs)
    ]
    try:
        codes = [process.wait(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    assert codes == [0, 0], "".join(x.read_text()[-3000:] for x in logs)
    return folder / "run"


@pytest.mark.slow
def test_two_processes_train_peers_that_are_those_of_one(warm, tmp_path, tiny_zoo):
    """Fails where each process keeps its own gradients: texts are of unequal length."""
    deepspeed = {"engine": "deepspeed", "zero_stage": 1, "steps": 3}
    one = {"train": {**deepspeed, "batch_size": 4}}
    two = {"train": {**deepspeed, "batch_size": 2}}
    alone = run_training(configured(tmp_path / "one", tiny_zoo, one))
    configured(tmp_path / "two", tiny_zoo, two)
    together = in_two_processes(warm, tmp_path / "two")
    for name in ("ann", "bob"):
        mine, theirs = weights(peer_of(alone, name)), weights(peer_of(together, name))
        near = [torch.isclose(mine[k], theirs[k], atol=1e-3).float() for k in mine]
        assert min(x.mean() for x in near) > 0.98
    for left, right in zip(lines(alone, "peer"), lines(together, "peer"), strict=True):
        (name,) = {"ann", "bob"} & left.keys()
        assert math.isclose(left[name]["loss"], right[name]["loss"], rel_tol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1])
def test_an_average_on_two_processes_follows_the_student_of_both(
    stage, warm, tmp_path, tiny_zoo
):
    """Beside a peer, since what moves is one object; fails where an average, a part of
    which each process holds, is that part's alone."""
    me = {"me": {"model": "ema", "options": {"decay": 0.5}}}
    train = {"engine": "deepspeed", "zero_stage": stage, "steps": 4}
    heard = {"output": {"teachers": {"kd": ["ann", "me"]}}}
    runs = []
    for name, size in (("one", 4), ("two", 2)):
        changes = {"teachers": me, "train": {**train, "batch_size": size}, **heard}
        config = configured(tmp_path / name, tiny_zoo, changes, bob=False)
        runs.append(
            run_training(config)
            if name == "one"
            else in_two_processes(warm, tmp_path / name)
        )
    pairs = zip(*(lines(run, "train") for run in runs), strict=True)
    for one, two in pairs:
        assert math.isclose(one["terms"]["kd"], two["terms"]["kd"], rel_tol=1e-3)
