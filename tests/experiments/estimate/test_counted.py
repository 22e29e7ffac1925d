"""A plan of memory by sizes alone, against counts by hand and what a model keeps."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from experiments.cli import main
from experiments.config.tree import load_config
from experiments.estimate.counted import memory_plan
from experiments.estimate.traced import How, passes, skeleton
from student.config import LoraConfig
from student.transforms import FakeQuant, LowRank
from student.unreached import freeze_unreached
from tests.composites import gemma3
from tests.experiments.assemble.test_outputs import Probe, with_objective
from tests.experiments.recipes.planned import plan_of
from tests.experiments.small_runs import said, small_config

SMALL = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=5,
    num_attention_heads=4,
    num_key_value_heads=2,
    # Fake tensors take a longer way through grouped queries than sdpa's kernel.
    attn_implementation="eager",
)
TRAINED = How(dtype=torch.float32, trained=True)


def sizes(lines, of):
    return {line.what: line.size for line in lines if line.of == of}


@pytest.mark.slow
def test_the_plan_of_one_card_is_what_its_sizes_say():
    """Qwen2.5: hidden 3584 and 1536, 28 layers, by hand."""
    lines = plan_of("one_card")
    own, teacher = sizes(lines, "student"), sizes(lines, "qwen7b")
    layer = 2 * 1536 * 1536 + 2 * 1536 * 256 + 3 * 1536 * 8960
    expected = 28 * layer * (1 / 2 + 1 / 64 + 4 / (64 * 256))
    assert own["linear layers, int4"] == expected
    head, norms, biases = 151_936 * 1536, 57 * 1536, 28 * (1536 + 2 * 256)
    assert own["embeddings, head and norms, bfloat16"] == 2 * (head + norms + biases)
    pairs = 2 * (1536 + 1536) + 2 * (1536 + 256) + 3 * (1536 + 8960)
    updates = 28 * 16 * pairs
    assert own["low-rank updates, float32"] == 4 * updates
    bridge = own["bridge and router, float32"] // 4
    # A map from each teacher's keys and values to the student's side of every layer.
    assert bridge > 28 * 2 * 256 * 512
    assert own["gradients, float32"] == 4 * (updates + bridge)
    moments = own["optimiser, adamw_8bit"]
    assert moments == pytest.approx(own["gradients, float32"] * (0.5 + 2 / 256))
    layer = 2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18_944
    rows = 2 * 3584 + 2 * 512 + 2 * 18_944 + 3584
    assert teacher["linear layers, int8"] == 28 * (layer + 4 * rows)
    tokens = 4 * 2048
    kept = 2 * tokens * 28 * 2 * 512 * 2  # two batches of bfloat16
    assert teacher["keys and values, 2 batches"] == kept
    assert sum(line.size for line in lines) < 22 * 2**30


def rounding(model):
    """Learned scales for 8 inputs each, and directions of most of the energy."""
    made = FakeQuant(bits=3, group=8, scales="learned"), LowRank(targets=["q_proj"])
    for transform in made:
        transform.attach(model)
        transform.at(1.0, 0)


@pytest.mark.parametrize(
    ("checkpointing", "transformed"),
    [
        (False, None),
        pytest.param(True, None, marks=pytest.mark.slow),
        pytest.param(False, rounding, marks=pytest.mark.slow),
    ],
)
def test_what_is_traced_is_what_a_forward_keeps(checkpointing, transformed):
    how = replace(TRAINED, checkpointing=checkpointing, transformed=transformed)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(SMALL).train()
    if transformed is not None:
        transformed(model)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    held = [*model.parameters(), *model.buffers()]
    weights = {p.untyped_storage().data_ptr() for p in held}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.zeros((3, 32), dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        last = model.base_model(ids, use_cache=False)[0]
    found = passes(SMALL, 3, 32, how)
    if transformed is not None:  # a layer: 32 x (32 + 2 x 16 + 32) and 3 x 32 x 48
        assert found.learned == 5 * (32 * 96 + 3 * 32 * 48) // 8
        assert found.beside >= 4 * found.learned
    if checkpointing:
        inputs = 5 * 3 * 32 * 32 * 4  # a layer's input, for each
        assert inputs < found.kept < 2 * inputs
        assert found.backward > found.kept
    else:
        expected = sum(kept.values()) + last.nbytes
        assert found.kept == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
def test_without_gradients_nothing_is_kept_and_updates_keep_their_inputs():
    read = passes(SMALL, 3, 32, How(dtype=torch.float32, quantised=True))
    assert read.kept == read.backward == 0 < read.forward
    frozen = replace(TRAINED, quantised=True, lora=LoraConfig(rank=2))
    deep = replace(frozen, autocast=torch.bfloat16)
    wide, narrow = (passes(SMALL, 3, 32, how) for how in (frozen, deep))
    assert 0 < narrow.kept < wide.kept


@pytest.mark.slow
def test_a_plan_needs_neither_weights_nor_texts(tiny_zoo, tmp_path, capsys):
    folder = tmp_path / "sizes"
    folder.mkdir()
    (folder / "config.json").write_bytes(
        (tiny_zoo["student"] / "config.json").read_bytes()
    )
    words = ["estimate", str(small_config(tmp_path, tiny_zoo)), "--plan"]
    words += ["data.train=[nowhere.txt]", f"student.model={folder}"]
    assert main([*words, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["in_all"] == sum(line["size"] for line in plan["lines"])
    assert {"student", "gpt2-prose", "qwen-code"} <= {x["of"] for x in plan["lines"]}
    assert plan["arms"] == ["main"]
    assert (
        main([*words, "baselines.ce_only=true", "baselines.single_teachers=all"]) == 0
    )
    shown = capsys.readouterr().out
    assert "not counted: the CUDA context" in shown
    assert "main, ce_only, single:gpt2-prose, single:qwen-code" in shown
    halved = [*words, "--json", "student.lora.rank=4", "student.quantise=int4"]
    assert main(halved) == 0
    assert json.loads(capsys.readouterr().out)["in_all"] < plan["in_all"]
    code, shown = said([*words, "student.model=some/model-nobody-has"], capsys)
    assert code == 2 and "was not found" in shown


def test_zero_divides_what_it_says(tiny_zoo, tmp_path):
    config = str(small_config(tmp_path, tiny_zoo))
    whole, divided = (
        sizes(
            memory_plan(
                load_config(config, ["train.engine=deepspeed", "train.zero_stage=2"]),
                processes,
            ),
            "student",
        )
        for processes in (1, 4)
    )
    for what in ("gradients, float32", "optimiser, adamw"):
        assert divided[what] == whole[what] // 4
    assert divided["weights, float32"] == whole["weights, float32"]


def test_of_a_composite_only_the_text_model_is_trained():
    model = gemma3()
    expected = set(dict(model.named_parameters())) - set(freeze_unreached(model))
    planned = skeleton(model.config, How(dtype=torch.float32, trained=True))
    assert {n for n, p in planned.named_parameters() if p.requires_grad} == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("need", "of", "what"),
    [
        ("outputs", "qwen-code", "last hidden states, 2 batches"),
        ("attention", "both", "attention rows"),
    ],
)
def test_what_a_strangers_objective_asks_for_is_planned(
    tiny_zoo, tmp_path, need, of, what
):
    """As much as built-in terms that ask for the same."""
    config = str(small_config(tmp_path, tiny_zoo))
    alone = ["loss.gamma_kl=0", "output.kd=0"]
    same = {"outputs": ["output.likelihood=1"], "attention": ["loss.gamma_kl=1"]}
    registry = with_objective(lambda: Probe({need}))

    def planned(*words):
        return sizes(
            memory_plan(load_config(config, [*alone, *words]), 1, registry), of
        )

    assert what not in planned()
    expected = planned(*same[need])[what]
    assert planned("loss.extra.probe=0.1")[what] == expected > 0
