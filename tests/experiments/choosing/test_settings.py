"""What of a choice cannot be meant is refused before any model is loaded."""

import pytest

from experiments.choosing.before_reading import check_choice, score_named
from experiments.choosing.weigher import fixed_weights
from experiments.config.parsing import ConfigError
from experiments.config.tree import load_config, resolve_phases
from fuse.beforehand.difficulty import DifficultyRouter
from fuse.config import FuseConfig
from plugins.registry import Registry

TEXTS = {"routing_level": "sample", "choice": "hard"}


def checked(presets, data=None, teachers=None, **fuse):
    names = ["small", "large"]
    config = load_config(
        {"teachers": names, "phases": ["dual"], "data": data or {}}
        | {"phase": {"dual": {"fuse": fuse}}},
        [f"teachers.{name}.weight={x}" for name, x in (teachers or {}).items()],
    )
    (phase,) = resolve_phases(config, presets)
    check_choice(phase, Registry.load(entry_points=False), config)


def by(**options):
    return {"fusion_method": {"use": "difficulty", **options}}


def test_texts_may_be_ranked_by_any_score_of_theirs(presets):
    for name in ("length", "entropy", "gap", "student_bits"):
        checked(presets, **TEXTS, **by(difficulty=name))
        fuse = FuseConfig(**TEXTS, **by(difficulty=name))
        assert score_named(fuse, DifficultyRouter) == name
    assert score_named(FuseConfig(**TEXTS, **by()), DifficultyRouter) == "length"


@pytest.mark.parametrize(
    ("fuse", "data", "said"),
    [
        (TEXTS | by(difficulty="lenght"), {}, "'lenght'; give one of length"),
        (TEXTS | by(order=["tiny"]), {}, "'tiny', which is no teacher; give one of"),
        (by(), {}, "fuse.choice is soft; set fuse.choice=hard"),
        (TEXTS | by() | {"routing_level": "token"}, {}, "routing_level is token"),
        (
            TEXTS | by(difficulty="gap"),
            {"written": {"by": "student"}},
            "data.written has new ones come later; give length",
        ),
    ],
)
def test_what_cannot_be_ranked_is_refused(fuse, data, said, presets):
    with pytest.raises(ConfigError, match=said):
        checked(presets, data, **fuse)


@pytest.mark.parametrize(
    "weights", [{"small": 0}, {"small": 0, "large": 0.5}, {"large": 0}]
)
def test_a_teacher_may_have_no_share_where_another_has_one(weights, presets):
    checked(presets, teachers=weights)


def test_shares_that_are_all_zero_are_refused_by_the_settings_that_say_them(presets):
    nobody = {"small": 0, "large": 0}
    told = r"'dual': teachers\.small\.weight, teachers\.large\.weight: all 0, .*> 0"
    with pytest.raises(ConfigError, match=told):
        checked(presets, teachers=nobody)
    checked(presets, teachers=nobody, weights=[1, 2])  # which say all shares
    checked(presets, teachers=nobody, fusion_method="similarity")
    with pytest.raises(ValueError, match=r"^teachers\.a\.weight: all 0, .* > 0$"):
        fixed_weights(FuseConfig(), {"a": 0.0})
