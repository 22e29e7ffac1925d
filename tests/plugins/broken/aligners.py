"""Aligners that break a promise, each by name."""

import random
from dataclasses import replace

import numpy as np
import torch

from align.time_align import Alignment
from align.tokenizer_align import (
    CausalCharIoUAligner,
    CharIoUAligner,
    LastTokenAligner,
)
from tests.plugins.broken.late import after

CAUSAL, PLAIN = CausalCharIoUAligner(), CharIoUAligner()


def of(function, causal=True):
    """A factory of aligners that call a function."""

    class Made:
        def __init__(self):
            self.causal = causal

        def __call__(self, student, teacher):
            return function(student, teacher)

    return Made


def leak(student, teacher):
    return PLAIN(student, teacher)


def leak_on_long_texts(student, teacher):
    long = max(map(len, student.texts)) > 100
    return (PLAIN if long else CAUSAL)(student, teacher)


def three_times(student, teacher):
    found = CAUSAL(student, teacher)
    return replace(found, weights=found.weights * 3)


def negative(student, teacher):
    found = CAUSAL(student, teacher)
    return replace(found, weights=-found.weights)


def not_a_number(student, teacher):
    found = CAUSAL(student, teacher)
    return replace(found, weights=found.weights * torch.nan)


def double(student, teacher):
    found = CAUSAL(student, teacher)
    return replace(found, weights=found.weights.double())


def narrow_rows(student, teacher):
    found = CAUSAL(student, teacher)
    return replace(found, rows=found.rows.int(), cols=found.cols.int())


def dense(student, teacher):
    return CAUSAL(student, teacher).dense()


def one_more_column(student, teacher):
    found = CAUSAL(student, teacher)
    batch, rows, cols = found.shape
    return replace(found, shape=(batch, rows, cols + 1))


def nothing(student, teacher):
    none = torch.zeros(0, dtype=torch.int64)
    shape = (*student.ids.shape, teacher.ids.shape[1])
    return Alignment(none, none, torch.zeros(0), shape)


def zeroes_ids(student, teacher):
    student.ids.zero_()
    return CAUSAL(student, teacher)


def zeroes_ids_in_secret(student, teacher):
    student.ids.numpy()[:] = 0  # no version counts up
    return CAUSAL(student, teacher)


def moves_the_teachers_spans(student, teacher):
    found = CAUSAL(student, teacher)
    teacher.spans.data.add_(1)
    return found


def of_the_first_text(student, teacher):
    """Every text is fed from the first."""
    found = LastTokenAligner()(student, teacher)
    return replace(found, cols=found.cols % teacher.ids.shape[1])


def by_the_batch(student, teacher):
    """Texts of a larger batch are aligned by another rule."""
    many = len(student.texts) > 1
    return (LastTokenAligner() if many else CAUSAL)(student, teacher)


def feeds_padding(student, teacher):
    found = CAUSAL(student, teacher)
    rows = torch.cat([torch.zeros(1, dtype=torch.int64), found.rows])
    cols = torch.cat([torch.zeros(1, dtype=torch.int64), found.cols])
    return Alignment(rows, cols, torch.ones(len(rows)), found.shape)


def shares_too_much(student, teacher):
    found = CAUSAL(student, teacher)
    return replace(found, shared=found.shared + 1e6)


class Lies(Alignment):
    """An alignment that carries other values than its pairs say."""

    def apply(self, x):
        return super().apply(x) * 0


def lies(student, teacher):
    found = CAUSAL(student, teacher)
    return Lies(found.rows, found.cols, found.weights, found.shape)


def turns_gradients_off(student, teacher):
    torch.set_grad_enabled(False)
    return CAUSAL(student, teacher)


def seeds_python(student, teacher):
    random.seed(0)
    return CAUSAL(student, teacher)


def seeds_numpy(student, teacher):
    np.random.seed(0)
    return CAUSAL(student, teacher)


def nothing_for_one_token(student, teacher):
    return (nothing if student.ids.shape[1] == 1 else CAUSAL)(student, teacher)


def leaks_after_a_special_token(student, teacher):
    special = any("</s>" in text for text in student.texts)
    return (PLAIN if special else CAUSAL)(student, teacher)


class Stale:
    """Remembers alignments by the number of tokens."""

    causal = True

    def __init__(self):
        self.seen = {}

    def __call__(self, student, teacher):
        key = tuple((tuple(x.ids.shape), *x.mask.sum(1)) for x in (student, teacher))
        key = str(key)
        return self.seen.setdefault(key, CAUSAL(student, teacher))


def raises(student, teacher):
    raise IndexError("no such token")


def without_causal():
    return PLAIN.__call__


def numbered_otherwise():
    made = of(CAUSAL)()
    made.causal = 1
    return made


BROKEN = {
    "leaks": of(leak),
    "leaks_on_long_texts": of(leak_on_long_texts),
    "weights_times_3": of(three_times),
    "negative": of(negative),
    "nan": of(not_a_number),
    "float64": of(double),
    "int32": of(narrow_rows),
    "dense_tensor": of(dense),
    "one_more_column": of(one_more_column),
    "covers_nothing": of(nothing),
    "zeroes_ids": of(zeroes_ids),
    "zeroes_ids_in_secret": of(zeroes_ids_in_secret),
    "moves_the_teachers_spans": of(moves_the_teachers_spans),
    "of_the_first_text": of(of_the_first_text, causal=False),
    "depends_on_the_batch": of(by_the_batch),
    "feeds_padding": of(feeds_padding),
    "shares_too_much": of(shares_too_much),
    "an_alignment_that_lies": of(lies),
    "turns_gradients_off": of(turns_gradients_off),
    "seeds_python": of(seeds_python),
    "seeds_numpy": of(seeds_numpy),
    "nothing_for_one_token": of(nothing_for_one_token),
    "leaks_after_a_special_token": of(leaks_after_a_special_token),
    "stale_by_length": Stale,
    "raises": of(raises),
    "without_causal": without_causal,
    "causal_is_no_bool": numbered_otherwise,
    "leaks_after_30_calls": after(30, of(CAUSAL), of(leak)),
    "empty_after_50_calls": after(50, of(CAUSAL), of(nothing)),
}
"""What a contract has to find."""

LATE = {
    "leaks_late": after(1000, of(CAUSAL), of(leak), by_text=True),
    "weights_times_3_late": after(1000, of(CAUSAL), of(three_times), by_text=True),
    "zeroes_ids_late": after(1000, of(CAUSAL), of(zeroes_ids_in_secret), by_text=True),
    "raises_late": after(1000, of(CAUSAL), of(raises), by_text=True),
}
"""What only shows in a run: a word is there that no contract's text has."""
