"""Sources and targets in one row, against a tokenizer called by hand."""

import pytest
import torch

from align.errors import InputError
from align.reading import Reading
from align.text.prompted import Prompted
from align.time_align import Alignment
from align.tokenizer_align import CausalCharIoUAligner, LastTokenAligner
from align.tokens.answered import two_parts
from align.tokens.batch import TokenBatch, encode_batch
from align.tokens.pairs import encode_pairs, within_parts
from tests.seq2seq import TEXTS, tokenizer
from tests.small_tokenizers import outside, real, small

START = 7


def test_a_row_holds_source_gap_start_and_target():
    names = tokenizer()
    batch = encode_pairs(names, TEXTS, START, learn_end=True)
    end = names.eos_token_id
    for row, text in enumerate(TEXTS):
        source = names(text.prompt)["input_ids"]
        target = names(text.completion.lstrip())["input_ids"]
        assert source[-1] == target[-1] == end
        length = len(source) + 2 + len(target)
        mask = batch.mask[row]
        assert mask.tolist() == [
            i != len(source) and i < length for i in range(mask.shape[0])
        ]
        assert batch.ids[row][mask].tolist() == [*source, START, *target]
        predicted = batch.ids[row][batch.predicted[row]].tolist()
        assert predicted == target  # an end of text among them
        of_source, of_target = (part[row] for part in two_parts(batch.mask))
        assert batch.ids[row][of_source].tolist() == source
        assert batch.ids[row][of_target].tolist() == [START, *target]


def test_spans_index_source_and_target_joined():
    batch = encode_pairs(tokenizer(), TEXTS, START, learn_end=True)
    assert batch.texts == tuple(TEXTS)
    for row, text in enumerate(TEXTS):
        spans = batch.spans[row][batch.has_text[row]].tolist()
        assert spans == sorted(spans)
        told = "".join(text[start:stop] for start, stop in spans)
        assert told.replace(" ", "") == text.replace(" ", "")
        _, target = two_parts(batch.mask)
        first = batch.spans[row][target[row] & batch.has_text[row]][0, 0]
        assert first == text.answer + 1  # the blank belongs to neither


def test_rows_are_cut_at_the_end_of_the_target_first():
    whole = encode_pairs(tokenizer(), TEXTS, START, learn_end=True)
    counts = whole.mask.sum(1)
    cut = encode_pairs(tokenizer(), TEXTS, START, int(counts.max()) - 2, learn_end=True)
    assert cut.mask.sum(1).tolist() == [
        min(int(n), int(counts.max()) - 2) for n in counts
    ]
    longest = int(counts.argmax())
    kept = cut.ids[longest][cut.mask[longest]]
    assert kept.tolist() == whole.ids[longest][whole.mask[longest]].tolist()[:-2]
    short = encode_pairs(tokenizer(), TEXTS, START, 4, learn_end=True)
    source, target = two_parts(short.mask)
    assert (source.sum(1) == 3).all() and (target.sum(1) == 1).all()


def test_what_goes_on_has_no_end_and_a_blank_source_has_a_token():
    names = tokenizer()
    texts = [TEXTS[0].cut(len(TEXTS[0]) - 3), Prompted("", " Mann")]
    batch = encode_pairs(names, texts, START, learn_end=True)
    assert batch.ids[0][batch.predicted[0]][-1] != names.eos_token_id
    source, _ = two_parts(batch.mask)
    assert batch.ids[1][source[1]].tolist() == [names.eos_token_id]
    plain = small("bytes")  # which puts nothing beside a text
    for end in (3, None):
        plain.eos_token_id = end
        batch = encode_pairs(plain, [texts[1], TEXTS[0]], START)
        source, target = two_parts(batch.mask)
        assert batch.ids[0][source[0]].tolist() == [START if end is None else end]
        assert batch.ids[0][target[0]][0] == START
        assert not batch.has_text[0][source[0]].any()
    plain.eos_token_id = 3
    for learn_end in (True, False):
        batch = encode_pairs(plain, TEXTS[:1], START, learn_end=learn_end)
        assert (batch.ids[0][batch.mask[0]][-1] == 3) == learn_end


def test_other_rows_have_one_part_and_plain_text_is_refused():
    plain = encode_batch(tokenizer(), list(TEXTS), learn_end=True)
    source, target = two_parts(plain.mask)
    assert torch.equal(source, plain.mask) and not target.any()
    with pytest.raises(InputError, match=r"texts\[1\] 'one text' is one text.*pairs"):
        encode_pairs(tokenizer(), [TEXTS[0], "one text"], START)


@pytest.mark.parametrize("name", outside("t5-small"))
def test_real_tokenizers_give_labels_as_transformers_reads_them(name):
    names = real(name)
    batch = encode_pairs(names, TEXTS, names.pad_token_id, learn_end=True)
    for row, text in enumerate(TEXTS):
        labels = names(text.completion)["input_ids"]
        assert batch.ids[row][batch.predicted[row]].tolist() == labels


def test_no_source_is_aligned_to_a_target():
    """Aligners fall back where a target's first token is part of the teacher's."""
    student, teacher = (
        encode_pairs(names, TEXTS, START) for names in (tokenizer(), small("words"))
    )
    ours, theirs = (two_parts(x.mask)[1].flatten() for x in (student, teacher))
    for aligner in (CausalCharIoUAligner(), LastTokenAligner()):
        whole = aligner(student, teacher)
        crossed = ours[whole.rows] != theirs[whole.cols]
        assert crossed.any()
        reading = Reading.aligned("t", student, teacher, lambda _, x=whole: (x, None))
        kept = reading.alignment
        assert torch.equal(kept.rows, whole.rows[~crossed])
        assert torch.equal(kept.cols, whole.cols[~crossed])
        sums = torch.zeros(ours.numel()).index_add_(0, kept.rows, kept.weights)
        torch.testing.assert_close(sums[kept.rows], torch.ones(len(kept.rows)))
        plain = encode_batch(small("words"), list(TEXTS))
        alone = LastTokenAligner()(student, plain)
        assert within_parts(alone, student, plain) is alone


def test_what_is_left_of_a_token_weighs_1():
    """A target's first token meets the source's last and its own, by hand."""
    mask = torch.tensor([[True, False, True, True]])
    batch = TokenBatch(mask.long(), mask, torch.zeros(1, 4, 2).long(), ("a b",))
    weights = torch.tensor([1.0, 0.25, 0.5, 0.25])
    rows, cols = torch.tensor([0, 2, 2, 2]), torch.tensor([0, 0, 2, 3])
    shared = torch.tensor([1.0, 2.0, 3.0, 4.0])
    both = Alignment(rows, cols, weights, (1, 4, 4), shared=shared)
    kept = within_parts(both, batch, batch)
    assert kept.rows.tolist() == [0, 2, 2] and kept.cols.tolist() == [0, 2, 3]
    torch.testing.assert_close(kept.weights, torch.tensor([1.0, 2 / 3, 1 / 3]))
    assert kept.shared.tolist() == [1, 3, 4]
