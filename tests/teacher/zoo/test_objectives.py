import torch

from teacher.zoo.objectives import (
    IGNORE,
    Vocabulary,
    masked_token,
    next_token,
    span_corruption,
    windows,
)

VOCABULARY = Vocabulary(
    size=1000, first=5, bos=2, eos=3, mask=4, sentinels=tuple(range(900, 932))
)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_windows_of_one_epoch_never_overlap():
    rows = windows(torch.arange(100), 7, generator())
    epoch = [next(rows).tolist() for _ in range(13)]
    tokens = [token for row in epoch for token in row]
    assert all(row == list(range(row[0], row[0] + 7)) for row in epoch)
    assert len(set(tokens)) == len(tokens) == 91


def test_a_stream_one_token_longer_than_the_window_still_gives_windows():
    assert next(windows(torch.arange(8), 7, generator())).shape == (7,)


def test_next_token_rows_lead_with_bos_all_or_every_second():
    rows = torch.tensor([[10, 11, 12], [20, 21, 22]])
    led = next_token(rows, VOCABULARY, lead=True)["input_ids"]
    assert led.tolist() == [[2, 10, 11], [2, 20, 21]]
    half = next_token(rows, VOCABULARY, lead=False)["input_ids"]
    assert half.tolist() == [[2, 10, 11], [20, 21, 22]]


def test_masking_asks_for_what_it_changed_and_nothing_else():
    rows = torch.randint(5, 900, (40, 100), generator=generator())
    batch = masked_token(rows, VOCABULARY, generator())
    inputs, labels = batch["input_ids"], batch["labels"]
    asked = labels != IGNORE
    assert torch.equal(labels[asked], rows[asked])
    untouched = ~asked
    untouched[:, [0, -1]] = False
    assert torch.equal(inputs[untouched], rows[untouched])
    assert (inputs[:, 0] == 2).all() and (inputs[:, -1] == 3).all()
    assert 0.13 < asked.float().mean() < 0.17
    share = (inputs[asked] == VOCABULARY.mask).float().mean()
    assert 0.75 < share < 0.85


def test_putting_the_spans_back_gives_the_text():
    rows = torch.randint(5, 900, (8, 60), generator=generator())
    batch = span_corruption(rows, VOCABULARY, generator())
    for row, source, target in zip(
        rows.tolist(),
        batch["input_ids"].tolist(),
        batch["labels"].tolist(),
        strict=True,
    ):
        assert source[-1] == target[-1] == VOCABULARY.eos
        spans: dict[int, list[int]] = {}
        for token in target[:-1]:
            if token >= 900:
                current = spans[token] = []
            else:
                current.append(token)
        restored = []
        for token in source[:-1]:
            restored += spans[token] if token >= 900 else [token]
        assert restored == row
        assert sum(map(len, spans.values())) == 9  # 15 % of 60
        assert all(spans[s] for s in list(spans)[:-1])
