"""What is written, against transformers' own generate and sacrebleu's own scores."""

from dataclasses import replace

import pytest

from align.errors import MissingPackageError
from align.text.documents import TextSample
from align.text.prompted import Prompted
from plugins.contracts.models.evaluator import small_context
from student.evaluators import Pair
from student.evaluators.generation import Generation, scores_of


@pytest.fixture(scope="module")
def ctx():
    return small_context(())


def test_padding_on_the_left_changes_no_answer(ctx):
    evaluator = Generation(new_tokens=6)
    prompts = ["One teacher says", "a", "def ask(batch): return"]
    tokenizer, model = ctx.subject.tokenizer, ctx.subject.model
    alone = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        out = model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
        text = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        alone.append(text.strip())
    assert evaluator.write(ctx, prompts) == alone
    assert len(set(alone)) > 1


def test_models_are_compared_and_not_their_generation_settings(ctx, monkeypatch):
    """Qwen's penalty, say, or BART's three words that never come again."""
    evaluator, settings = Generation(new_tokens=6), ctx.subject.model.generation_config
    plain = evaluator.write(ctx, ["One teacher says"])
    for name, value in {
        "no_repeat_ngram_size": 1,
        "repetition_penalty": 9.0,
        "suppress_tokens": list(range(1, 60)),
        "max_new_tokens": 1,
    }.items():
        monkeypatch.setattr(settings, name, value)
    assert evaluator.write(ctx, ["One teacher says"]) == plain
    assert ctx.subject.model.generation_config is settings


def test_scores_are_sacrebleus_own():
    sacrebleu = pytest.importorskip("sacrebleu")
    written = ["the cat sat on the mat today", "a dog barks at night in the rain"]
    right = ["the cat sat on a mat today", "a dog barks at night in rain"]
    found = scores_of(written, right)
    assert found["bleu"] == sacrebleu.BLEU().corpus_score(written, [right]).score
    assert found["chrf"] == sacrebleu.CHRF().corpus_score(written, [right]).score
    assert found["ter"] == sacrebleu.TER().corpus_score(written, [right]).score
    assert found["bleu"] > 30 and found["exact_match"] == 0
    assert scores_of(written, written)["exact_match"] == 100


def test_without_sacrebleu_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sacrebleu", None)
    with pytest.raises(MissingPackageError, match=r"mtkd\[eval\].*scores: false"):
        scores_of(["a"], ["a"])
    assert scores_of(["a"], ["a"], False) == {"exact_match": 100, "repetition": 0}


def test_pairs_win_over_text_and_text_is_cut_where_words_end(ctx):
    cut = Generation(prompt_words=3, new_tokens=2, scores=False)
    first = cut.pairs(ctx)[0]
    assert (first.prompt, first.completion) == ("One teacher says", " a little,")
    given = replace(ctx, pairs=[Pair("1+1=", "2", "sums")] * 3)
    assert len(Generation(texts=2).pairs(given)) == 2
    measured = Generation(new_tokens=4, scores=False)(given)
    assert set(measured.values) == {"exact_match", "repetition"}
    assert measured.samples[0]["reference"] == "2"


def test_pairs_whose_ends_are_cut_off_are_no_right_answers(ctx):
    whole, cut = Prompted("a =>", " eins"), Prompted("b =>", " zwei drei").cut(9)
    generation = Generation(new_tokens=2, scores=False)
    given = replace(ctx, samples=[TextSample(t, "x", "") for t in (whole, cut)])
    assert [pair.completion for pair in generation.pairs(given)] == [" eins"]
    assert "1 of 2 held-out pairs are cut" in generation(given).notes[0]
    given = replace(ctx, samples=[TextSample(cut, "x", "")])
    measured = generation(given)
    assert measured.values == {} and "1 of 1 held-out" in measured.notes[0]


def test_an_answer_ends_where_it_is_told_to(ctx):
    whole = Generation(new_tokens=8).write(ctx, ["One"])[0]
    middle = whole[len(whole) // 2]
    stopped = Generation(new_tokens=8, stop=middle).write(ctx, ["One"])[0]
    assert stopped == whole.split(middle)[0].strip() or stopped == whole
