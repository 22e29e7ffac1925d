"""A refactoring shows itself: losses are what they were."""

import pytest

from tests.experiments.same_losses import differences
from tests.fresh import answers, given

pytestmark = pytest.mark.edges

LINE = {"phase": "single", "step": 1, "loss": 2.5, "kd": -0.5}


COMPARED = """
def answer(words):
    import io
    from contextlib import redirect_stdout
    from tests.experiments.same_losses import main
    with redirect_stdout(io.StringIO()) as said:
        code = main(words)
    return [code, said.getvalue()]
"""


@pytest.mark.slow
def test_losses_of_every_term_and_step_are_what_they_were():
    # a process of its own, in which float32 is another type
    (answer,) = answers(COMPARED, [[]])
    code, said = given(answer)
    assert code == 0, said
    assert said.endswith(" steps, all losses as they were\n")


def test_a_millionth_is_the_same_and_more_is_not():
    assert differences([LINE], [LINE | {"kd": -0.5 - 4e-7}]) == []
    said = ["single, step 1, kd: was -0.5, is -0.500001"]
    assert differences([LINE], [LINE | {"kd": -0.500001}]) == said
    assert differences([LINE], [LINE | {"kd": float("nan")}]) != []


def test_a_lost_a_new_and_a_renamed_term_are_named():
    renamed = {"phase": "single", "step": 1, "loss": 2.5, "divergence": -0.5}
    assert differences([LINE], [renamed]) == [
        "single, step 1, kd: was -0.5, is None",
        "single, step 1, divergence: was None, is -0.5",
    ]
    assert len(differences([LINE], [])) == 2
    assert len(differences([], [LINE])) == 2
