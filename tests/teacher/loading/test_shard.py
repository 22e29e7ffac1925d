"""Teachers split over processes; what these do is at the end."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from teacher import KVCapture
from teacher.loading.quantise import quantise
from teacher.loading.shard import blocks, is_sharded, shard
from tests.teacher.loading.test_quantise import gpt2, qwen, t5

CPU = torch.device("cpu")


def test_one_process_has_nothing_to_share():
    model = qwen().requires_grad_(False)
    assert shard(model, CPU) == 1
    assert not is_sharded(model)


def test_blocks_are_the_outermost_of_those_that_the_model_names():
    assert [type(b).__name__ for b in blocks(gpt2())] == ["GPT2Block"] * 2
    model = t5()
    inner = type(model.encoder.block[0].layer[0]).__name__
    model._no_split_modules = {"T5Block", inner}
    assert [type(b).__name__ for b in blocks(model)] == ["T5Block"] * 4


def test_what_cannot_be_split_is_refused(monkeypatch):
    monkeypatch.setattr("teacher.loading.shard._processes", lambda: 2)
    model = qwen()
    with pytest.raises(ValueError, match="not frozen"):
        shard(model, CPU)
    model._no_split_modules = None
    with pytest.raises(ValueError, match=r"does not say which blocks.*shard=false"):
        shard(model.requires_grad_(False), CPU)


@pytest.mark.slow
def test_two_processes_give_the_whole_model_s_keys_and_values_bit_for_bit(
    warm, tmp_path
):
    started = [
        warm.start(
            f"{__name__}:main",
            *(str(tmp_path / f"{rank}.json"), str(rank)),
            log=tmp_path / f"{rank}.err",
            environ={"GLOO_SOCKET_IFNAME": "lo"},
        )
        for rank in range(2)
    ]
    try:
        codes = [process.wait(200) for process in started]
    finally:
        for process in started:
            process.kill()
    assert codes == [0, 0], (tmp_path / "0.err").read_text()[-3000:]
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["equal"] == [True] * 9
        assert max(found["held"]) < 0.6  # of the blocks, half and some padding


def compare(build, kind, rank):
    """Keys and values before and after, and the share of the blocks that is held."""
    model = build().requires_grad_(False)
    quantise(model, kind)
    # texts of another length on each process, read several times
    ids = torch.arange(2 * (9 + rank)).view(2, -1) % 60 + 1
    with torch.no_grad():
        whole = KVCapture(model)(ids, ids > 0).kv
        before = size(model)
        assert shard(model, CPU) == 2
        capture = KVCapture(model)
        for _ in range(3):
            parts = capture(ids, ids > 0, layers=[0, 1]).kv
    same = torch.equal(whole.k, parts.k) and torch.equal(whole.v, parts.v)
    return same, size(model) / before


def size(model: nn.Module) -> int:
    """Bytes of the blocks that lie on this process."""
    every = [p for block in blocks(model) for p in block.parameters()]
    held = [p.to_local() if hasattr(p, "to_local") else p for p in every]
    return sum(x.numel() * x.element_size() for x in held)


def main(words):
    """Be one of two processes.

    Args:
        words: a file beside which they meet, that takes what was found; the rank.
    """
    out, rank = Path(words[0]), int(words[1])
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{out.with_name('meeting')}",
        rank=rank,
        world_size=2,
    )
    kinds = ("none", "int8", "int4")
    found = [compare(b, k, rank) for b in (qwen, gpt2, t5) for k in kinds]
    said = {"equal": [same for same, _ in found], "held": [part for _, part in found]}
    out.write_text(json.dumps(said))
    torch.distributed.destroy_process_group()
