import copy

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from align.errors import InputError
from experiments.writing.drawing import Drawing
from experiments.writing.writer import Writer
from teacher.loading.models import load_model
from tests.seq2seq import model, tokenizer

PROMPTS = ("The router learns from", "def", "Keys and values travel; names stay")


def writer_of(folder):
    loaded = load_model(folder, dtype="float32")
    return Writer(loaded.model, loaded.tokenizer, str(folder))


@pytest.fixture(scope="module")
def writer(tiny_llama):
    return writer_of(tiny_llama)


@pytest.fixture(scope="module")
def table(writer):
    """A model with a table of 24 positions, counted by the mask."""
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=257,
        hidden_size=16,
        ffn_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=24,
        word_embed_proj_dim=16,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return Writer(OPTForCausalLM(config), writer.tokenizer, "opt")


def by_hand(writer, ids, steps):
    """The likeliest token again and again, with neither cache nor padding."""
    ids = list(ids)
    for _ in range(steps):
        with torch.no_grad():
            logits = writer.model(torch.tensor([ids]), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] in writer.ends:
            break
    return ids


@pytest.mark.parametrize("name", ["gpt2-prose", "qwen-code", "neox-mixed", "student"])
def test_a_batch_writes_what_each_prompt_alone_does(name, tiny_zoo):
    writer, drawing = writer_of(tiny_zoo[name]), Drawing(max_new_tokens=6)
    ids = [writer.ids(prompt) for prompt in PROMPTS]
    assert len({len(row) for row in ids}) > 1  # some are padded
    together = writer.write(ids, drawing)
    assert together == [writer.write([row], drawing)[0] for row in ids]
    for row, written in zip(ids, together, strict=True):
        whole = writer.tokenizer.decode(
            by_hand(writer, row, 6), skip_special_tokens=True
        )
        assert whole.endswith(written.text)


def test_a_table_of_positions_counts_no_padding_and_ends_the_text(table):
    table.ends = []
    long = [5, 9, 7, 3] * 5  # 20 tokens leave room for 4
    short = [40, 41]
    drawing = Drawing(max_new_tokens=8)
    mixed = table.write([long, short, short[:1]], drawing)
    assert [written.stopped for written in mixed] == ["context", "length", "length"]
    assert table.room(20, drawing.max_new_tokens) == 4
    for row, steps, written in zip(
        (long, short, short[:1]), (4, 8, 8), mixed, strict=True
    ):
        new = by_hand(table, row, steps)[len(row) :]
        text = table.tokenizer.decode([*row, *new], skip_special_tokens=True)
        assert text.endswith(written.text)
    with pytest.raises(
        InputError, match=r"has 24 tokens, but opt reads 24, .* most 23"
    ):
        table.ids("x" * 24)
    assert len(table.ids("x" * 23)) == 23


def test_seeds_draw_the_same_again_and_leave_the_random_state_alone(writer):
    ids = [writer.ids(prompt) for prompt in PROMPTS]

    def drawn(seed, temperature=1.0, top_p=1.0):
        drawing = Drawing(
            max_new_tokens=12, temperature=temperature, top_p=top_p, seed=seed
        )
        return writer.write(ids, drawing)

    before = torch.get_rng_state()
    first = drawn(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert drawn(1) == first != drawn(2)
    # of so small a share only the likeliest token remains
    assert drawn(3, top_p=1e-6) == writer.write(ids, Drawing(max_new_tokens=12))


def test_writing_stops_at_the_end_of_text(writer):
    model = copy.deepcopy(writer.model)
    ids = writer.ids("one two")
    second = by_hand(writer, ids, 2)[-1]
    model.generation_config.eos_token_id = [second]
    stopping = Writer(model, writer.tokenizer, "stopping")
    assert second in stopping.ends
    (written,) = stopping.write([ids], Drawing(max_new_tokens=9))
    assert written.stopped == "end"
    first = by_hand(stopping, ids, 9)[len(ids) : -1]
    assert written.text == writer.tokenizer.decode(first)


def test_what_cannot_be_written_from_is_refused(writer):
    with pytest.raises(InputError, match="the prompt is empty"):
        writer.ids("")
    with pytest.raises(InputError, match="has no chat template; leave --chat out"):
        writer.chat_ids([{"role": "user", "content": "a"}])
    for wrong in (-1, float("nan"), float("inf")):
        told = f"temperature is {wrong}; give 0 for the likeliest"
        with pytest.raises(InputError, match=told):
            Drawing(temperature=wrong)
    with pytest.raises(InputError, match=r"top_p is 0\.5 while temperature is 0"):
        Drawing(top_p=0.5)
    with pytest.raises(InputError, match="max_new_tokens is 0"):
        Drawing(max_new_tokens=0)


def test_what_marian_never_writes_is_kept_out():
    whole, names = model("marian"), tokenizer()
    bias, pad = whole.final_logits_bias, names.pad_token_id
    bias[:, pad], bias[:, names.eos_token_id] = 50, -50
    whole.generation_config.bad_words_ids = [[pad]]
    (new,) = Writer(whole, names, "m")._generated([[3, 4]], 3, {}, 0)
    assert len(new) == 3 and pad not in new
