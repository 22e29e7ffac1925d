"""Train one arm of the quality testbed from one seed, and read what came of it."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import yaml

from align.support.cache_folder import made_folder
from align.support.process_memory import highest, resident
from experiments.adapt.adapt import adapt
from experiments.adapt.plan import Request
from experiments.bench.quality.arm import ADAPTED, Arm
from experiments.bench.quality.matching.texts import text_settings
from experiments.bench.quality.options import ADAPTING_STEPS
from experiments.config.tree import (
    Config,
    config_text,
    load_config,
    load_kept_config,
)
from experiments.config.zoo_names import build_zoo_models
from experiments.record.history import read_json, write_json
from experiments.run.lineage import differing_fields
from teacher.names import zoo_parts
from teacher.zoo.build import MANIFEST, build_zoo

STORE = "kv"
"""Folder of the teachers' stores, beside the arms'."""
_FOLDERS = re.compile(r"/\S*/")
SETTLED = 0.75
"""Share of a phase after which its router is looked at."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What all arms of a table share."""

    base: Path
    """Their config."""
    folder: Path
    """Where runs and results are kept."""
    steps: int
    """Optimiser steps of an arm."""
    more: tuple[str, ...] = ()
    """The user's settings, over those of the arms."""
    _: KW_ONLY
    stores: Path | None = None
    """Where stores, adapted teachers and texts are kept, if not in the folder: arms of
    other lengths read them."""
    adapting_steps: int = ADAPTING_STEPS
    """That a teacher takes in the student's vocabulary, for arms of any length."""

    def runs(self, arm: Arm) -> Path:
        """The folder of an arm's runs and results: pupils of a teacher that was adapted
        for another time than usual are no others'."""
        usual = not arm.adapted or self.adapting_steps == ADAPTING_STEPS
        return self.folder / (arm.name + ("" if usual else f"-{self.adapting_steps}"))

    def result(self, arm: Arm, seed: int) -> Path:
        """The file that says what came of an arm's seed."""
        return self.runs(arm) / f"{seed}.json"

    def reading(self, teacher: str) -> Path:
        """The file that says what storing a teacher took."""
        return self.stored / f"{teacher}.json"

    @property
    def stored(self) -> Path:
        """The folder of the stores."""
        return (self.stores or self.folder) / STORE

    def adapting(self, teacher: str) -> Path:
        """The file that says what giving a teacher the vocabulary took."""
        return self.stored.parent / f"adapted-{self.adapting_steps}" / f"{teacher}.json"

    @property
    def texts(self) -> Path:
        """The folder of what arms read beside the base's text."""
        return self.stored.parent / "texts"

    def making(self, text: str) -> Path:
        """The file that says what making such a text took."""
        return self.texts / f"{text}.json"

    def unknown(self, arm: Arm) -> str:
        """The first teacher of an arm that the config has not; empty: it has all, or
        arms teach it."""
        if arm.pupils:
            return ""
        known = yaml.safe_load(self.base.read_text(encoding="utf-8"))["teachers"]
        wanted = (name.removesuffix(ADAPTED) for name in arm.teachers)
        return next((name for name in wanted if name not in known), "")

    def student(self, arm: str, seed: int) -> Path:
        """The folder of an arm's student."""
        return self.folder / arm / f"seed-{seed}" / "student"

    def taught(self, arm: Arm, seed: int) -> dict[str, Any]:
        """The base config with the teachers of an arm's seed."""
        if not arm.pupils:
            return self.tree(arm.teachers)
        folders = {t: str(self.student(t, seed)) for t in arm.teachers}
        models = {
            t: {"model": "phase:*", "options": {"residual_of": folder}}
            if arm.rest
            else {"model": folder}
            for t, folder in folders.items()
        }
        return self.tree(()) | {"teachers": models}

    def tree(self, teachers: Sequence[str]) -> dict[str, Any]:
        """The base config with some of its teachers."""
        tree = yaml.safe_load(self.base.read_text(encoding="utf-8"))
        known = tree["teachers"]
        chosen = {
            name: {"model": str(self.adapting(name).with_suffix(""))}
            if name.endswith(ADAPTED)
            else known[name]
            for name in teachers
        }
        return tree | {"teachers": chosen}


def config_of(bed: Setup, arm: Arm, seed: int) -> Config:
    """The run of an arm: the testbed's config, the arm's settings, then the user's.

    Raises:
        ConfigError: a setting cannot be used.
    """
    settings = [
        f"run.dir={bed.runs(arm)}",
        f"run.name=seed-{seed}",
        f"run.seed={seed + arm.apart}",
        f"train.steps={arm.steps(bed.steps)}",
        f"phases=[{', '.join(arm.phases)}]",
    ]
    if len(arm.teachers) < 2:
        settings.append(f"phase.all.teachers.min={len(arm.teachers)}")
    if arm.spread != 1:
        settings.append(f"student.model={_spread(bed, arm.spread)}")
    store = _store_settings(bed) if arm.stored else []
    more_text = text_settings(bed.texts, arm.reads)
    return load_config(
        bed.taught(arm, seed),
        [*settings, *store, *more_text, *arm.settings, *bed.more],
    )


def trained_otherwise(bed: Setup, arm: Arm, seed: int) -> list[str]:
    """What an arm's finished run was trained with and would not be now.

    Returns:
        Rows as ``train.steps: stored 40, config 60``. Folders may have moved, and what
        is ``auto`` now was what the machine made of it.
    """
    kept = bed.runs(arm) / f"seed-{seed}" / "config.yaml"
    if not kept.is_file():
        return []
    texts = (
        config_text(c) for c in (load_kept_config(kept), config_of(bed, arm, seed))
    )
    before, now = (yaml.safe_load(_FOLDERS.sub("", text)) for text in texts)
    for tree in (before, now):
        tree["run"] = {"seed": tree["run"]["seed"]}  # the rest says where it lies
    rows = differing_fields(before, now)
    return [row for row in rows if not row.endswith("config 'auto'")]


def _spread(bed: Setup, times: float) -> Path:
    """The folder of the student with another ``initializer_range``, made where it is
    missing: each run draws its weights from that."""
    from transformers import AutoConfig, AutoModelForCausalLM

    scale, model = zoo_parts(bed.tree([])["student"]["model"])
    folder = bed.folder / "students" / f"spread-{times:g}"
    if folder.is_dir():
        return folder
    origin = build_zoo([model], scale=scale)[model]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with made_folder(folder) as fresh:
        for file in origin.glob("*.json*"):
            shutil.copy(file, fresh)
        (fresh / MANIFEST).unlink()  # it is no model of the zoo any more
        config = AutoConfig.from_pretrained(origin)
        config.initializer_range *= times
        AutoModelForCausalLM.from_config(config).save_pretrained(fresh)
    return folder


def _adapting_settings(bed: Setup) -> list[str]:
    """What teachers are adapted under, folders and threads aside."""
    data = bed.tree(())["data"]
    return [
        *(f"data.{key}={json.dumps(given)}" for key, given in data.items()),
        *(key for key in bed.more if key.startswith(("data.", "train.engine"))),
    ]


def adapted_otherwise(bed: Setup, teacher: str) -> list[str]:
    """Settings under which an adapted teacher was adapted and would not be now, or the
    other way round; none where that was not kept."""
    known = read_json(bed.adapting(teacher)).get("settings")
    return [] if known is None else sorted({*known} ^ {*_adapting_settings(bed)})


def adapt_teacher(bed: Setup, teacher: str) -> None:
    """Give a teacher the student's vocabulary, on the text that all arms read.

    Raises:
        InputError: it cannot be given that.
    """
    original = teacher.removesuffix(ADAPTED)
    tree, out = bed.tree([original]), bed.adapting(teacher).with_suffix("")
    shutil.rmtree(out, ignore_errors=True)  # of a process that was killed
    request = Request(
        model=tree["teachers"][original]["model"],
        to=tree["student"]["model"],
        out=out,
        steps=bed.adapting_steps,
        overrides=[
            f"run.dir={bed.folder / f'adapting-{bed.adapting_steps}'}",
            "train.threads=1",
            *_adapting_settings(bed),
        ],
    )
    before = time.process_time()
    adaptation = adapt(request).adaptation
    assert adaptation is not None, "it was adapted"
    bits = {
        "as it was": adaptation.bits_origin,
        "new rows": adaptation.bits_given,
        "adapted": adaptation.bits_adapted,
    }
    cost = {"cpu_s": round(time.process_time() - before, 1), "bits": bits}
    cost["settings"] = _adapting_settings(bed)
    write_json(bed.adapting(teacher), cost)


def store_teacher(bed: Setup, teacher: str) -> None:
    """Store a teacher's keys, values and own losses on the training text.

    Every seed and arm reads the same text, so a teacher reads it once for all of them.

    Raises:
        ConfigError: a setting cannot be used.
        StoreError: a store of other settings stands there.
    """
    from experiments.extraction.run import extract

    # The latent's phase takes every kind of teacher and asks for its own loss.
    # It is alone in the config: whose answers a run keeps names others.
    settings = ["phases=[z_space]", "phase.all.teachers.min=1", "answers.keep=[]"]
    tree = bed.tree([teacher])
    config = load_config(tree, [*settings, *_store_settings(bed), *bed.more])
    build_zoo_models(config)  # a store comes before the runs that would
    before = time.process_time()
    extract(config)
    seconds = round(time.process_time() - before, 1)
    write_json(bed.reading(teacher), {"cpu_s": seconds})


def train_arm(bed: Setup, arm: Arm, seed: int) -> None:
    """Train, or go on with, an arm's run and measure its student text by text.

    Writes :meth:`Setup.result`: ``bits`` (domain -> bits and characters of every
    held-out text, in the order of the texts' names), ``leads`` (domain -> teacher ->
    share of the tokens on which it had the largest weight, towards the end of the last
    routed phase), ``cpu_s`` (processor seconds), ``peak_bytes`` (the most memory that
    the process held meanwhile) and what was trained.

    Args:
        bed: what all arms share.
        arm: what to train.
        seed: of the student's first weights and of the samples' order.
    """
    from experiments.run.driver import run_training

    config = config_of(bed, arm, seed)
    resident()  # the process may have trained a larger one
    before = time.process_time()
    run = run_training(config)
    result = {
        "arm": arm.name,
        "seed": seed,
        "steps": arm.steps(bed.steps),
        "cpu_s": round(time.process_time() - before, 1),
        "peak_bytes": highest(),
        "leads": _leads(run) if arm.routed else {},
        # of this seed's held-out texts, as all arms: those of a run of another seed
        # would be others, and no close comparison with them could be made
        "bits": bits_by_text(config, run / "student", seed),
    }
    write_json(bed.result(arm, seed), result)


def bits_by_text(
    config: Config, student: Path, seed: int | None = None
) -> dict[str, list[list[float]]]:
    """What every held-out text costs a student: domain -> (bits, characters) each.

    Args:
        config: that says which texts are held out.
        student: folder of the model.
        seed: by which they are drawn; None: the config's.
    """
    from experiments.assemble.data import Encoder, load_data
    from student.evaluate import text_bits
    from teacher.capture.kv_capture import KVCapture
    from teacher.loading.models import load_model

    loaded = load_model(str(student), role="student")
    encode = Encoder(loaded.tokenizer, config.data.max_length, config.data.learn_end)
    seed = config.run.seed if seed is None else seed
    samples = load_data(config.data, encode, seed).eval
    model: Any = loaded.model
    costs = text_bits(KVCapture(model.eval()), encode, samples)
    pairs = sorted(zip(samples, costs, strict=True), key=lambda pair: pair[0].id)
    out: dict[str, list[list[float]]] = {}
    for sample, cost in pairs:
        out.setdefault(sample.domain, []).append(list(cost))
    return out


def _leads(run: Path) -> dict[str, dict[str, float]]:
    """Mean over the last lines of the last routed phase; empty where none routes."""
    from experiments.record.run_dir import read_run

    lines = list(read_run(run).lines("routing"))
    lines = [line for line in lines if line["phase"] == lines[-1]["phase"]]
    late = [ln for ln in lines if ln["step"] >= SETTLED * lines[-1]["step"]]
    domains = sorted({domain for line in late for domain in line["leads"]})
    out = {}
    for domain in domains:
        shares = [line["leads"][domain] for line in late if domain in line["leads"]]
        out[domain] = {t: sum(s[t] for s in shares) / len(shares) for t in shares[0]}
    return out


def _store_settings(bed: Setup) -> list[str]:
    folder = bed.stored.parent
    return [f"store.dir={folder}", f"store.name={STORE}", "store.read=true"]
