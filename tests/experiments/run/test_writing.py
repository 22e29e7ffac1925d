"""Runs whose student, or teacher, writes some of the text that they learn from."""

import json
from dataclasses import replace
from types import SimpleNamespace
from zlib import crc32

import pytest
import torch

from align.errors import InputError
from experiments.assemble.data import Encoder
from experiments.config.parsing import ConfigError
from experiments.config.presets import load_registry, presets_of
from experiments.config.tree import resolve_phases
from experiments.run.context import Stage
from experiments.run.driver import run_training
from experiments.run.phase_texts import check_moving_writer, check_writers
from experiments.run.preflight import preflight
from experiments.writing.buffer import Buffer
from experiments.writing.writer import Writer
from plugins.errors import PluginError
from teacher.loading.models import load_model
from tests.experiments.sources.test_of_student import Killed, configured, same
from tests.experiments.sources.test_peers import configured as mutual
from tests.experiments.sources.test_peers import in_two_processes, lines, weights

WRITTEN = {
    "by": "student",
    "share": 0.5,
    "every": 3,
    "opening_tokens": 6,
    "max_new_tokens": 8,
}


def run_in(folder, zoo, train=None, term="projected_kl", **written):
    return configured(
        folder,
        zoo,
        {
            "teachers": {"tutor": str(zoo["qwen-code"])},
            "phases": ["single"],
            "phase": {"single": {"output": {term: 1.0} if term else {}}},
            "train": {"steps": 5, "learning_rate": 0.01, **(train or {})},
            "data": {"written": {**WRITTEN, **written}},
        },
    )


@pytest.mark.slow
def test_share_nought_is_the_run_without_and_another_share_is_not(tmp_path, tiny_zoo):
    runs = [
        run_training(run_in(tmp_path / name, tiny_zoo, **changes))
        for name, changes in (
            ("without", {"by": None}),
            ("nought", {"share": 0.0}),
            ("half", {}),
            ("teacher", {"by": "tutor"}),
        )
    ]
    without, nought, half, teacher = (run / "student" for run in runs)
    assert same(without, nought)
    assert not same(without, half) and not same(half, teacher)


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    [{"engine": "torch"}, {"engine": "deepspeed", "zero_stage": 2}],
    ids=["torch", "zero 2"],
)
def test_a_run_killed_in_the_middle_of_a_buffer_goes_on_bit_for_bit(
    engine, tmp_path, tiny_zoo, monkeypatch
):
    train = {"checkpoint_every": 1, **engine}
    way = {"writer": {"use": "sample", "temperature": 1.2}}
    whole = run_training(run_in(tmp_path / "whole", tiny_zoo, train, **way))
    read, asked = Buffer.in_place_of, []

    def killed(self, number, given):
        asked.append(number)
        if len(asked) > 4 * 4:  # in the fifth step: the second buffer is one step old
            raise Killed
        return read(self, number, given)

    config = run_in(tmp_path / "killed", tiny_zoo, {**train, "prefetch": False}, **way)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Buffer, "in_place_of", killed)
        run_training(config)
    begun = []
    write = Buffer.write
    monkeypatch.setattr(
        Buffer, "write", lambda self, step: begun.append(step) or write(self, step)
    )
    resumed = run_training(config)
    assert begun == []  # the checkpoint brought the buffer
    assert same(whole / "student", resumed / "student")


@pytest.mark.slow
def test_the_first_on_policy_step_is_that_of_gkd_by_hand(
    tmp_path, tiny_zoo, monkeypatch
):
    """With share 1: KL(student || teacher) on the student's own text alone, by a
    teacher of its vocabulary, in plain transformers, with the gradient's norm."""
    student = load_model(tiny_zoo["student"], dtype="float32")
    twin = load_model(tiny_zoo["student"], dtype="float32").model
    with torch.no_grad():
        noise = torch.Generator().manual_seed(4)
        for weight in twin.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=noise))
    twin.save_pretrained(tmp_path / "twin")
    student.tokenizer.save_pretrained(tmp_path / "twin")
    changes = {
        "teachers": {"twin": str(tmp_path / "twin")},
        "phases": ["single"],
        "phase": {"single": {"output": {"kd": 1.0, "divergence": "reverse"}}},
        "train": {"steps": 1},
        "loss": {"lambda_k": 0, "lambda_v": 0, "beta_cos": 0, "gamma_kl": 0},
        "data": {"written": {**WRITTEN, "share": 1.0}},
    }
    read, texts = Buffer.in_place_of, []

    def noted(self, number, given):
        sample = read(self, number, given)
        texts.append(sample.text)
        return sample

    monkeypatch.setattr(Buffer, "in_place_of", noted)
    run = run_training(configured(tmp_path / "run", tiny_zoo, changes))
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    (step,) = (line for line in lines if line["kind"] == "train")

    assert len(texts) == 4
    batch = Encoder(student.tokenizer, 32, learn_end=True)(texts)
    given = {"input_ids": batch.ids, "attention_mask": batch.mask.long()}
    model = student.model.train().requires_grad_()
    q = model(**given).logits[:, :-1].log_softmax(-1)
    with torch.no_grad():
        p = twin(**given).logits[:, :-1].log_softmax(-1)
    counted = batch.mask[:, 1:]
    loss = (q.exp() * (q - p)).sum(-1)[counted].sum() / counted.sum()
    loss.backward()
    norm = torch.cat([w.grad.flatten() for w in model.parameters()]).norm()
    assert step["terms"]["ce"] == 0
    assert step["terms"]["kd"] == pytest.approx(float(loss), rel=1e-4)
    assert step["loss"] == pytest.approx(float(loss), rel=1e-4)
    assert step["grad_norm"] == pytest.approx(float(norm), rel=1e-3)


@pytest.mark.slow
def test_a_peer_writes_as_it_stands_and_a_kill_changes_no_bit(
    tmp_path, tiny_zoo, monkeypatch
):
    """In the middle of the second buffer: it is the one that the peer wrote then."""
    train = {"checkpoint_every": 1, "prefetch": False}
    changes = {
        "train": {"steps": 5, **train},
        "data": {"written": {**WRITTEN, "by": "ann", "writer": "greedy"}},
    }
    writers, write, read, asked = [], Writer.texts, Buffer.in_place_of, []

    def noted(self, prompts, *rest, **options):
        weights = [p.detach().clone() for p in self.model.parameters()]
        writers.append((prompts, weights, write(self, prompts, *rest, **options)))
        return writers[-1][-1]

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "texts", noted)
        whole = run_training(mutual(tmp_path / "whole", tiny_zoo, changes, bob=False))
    (prompts, began, texts), (_, later, _) = writers
    ann = load_model(
        tiny_zoo["student"], role="student", init_seed=crc32(b"ann") % 2**32
    ).model
    assert all(a.equal(b) for a, b in zip(began, ann.parameters(), strict=True))
    assert not any(a.equal(b) for a, b in zip(began, later, strict=True) if a.dim() > 1)
    given = torch.tensor([prompts[0]])
    drawn = ann.eval().generate(given, do_sample=False, max_new_tokens=8)
    assert texts[0][0].ids == tuple(drawn[0, given.shape[1] :].tolist())

    def killed(self, number, given):
        asked.append(number)
        if len(asked) > 2 * 4 * 4:  # the student's and the peer's, in the fifth step
            raise Killed
        return read(self, number, given)

    config = mutual(tmp_path / "killed", tiny_zoo, changes, bob=False)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Buffer, "in_place_of", killed)
        run_training(config)
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "texts", lambda *_, **__: pytest.fail("written again"))
        resumed = run_training(config)
    assert same(whole / "student", resumed / "student")
    peers = "phases/1-dual/peers/ann"
    assert same(whole / peers, resumed / peers)


def test_a_writer_that_moves_teaches_wherever_it_writes(tmp_path, tiny_zoo):
    """The refusal names the arm in which it would stand still, unnoticed."""
    config = run_in(tmp_path, tiny_zoo, by="tutor")
    models = SimpleNamespace(standing={})
    (phase,) = resolve_phases(config, presets_of(load_registry(config)))
    both, alone = Stage(phase, ("tutor", "other")), Stage(phase, ("other",))
    check_moving_writer(config, models, {"main": [both], "ce_only": [Stage(phase, ())]})
    arms = {"main": [both], "single:other": [alone]}
    with pytest.raises(InputError, match="'single:other' are other; name it in"):
        check_moving_writer(config, models, arms)
    check_moving_writer(config, SimpleNamespace(standing={"tutor": None}), arms)


def test_a_store_holds_nothing_of_text_that_is_yet_to_be_written(tmp_path, tiny_zoo):
    config = run_in(tmp_path, tiny_zoo)
    (phase,) = resolve_phases(config, presets_of(load_registry(config)))
    models = SimpleNamespace(stored={"tutor": None}, live={}, sharded=())
    with pytest.raises(InputError, match=r"'tutor' is read from a store.*ask it live"):
        check_writers(config, models, [Stage(phase, ("tutor",))])


def test_the_student_under_another_name_is_refused_as_a_writer(tmp_path, tiny_zoo):
    config = run_in(tmp_path, tiny_zoo, by="me")
    me = replace(config.teachers["tutor"], model="self")
    config = replace(config, teachers={**config.teachers, "me": me})
    with pytest.raises(ConfigError, match=r"itself.*set data.written.by=student"):
        preflight(config)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"by": "tuter"}, "did you mean 'tutor'"),
        ({"writer": "greedi"}, "greedy"),
        ({"writer": "greedy", "temperature": 0.5}, "temperature"),
        ({"writer": {"use": "sample", "temperature": 2}, "temperature": 1}, "one of"),
        ({"max_new_tokens": 30}, "data.written.max_new_tokens=26"),
        ({"share": 1.5}, "share"),
    ],
)
def test_what_cannot_be_written_is_refused_before_work(
    changes, words, tmp_path, tiny_zoo
):
    with pytest.raises((ConfigError, InputError, PluginError), match=words):
        preflight(run_in(tmp_path, tiny_zoo, **changes))


@pytest.mark.slow
def test_two_processes_with_parted_weights_write_what_one_with_whole_ones_does(
    warm, tmp_path, tiny_zoo
):
    """A buffer is one part here, so the first process goes through the student alone.
    Later steps learn as if nothing had been gathered."""
    runs = []
    for name, stage, size in (("one", 0, 4), ("two", 3, 2)):
        train = {"engine": "deepspeed", "zero_stage": stage, "batch_size": size}
        config = run_in(tmp_path / name, tiny_zoo, train, None, writer="greedy")
        runs.append(
            run_training(config)
            if name == "one"
            else in_two_processes(warm, tmp_path / name)
        )
    one, two = (lines(run, "written") for run in runs)
    assert len(one) == 2 and one[0]["tokens"] == two[0]["tokens"] > 0
    assert one[0]["repetition"] == two[0]["repetition"]
    mine, theirs = (weights(run / "student") for run in runs)
    near = [torch.isclose(mine[k], theirs[k], atol=1e-3).float() for k in mine]
    assert min(x.mean() for x in near) > 0.98
