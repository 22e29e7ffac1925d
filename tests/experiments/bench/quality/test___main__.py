from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest

from experiments.bench.quality import jobs
from experiments.bench.quality.__main__ import _beds
from experiments.bench.quality.arm import CE_ONLY, ENCODER, TEACHERS, Arm
from experiments.bench.quality.arms import ARMS, GROUPS, chosen
from experiments.bench.quality.jobs import work_through
from experiments.bench.quality.options import parser
from experiments.bench.quality.table import (
    Outcome,
    adapting_table,
    difference,
    draw,
    draw_routing,
    read_outcome,
    routing_table,
    table,
)
from experiments.bench.quality.train import Setup, config_of
from experiments.config.presets import load_registry, presets_of
from experiments.config.tree import config_path, resolve_phases
from experiments.record.history import write_json
from tests.experiments.small_runs import small_config, write_text

STORED_SITES = {"keys", "values"}
"""Of a term ``match``: what a store holds."""


def outcome(name, factor, seeds=3, noise=0.0):
    """An arm whose texts cost ``factor`` times those of the baseline."""
    rng = np.random.default_rng(len(name))
    chars = np.arange(50, 90)
    cost = chars * (2 + np.sin(chars))
    runs = tuple(
        {
            "prose": np.stack(
                [factor * cost * (1 + noise * rng.standard_normal(40)), chars], 1
            ),
            "code": np.stack([cost, chars], 1),
        }
        for _ in range(seeds)
    )
    return Outcome(ARMS[name], runs, 10.0)


@pytest.mark.slow
def test_a_tenth_less_in_one_domain_is_known_exactly():
    base, better = outcome(CE_ONLY, 1.0), outcome("fixed", 0.9)
    assert difference(better, base, "prose") == pytest.approx((-10, -10, -10))
    assert difference(better, base, "code") == (0, 0, 0)
    mean, low, high = difference(better, base, None)
    assert mean == pytest.approx(-5)  # both domains cost the same
    assert low < -4 and low > -6 and high < -4


def test_noise_widens_the_interval_around_no_difference():
    base, same = outcome(CE_ONLY, 1.0), outcome("fixed", 1.0, noise=0.2)
    delta, low, high = difference(same, base, "prose")
    assert low < delta < high
    assert low < 0 < high
    assert high - low > 1


@pytest.mark.slow
def test_the_table_gives_bits_difference_cost_and_memory(tmp_path):
    base, better = outcome(CE_ONLY, 1.0), outcome("fixed", 0.9)
    better = replace(better, peak=1.24e9)
    single = outcome("qwen-code", 0.95)
    first, second, third = table([base, better, single], base)
    assert first[0] == CE_ONLY and first[-4:] == ["", "", "1.0", ""]
    assert second[:2] == ["fixed", "3"] and second[-4].startswith("-5.0 [")
    # 0.05 of prose's 0.95, of both domains' 1.95
    assert second[-3].startswith("-2.6 [") and second[-1] == "1.2 GB"
    assert third[-4].startswith("-2.5 [") and third[-3] == ""
    draw([base, better], base, tmp_path / "quality.png")
    assert (tmp_path / "quality.png").stat().st_size > 5000


def _sites(phase):
    return {term.get("site") for term in phase.loss.terms.values()}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ARMS))
def test_every_arm_is_a_config_that_resolves(name, tmp_path):
    arm = ARMS[name]
    bed = Setup(config_path("quality"), tmp_path, 10, ("data.max_length=64",))
    config = config_of(bed, arm, 1)
    assert (config.run.seed, config.data.max_length) == (1, 64)
    phases = resolve_phases(config, presets_of(load_registry(config)))
    unheld = any(
        phase.output.weights or phase.loss.gamma_kl or _sites(phase) - STORED_SITES
        for phase in phases
    )
    assert config.store.read == (bool(arm.teachers) and not unheld)
    given = [
        s.split(".")[1].split("=")[0] for s in arm.settings if s[:9] == "teachers."
    ]
    for phase in phases:
        assert phase.teachers == list(dict.fromkeys([*arm.teachers, *given]))
    assert sum(phase.train.steps for phase in phases) == 10 * arm.stretch


def test_arms_are_chosen_by_name_or_group_with_the_baseline_first():
    assert [arm.name for arm in chosen(["z", "fixed"])] == [CE_ONLY, "fixed", "z"]
    assert [arm.name for arm in chosen(["core"])] == [a.name for a in GROUPS["core"]]
    assert len(chosen(["all", "core"])) == len(ARMS)


def test_whom_a_router_asked_is_a_table_and_a_picture(tmp_path):
    leads = {
        "code": dict(zip(TEACHERS, (0.1, 0.8, 0.1), strict=True)),
        "prose": dict(zip(TEACHERS, (0.7, 0.1, 0.2), strict=True)),
    }
    wider = {"code": {**leads["code"], "qwen-code": 0.5, ENCODER: 0.3}}
    plain = outcome("fixed", 0.9)
    routed = Outcome(ARMS["routed"], plain.runs, 10.0, leads)
    latent = Outcome(ARMS["z"], plain.runs, 10.0, wider)
    assert routing_table([plain, routed, latent]) == [
        ["arm", "domain", *TEACHERS, ENCODER, "chance"],
        ["routed", "code", "10%", "80%", "10%", "-", "33%"],
        ["routed", "prose", "70%", "10%", "20%", "-", "33%"],
        ["z", "code", "10%", "50%", "10%", "30%", "25%"],
    ]
    assert len(routing_table([plain])) == 1
    draw_routing([plain, routed], tmp_path / "routing.png")
    assert (tmp_path / "routing.png").stat().st_size > 5000


def test_an_adapted_teacher_is_measured_and_its_cost_is_the_arm_s(tmp_path):
    arm = ARMS["qwen-code-adapted"]
    bed = Setup(config_path("quality_zoo"), tmp_path, 10)
    assert not bed.unknown(arm) and bed.unknown(ARMS["neox-prose"]) == "neox-prose"
    (name,) = arm.adapted
    bits = {"as it was": {"code": 1.0}, "adapted": {"code": 1.25}}
    write_json(bed.adapting(name), {"cpu_s": 30.0, "bits": bits})
    lines = [[name, "as it was", "1.000", "1.000", ""]]
    lines.append([name, "adapted", "1.250", "1.250", "30"])
    head = ["teacher", "state", "code", "mean", "seconds"]
    assert adapting_table(bed, [ARMS[CE_ONLY], arm, arm]) == [head, *lines]
    result = {"bits": {"code": [[8.0, 4]]}, "cpu_s": 12.0, "leads": {}}
    write_json(bed.result(arm, 0), result)
    assert read_outcome(bed, arm, [0]).cost == 42
    model = bed.tree([name])["teachers"][name]["model"]
    assert model == str(tmp_path / "adapted-150" / name)
    longer = replace(bed, adapting_steps=600)
    assert longer.runs(arm) == tmp_path / "qwen-code-adapted-600"
    assert longer.runs(ARMS[CE_ONLY]) == bed.runs(ARMS[CE_ONLY])


@pytest.fixture
def bed(tiny_zoo, tmp_path, monkeypatch):
    """Two steps of arms on the tiny zoo; by processes forked off this one, which need
    not import again what a fresh interpreter takes longer for than for its work."""
    monkeypatch.setattr(jobs, "get_context", lambda method: get_context("fork"))
    held_out = write_text(tmp_path / "held-out.txt", 8)  # the same for every seed
    changes = {
        "student": {"init": "fresh"},
        "data": {"eval": [str(held_out)]},
        "loss": {"gamma_kl": 0},
    }
    base = small_config(tmp_path, tiny_zoo, changes)
    return Setup(base, tmp_path / "bed", 2, adapting_steps=1)


ROUTED = Arm(
    "two",
    "",
    settings=("phase.all.teachers.min=2",),
    teachers=("gpt2-prose", "qwen-code"),
    phases=("routing",),
)


@pytest.mark.slow
def test_arms_train_once_from_stores_and_one_that_fails_stops_no_other(bed, capfd):
    broken = Arm(
        "broken",
        "",
        settings=("phase.all.align.aligner=none",),
        teachers=("qwen-code",),
    )
    failed = work_through(bed, [broken, ROUTED, ARMS[CE_ONLY]], [3], jobs=2)
    assert list(failed) == ["broken, seed 3"] and "aligner" in failed["broken, seed 3"]
    assert "broken/3.log" in capfd.readouterr().err
    ce, two = (read_outcome(bed, arm, [3]) for arm in (ARMS[CE_ONLY], ROUTED))
    assert set(two.leads) == {"text"} and ce.domains == two.domains == ["held-out"]
    for shares in two.leads.values():
        assert set(shares) == set(ROUTED.teachers)
        assert sum(shares.values()) == pytest.approx(1)
    assert not ce.leads and two.cost > ce.cost > 0
    assert all((costs > 0).all() for costs in two.runs[0].values())
    with pytest.raises(FileNotFoundError):
        read_outcome(bed, ROUTED, [4])
    before = bed.result(ROUTED, 3).stat().st_mtime_ns
    assert work_through(bed, [ROUTED, ARMS[CE_ONLY]], [3], jobs=1) == {}
    assert bed.result(ROUTED, 3).stat().st_mtime_ns == before


def test_teachers_are_adapted_for_so_many_steps_or_half_of_the_student_s(tmp_path):
    words = ["--size", "zoo", "--steps", "300", "1200", "--adapting-steps"]
    base = config_path("quality_zoo")
    for given, steps in (("150", [150, 150]), ("half", [150, 600])):
        options = parser().parse_args([*words, given, "--out", str(tmp_path)])
        beds = _beds(options, base, "zoo")
        assert [bed.adapting_steps for bed in beds] == steps
        assert [bed.folder.name for bed in beds] == ["zoo-300", "zoo-1200"]


def test_with_no_budget_left_nothing_is_begun(bed):
    arms = [ARMS[CE_ONLY], ARMS["qwen-code-adapted"]]
    assert work_through(bed, arms, [3], jobs=1, budget=0) == {}
    assert not bed.folder.exists()


@pytest.mark.slow
def test_a_teacher_is_adapted_once_before_the_arms_that_ask_it(bed):
    arm = ARMS["qwen-code-adapted"]
    assert work_through(bed, [ARMS[CE_ONLY], arm], [3], jobs=1) == {}
    heads, *rows = adapting_table(bed, [arm])
    assert [row[1] for row in rows] == ["as it was", "new rows", "adapted"]
    assert heads[2:] == ["held-out", "mean", "seconds"]
    before = bed.adapting(arm.adapted[0]).stat().st_mtime_ns
    assert work_through(bed, [ARMS[CE_ONLY], arm], [4], jobs=1) == {}
    assert bed.adapting(arm.adapted[0]).stat().st_mtime_ns == before
