"""What several processes of ``test_ranks.py`` do."""

import json
import math
import os
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from align.schedules import Timetable
from fuse.beforehand.choose import TextChoice
from fuse.routers.label import LabelRouter
from fuse.routers.router import FixedRouter
from fuse.weigher import Weigher
from student.balance import DomainBalance
from student.config import LossConfig, TrainConfig
from student.loop.engine import Engine
from student.loop.launch import MEETING
from student.loop.phase_checkpoint import Keeper
from student.loop.trainer import Job, train_phase
from student.match import Match
from student.terms.key_value import OBJECTIVES
from tests.student.watching import Watching

BASE = TrainConfig(
    steps=4, batch_size=2, log_every=1, grad_accum=2, warmup_steps=1, keep_checkpoints=9
)


def start(config, samples_per_step=None):
    """An engine; the next one of these processes meets in the next file."""
    engine = Engine(config, samples_per_step)
    os.environ[MEETING] += "+"
    return engine


class LearnedTerm(torch.nn.Module):
    """A term with something of its own to learn: where the logits lie."""

    needs = frozenset()

    def __init__(self, *, start=0.0):
        super().__init__()
        self.where = torch.nn.Parameter(torch.full((3, 2), float(start)))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, ctx):
        self.calls += 1
        return (self.where - ctx.logits.float().mean()).square().mean()


def make_school(zoo):
    from teacher.zoo import DOMAINS, zoo_samples
    from tests.student.conftest import School

    every = [
        [s for s in zoo_samples(d, "student", 400) if len(s.text) > 250][:40]
        for d in DOMAINS
    ]
    samples = [sample for pair in zip(*every, strict=True) for sample in pair]
    return School({name: Path(path) for name, path in zoo.items()}, samples)


def train(school, engine, config, *, keeper=None, stop_at=None, dropout=0.0, seed=0):
    """Train one phase; losses, texts read, events and weights."""
    model = school.student(seed=1, attention_dropout=dropout)
    OBJECTIVES["learned"] = LearnedTerm
    loss = LossConfig(outcome_every=2, extra={"learned": 0.1})
    lesson = school.lesson("projector", loss=loss, routed=True, model=model)
    torch.manual_seed(seed + engine.rank)
    if config.bf16:
        lesson.distiller._autocast = torch.bfloat16
    lines, read = [], []

    def encode(texts):
        read.append(list(texts))
        return school.encode(texts)

    job = Job(
        samples=school.samples[:24],
        encode=encode,
        views=lesson.panel,
        steps=config.steps,
        seed=3,
        checkpoints=keeper,
        observer=Watching(lines, stop_at),
    )
    config = replace(config, prefetch=False)  # so that only what is used is read
    train_phase(lesson.distiller, engine, job, config)
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    weights = {n: p.detach().clone() for n, p in lesson.distiller.named_parameters()}
    events = [line for line in lines if line["kind"] == "event"]
    return {"losses": losses, "read": read, "events": events, "weights": weights}


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one) and one.keys() == (
        two.keys()
    )


def exact(school, out, *stages):
    """Stopped and resumed against undisturbed, for one engine after another."""
    found = {}
    for stage in stages or (0, 1, 2, 3):
        for bf16 in (False, True):
            config = replace(BASE, zero_stage=stage, bf16=bf16)
            engine = start(config)
            keeper = Keeper(folder=out / f"{stage}-{bf16}")
            whole = train(school, engine, config, dropout=0.3)
            first = train(school, engine, config, keeper=keeper, stop_at=2, dropout=0.3)
            second = train(school, engine, config, keeper=keeper, dropout=0.3, seed=99)
            found[f"ZeRO {stage}, {'bf16' if bf16 else 'fp32'}"] = {
                "losses": whole["losses"] == first["losses"] + second["losses"],
                "order": whole["read"] == first["read"] + second["read"],
                "weights": same(whole["weights"], second["weights"]),
                "went on": len(first["losses"]) == len(second["losses"]) == 2,
            }
            last = engine.rank, engine.world_size
            engine.close()
    return found, last


def hybrid(school, out):
    """ZeRO 3 whose groups of two keep a second copy of weights, and without: whole,
    and stopped and resumed, by one engine after another."""
    losses, whole = {}, {}
    for size in (1, 2, 2):
        config = replace(BASE, zero_stage=3, zero_hpz_partition_size=size)
        engine = start(replace(config, grad_accum=1))
        if size == 1:
            result = train(school, engine, config)
        else:
            keeper = Keeper(folder=out / f"hybrid-{len(losses)}")
            first = train(school, engine, config, keeper=keeper, stop_at=2)
            result = train(school, engine, config, keeper=keeper)
            result["losses"] = first["losses"] + result["losses"]
        losses[f"{len(losses)}: groups of {size}"] = result["losses"]
        whole[len(losses)] = result["weights"]
        last = engine.rank, engine.world_size
        engine.close()
    alike = [same(whole[1], whole[2]), same(whole[1], whole[3])]
    return {"losses": losses, "same weights": alike}, last


def divided(school, out):
    """Muon whose processes divide its state: undisturbed, and stopped and resumed."""
    processes = int(os.environ["WORLD_SIZE"])
    config = replace(
        BASE,
        steps=5,
        optimizer="muon",
        zero_stage=1,
        learning_rate=4e-3,
        batch_size=4 // processes,
        grad_accum=1,
    )
    engine = start(config)
    keeper = Keeper(folder=out / "divided")
    whole = train(school, engine, config)
    result = {"losses": whole["losses"]}
    if processes > 1:
        first = train(school, engine, config, keeper=keeper, stop_at=3)
        second = train(school, engine, config, keeper=keeper, seed=99)
        result["same losses"] = whole["losses"] == first["losses"] + second["losses"]
        result["same weights"] = same(whole["weights"], second["weights"])
        result["length"] = len(first["losses"]), len(second["losses"])
    else:  # goes on from what two processes wrote
        after = engine.from_main(lambda: sorted(keeper.folder.glob("step-*")))
        for folder in after[1:]:
            shutil.rmtree(folder)
        again = train(school, engine, config, keeper=keeper)
        result["after two"] = again["losses"]
    last = engine.rank, engine.world_size
    engine.close()
    return result, last


def skipped(school, out, *stages):
    """Process 1 alone meets a loss, then a teacher, that is not finite."""
    from align.views import NonFiniteTeacherError

    found = {}
    for stage in stages or (0, 1, 2, 3):
        config = replace(BASE, zero_stage=stage, steps=2, checkpoint_every=1)
        engine = start(config)
        for kind in ("loss", "keys and values"):
            lesson = school.lesson("projector", loss=LossConfig(outcome_every=1))
            calls = []
            ce = lesson.distiller._objectives["ce"]

            def poison(ctx, calls=calls, ce=ce, kind=kind, engine=engine):
                calls.append(kind)
                bad = kind == "loss" and engine.rank == 1 and calls.count(kind) == 3
                return ce.objective(ctx) * (math.nan if bad else 1.0)

            poison.needs = frozenset()

            class Views:
                """The panel, which fails at its third pass."""

                passes, read = 0, lesson.panel.read

                def __call__(
                    self, *asked, kind=kind, panel=lesson.panel, rank=engine.rank
                ):
                    self.passes += 1
                    if kind != "loss" and rank == 1 and self.passes == 3:
                        raise NonFiniteTeacherError("gpt2-prose", "is not finite")
                    return panel(*asked)

            lesson.distiller._objectives["ce"] = replace(ce, objective=poison)
            lines, keeper = [], Keeper(folder=out / f"{stage}-{kind}", keep=9)
            job = Job(
                samples=school.samples[:24],
                encode=school.encode,
                views=Views(),
                steps=2,
                seed=3,
                checkpoints=keeper,
                observer=Watching(lines),
            )
            train_phase(lesson.distiller, engine, job, replace(config, prefetch=False))
            folder = keeper.folder / "step-00000001"
            before = {}
            from safetensors.torch import load_file

            for file in folder.glob("state-*"):
                before |= load_file(file)
            unmoved = all(
                torch.equal(before[f"weight/{n}"], p.detach())
                for n, p in lesson.distiller.named_parameters()
            )
            events = [line for line in lines if line["kind"] == "event"]
            found[f"ZeRO {stage}, {kind}"] = {"unmoved": unmoved, "events": events}
        last = engine.rank, engine.world_size
        engine.close()
    return found, last


def relay(school, out, first, last):
    """Take over at one step and hand over at another; 0 and 0 run undisturbed."""
    config = replace(BASE, steps=6, grad_accum=1, zero_stage=1)
    engine = start(config, 4)
    keeper = Keeper(folder=out / "relay", keep=9) if last else None
    stop_at = last if last < config.steps else None
    found = train(school, engine, config, keeper=keeper, stop_at=stop_at or None)
    assert not first or len(found["losses"]) == last - first
    del found["weights"]
    place = engine.rank, engine.world_size
    engine.close()
    return found, place


def mean(school, out, *stages):
    """One step of eight very unequal samples: its gradient, its norm and its terms.

    The stage 9 stands for plain PyTorch.
    """
    samples = [
        replace(sample, text=sample.text[10 : 10 + length])
        for sample, length in zip(
            school.samples, (150, 9, 140, 17, 3, 120, 6, 90), strict=False
        )
    ]
    found = {}
    for stage in stages or (9, 0, 1, 2, 3):
        torch_alone = {"engine": "torch"} if stage == 9 else {"zero_stage": stage}
        config = replace(BASE, steps=1, prefetch=False, **torch_alone)
        engine = start(config, 8)
        lesson = school.lesson("projector", loss=LossConfig(outcome_every=1))
        lines, norms = [], {}
        job = Job(
            samples=samples,
            encode=school.encode,
            views=lesson.panel,
            steps=1,
            seed=3,
            observer=Watching(lines),
        )

        def note(moved, norms=norms, distiller=lesson.distiller):
            if not norms:
                for name, parameter in distiller.named_parameters():
                    if parameter.grad is not None:
                        norms[name] = parameter.grad.flatten().tolist()
            return moved()

        whole = engine.prepared

        def prepared(*asked, whole=whole, note=note):
            return noted(whole(*asked), note)

        engine.prepared = prepared
        train_phase(lesson.distiller, engine, job, config)
        (line,) = [line for line in lines if line["kind"] == "train"]
        found[str(stage)] = {
            "gradient": norms if stage in (9, 0) else {},
            "norm": line["grad_norm"],
            "terms": line["terms"] | {"loss": line["loss"]},
        }
        last = engine.rank, engine.world_size
        engine.close()
    return found, last


def balanced(school, out, *stages):
    """Four samples a step in one pass of each process, weighed by what is learned."""
    found = {}
    for stage in stages or (0, 1, 2, 3):
        processes = int(os.environ["WORLD_SIZE"])
        config = replace(
            BASE, steps=3, grad_accum=1, batch_size=4 // processes, zero_stage=stage
        )
        engine = start(config, 4)
        loss = LossConfig(gamma_kl=0.0, eta_outcome=0.0)
        balance = "uncertainty" if stage == 3 else "gradnorm"
        keeper = Keeper(folder=out / f"balanced-{processes}-{stage}", keep=9)
        runs = []
        for stop_at, kept in ((None, None), (2, keeper), (None, keeper)):
            lesson = school.lesson("projector", loss=loss, balance=balance)
            lines = []
            job = Job(
                samples=school.samples[:24],
                encode=school.encode,
                views=lesson.panel,
                steps=3,
                seed=3,
                checkpoints=kept,
                observer=Watching(lines, stop_at),
            )
            train_phase(lesson.distiller, engine, job, replace(config, prefetch=False))
            lines = [line for line in lines if line["kind"] == "train"]
            weights = {n: x.clone() for n, x in lesson.distiller.state_dict().items()}
            runs.append((lines, weights))
        (whole, expected), _, (_, resumed) = runs
        found[str(stage)] = {
            "weights": [line["balance"] for line in whole],
            "went on": same(expected, resumed),
        }
        last = engine.rank, engine.world_size
        engine.close()
    return found, last


def followed(school, out, *stages):
    """Four samples a step, with numbers that follow losses and domains, and a term
    whose projector learns."""
    found = {}
    OBJECTIVES["match"] = Match
    keys = {"use": "match", "distance": "mse", "projector": "orthogonal"}
    layers = {"random": {"from": 1, "to": 2, "steps": 2}}
    keys |= {"layers": layers, "layer_weights": "gradient"}
    loss = LossConfig(
        terms={"keys": {**keys, "weight": 0.1}},
        lambda_k={"from": 1.0, "to": 0.1, "rule": "loss", "fall": 0.2},
        lambda_v={"from": 1.0, "to": 0.1, "rule": "loss", "of": "keys", "fall": 0.5},
        gamma_kl=0.0,
        eta_outcome=0.0,
        domain_balance=2.0,
    )
    for stage in stages or (1, 2):
        processes = int(os.environ["WORLD_SIZE"])
        config = replace(
            BASE, steps=4, grad_accum=1, batch_size=4 // processes, zero_stage=stage
        )
        engine = start(config, 4)
        timetable = Timetable(4, reads_losses=True)
        lesson = school.lesson("projector", loss=loss, timetable=timetable)
        lesson.distiller.domains = DomainBalance(("code", "prose"))
        lines = []
        job = Job(
            samples=school.samples[:24],
            encode=school.encode,
            views=lesson.panel,
            steps=4,
            seed=3,
            observer=Watching(lines),
        )
        train_phase(lesson.distiller, engine, job, replace(config, prefetch=False))
        lines = [line for line in lines if line["kind"] == "train"]
        projectors = lesson.distiller.terms["keys-term"].projectors
        found[str(stage)] = {
            "schedules": [line["schedules"] for line in lines],
            "terms": [line["terms"] for line in lines],
            "layers": [line["layers"]["keys"] for line in lines],
            "turned": [
                float((p.weight.mT @ p.weight).diagonal(dim1=1, dim2=2).mean())
                for p in projectors
            ],
        }
        last = engine.rank, engine.world_size
        engine.close()
    return found, last


def chosen(school, out):
    """Four samples a step, each from one of two teachers: by label, and drawn."""
    found, names = {}, ("gpt2-prose", "qwen-code")
    labels = dict(zip(("prose", "code"), names, strict=True))
    routers = {
        "hard": LabelRouter(1, 2, domains=labels),
        "sampled": FixedRouter(1, 2, weights=[1, 2]),
    }
    for how, router in routers.items():
        processes = int(os.environ["WORLD_SIZE"])
        config = replace(
            BASE, steps=3, grad_accum=1, batch_size=4 // processes, zero_stage=1
        )
        engine = start(config, 4)
        loss = LossConfig(gamma_kl=0.1, outcome_every=2)
        weigher = Weigher(router, "sample", choice=how)
        lesson = school.lesson("adapter", names, loss, weigher=weigher)
        lines, numbers = [], []
        choose = TextChoice(router, how, names, seed=3)

        def noting(samples, texts, choose=choose, numbers=numbers):
            rows = choose(samples, texts)
            numbers += zip(texts, rows.tolist(), strict=True)
            return rows

        job = Job(
            samples=school.samples[:24],
            encode=school.encode,
            views=lesson.panel,
            steps=3,
            seed=3,
            choose=noting,
            observer=Watching(lines),
        )
        train_phase(lesson.distiller, engine, job, replace(config, prefetch=False))
        lines = [line for line in lines if line["kind"] == "train"]
        found[how] = {
            "terms": [line["terms"] | {"all": line["loss"]} for line in lines],
            "asked": sorted(numbers),
            "weights": [
                float(p.detach().double().norm())
                for p in lesson.distiller.student.parameters()
            ],
        }
        last = engine.rank, engine.world_size
        engine.close()
    return found, last


@contextmanager
def noted(made, note):
    """Prepared by an engine, with a look at the gradients before each step."""
    with made as prepared:
        step = prepared.step
        prepared.step = lambda: note(step)
        yield prepared


def main(words):
    """Do pieces of work, one after another, as one of so many processes.

    Args:
        words: a folder that takes what each process found, as JSON; folders of tiny
            models by name, as JSON; then functions of this module, with numbers after
            colons.
    """
    out, zoo, *works = words
    school = make_school(json.loads(zoo))
    for work in works:
        name, *numbers = work.split(":")
        result, (rank, _) = globals()[name](school, Path(out), *map(int, numbers))
        name = work.replace(":", "-")
        (Path(out) / f"{name}.{rank}.json").write_text(json.dumps(result))
