import pytest

from teacher.teacher_rule import TeacherFacts, TeacherRule, select_teachers


def facts(**families):
    return {
        name: TeacherFacts(
            kind="encoder" if family == "bert" else "decoder", family=family
        )
        for name, family in families.items()
    }


MIXED = facts(a="gpt2", b="bert", c="llama", d="llama", e="neox")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (TeacherRule(), ["a", "b", "c", "d", "e"]),
        (TeacherRule(kinds=["decoder"], max=2), ["a", "c"]),
        (TeacherRule(kinds=["decoder"], min=2, max=2, families="one"), ["c", "d"]),
        (TeacherRule(kinds=["decoder"], max=3, families="many"), ["a", "c", "e"]),
        (TeacherRule(kinds=["decoder"], families="many"), ["a", "c", "d", "e"]),
        (TeacherRule(names=["e", "b"], min=2), ["e", "b"]),
        (TeacherRule(names=[], min=0), []),
    ],
)
def test_a_rule_selects_in_the_order_of_the_config(rule, expected):
    assert select_teachers(rule, MIXED, "p") == expected


def test_one_family_is_a_preference_only():
    rule = TeacherRule(min=2, max=2, families="one")
    assert select_teachers(rule, facts(a="gpt2", c="llama"), "p") == ["a", "c"]


def test_too_few_teachers_names_what_fits_and_what_to_do():
    rule = TeacherRule(min=2, kinds=["encoder"])
    with pytest.raises(ValueError, match=r"'p' needs at least 2 .* 1 fit \(b\).*Add"):
        select_teachers(rule, MIXED, "p")


def test_who_names_no_teacher_at_all_is_shown_where_whole_configs_are():
    with pytest.raises(ValueError, match=r"has no teachers\..*recipes list"):
        select_teachers(TeacherRule(min=2), {}, "p")


def test_counts_are_checked():
    with pytest.raises(ValueError, match="min is -1; give an integer >= 0"):
        TeacherRule(min=-1)
    with pytest.raises(ValueError, match="max must be >="):
        TeacherRule(min=3, max=2)


def test_a_teacher_is_named_once():
    with pytest.raises(ValueError, match="teachers names 'a' twice; name each once"):
        TeacherRule(names=["a", "b", "a"])
