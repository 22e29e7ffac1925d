"""Agreement, diversity, kinds of text and the harness's numbers, by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from align.text.documents import TextSample
from plugins.contracts.models.evaluator import small_context
from student.evaluators.agreement import Agreement, apart
from student.evaluators.diversity import diversity
from student.evaluators.errors import Errors, kinds_of
from student.evaluators.harness import Harness, parts_of


def test_divergence_goes_from_the_teacher_in_bits_and_over_shared_rows():
    teacher, student = torch.randn(2, 5, 9).unbind()
    wide = torch.cat((student, torch.full((5, 3), 99.0)), 1)  # rows of padding
    p, q = (log_softmax(x.double().numpy(), 1) for x in (teacher, student))
    bits = (np.exp(p) * (p - q)).sum() / np.log(2)
    same, found, tokens = apart(teacher, wide).tolist()
    assert found == pytest.approx(bits, rel=1e-5)
    assert (same, tokens) == ((p.argmax(1) == q.argmax(1)).sum(), 5)


def test_a_student_agrees_with_itself_and_not_with_a_stranger():
    ctx = small_context(("aunt", "twin"))
    twin = replace(ctx.subject, name="twin")
    ctx = replace(ctx, teachers={**ctx.teachers, "twin": twin})
    values = Agreement()(ctx).values
    assert values["top1_agreement"]["twin/prose"] == 100
    assert values["kl_from_teacher"]["twin/code"] == pytest.approx(0, abs=1e-9)
    assert values["top1_agreement"]["aunt/prose"] < 50
    assert values["kl_from_teacher"]["aunt/prose"] > 1e-4


def test_other_vocabularies_are_said():
    ctx = small_context(("aunt",))

    class Other:
        def get_vocab(self):
            return {"a": 0}

    aunt = replace(ctx.teachers["aunt"], tokenizer=Other())
    found = Agreement()(replace(ctx, teachers={"aunt": aunt}))
    assert not found.values
    assert found.notes == [
        "student: no agreement of next tokens with aunt, whose vocabularies differ"
    ]


def test_what_teachers_know_apart_is_counted_by_hand():
    bits = np.array([[10.0, 40.0, 30.0], [20.0, 20.0, 30.0]])
    chars = np.full((2, 3), 10)
    found = diversity(["a", "b"], bits, chars, ["x", "x", "y"])
    # alone a needs 50 bits of x and b 40; each text's best needs 10 + 20
    assert found["oracle_saving"] == pytest.approx({"x": 25.0, "y": 0.0})
    assert found["reads_best"] == pytest.approx({"a": 200 / 3, "b": 100 / 3})
    assert found["error_correlation"] == pytest.approx({"a/b": -1.0})


def test_kinds_are_thirds_of_a_domain_by_length_and_by_how_rare_words_are():
    texts = ["the the", "the the the the", "the the the the the quokka"]
    samples = [TextSample(text, "zoo", str(i)) for i, text in enumerate(texts)]
    samples.append(TextSample("one text", "other", "3"))
    kinds = kinds_of(samples)
    assert kinds["zoo"] == [0, 1, 2] and kinds["other"] == [3]
    assert [kinds[f"zoo, {n}"] for n in ("short", "middle", "long")] == [[0], [1], [2]]
    assert kinds["zoo, rare words"] == [2]
    assert "other, short" not in kinds


def test_what_is_lost_is_lost_to_the_best_teacher_of_that_kind():
    ctx = small_context(("aunt", "uncle"))
    values = Errors()(ctx).values
    own = values["bits_by_kind"]
    theirs = [
        Errors()(replace(ctx, subject=t, teachers={})).values["bits_by_kind"]
        for t in ctx.teachers.values()
    ]
    for kind, lost in values["lost_by_kind"].items():
        best = min(of_teacher[kind] for of_teacher in theirs)
        assert lost == pytest.approx(own[kind] - best)


def test_the_harness_s_numbers_are_parted_by_what_is_better():
    found = {
        "results": {
            "quiz": {
                "alias": "quiz",
                "acc,none": 0.5,
                "acc_stderr,none": 0.1,
                "acc_norm,strict": 0.25,
                "bits_per_byte,none": 1.5,
                "sample_len": 4,
            }
        },
        "higher_is_better": {
            "quiz": {"acc": True, "acc_norm": True, "bits_per_byte": False}
        },
    }
    assert parts_of(found) == {
        "lm_eval": {"quiz/acc": 0.5, "quiz/acc_norm (strict)": 0.25},
        "lm_eval_loss": {"quiz/bits_per_byte": 1.5},
    }
    assert "name some tasks" in Harness()(small_context(())).notes[0]
