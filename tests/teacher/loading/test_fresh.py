import pytest
import torch

from teacher.loading.fresh import fresh_model
from teacher.loading.models import checkpoint_dtypes, load_model


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(one, other):
    return all(one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_seed_decides_every_weight_and_nothing_else_does(make_model, name):
    config = make_model(name).config
    first = weights(fresh_model(config, 3, torch.float32, False))
    torch.manual_seed(99)
    torch.rand(5)
    assert same(first, weights(fresh_model(config, 3, torch.float32, False)))
    other = weights(fresh_model(config, 4, torch.float32, False))
    drawn = [key for key in first if first[key].std() > 0]
    assert drawn
    assert not any(first[key].equal(other[key]) for key in drawn)


def test_matrices_are_as_wide_as_the_config_says(make_model):
    model = make_model("llama", initializer_range=0.3)
    drawn = fresh_model(model.config, 0, torch.float32, False)
    matrix = drawn.model.layers[0].mlp.up_proj.weight
    assert matrix.std().item() == pytest.approx(0.3, rel=0.1)


def test_drawing_leaves_the_process_generator_where_it_was(make_model):
    config = make_model("llama").config
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    fresh_model(config, 5, torch.float32, False)
    assert torch.rand(3).equal(expected)


@pytest.fixture
def folder(make_model, tmp_path):
    """A config and a tokenizer, without weights."""
    tokenizers = pytest.importorskip("tokenizers")
    from transformers import PreTrainedTokenizerFast

    make_model("llama").config.save_pretrained(tmp_path)
    words = {"<eos>": 0, "[UNK]": 1, "a": 2}
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<eos>", unk_token="[UNK]"
    ).save_pretrained(tmp_path)
    return tmp_path


def test_a_fresh_student_keeps_the_settings_of_generating(folder):
    from transformers import GenerationConfig

    own = GenerationConfig(eos_token_id=[2, 0], do_sample=True, top_p=0.5)
    own.save_pretrained(folder)
    kept = load_model(folder, role="student", init_seed=1).model.generation_config
    assert (kept.eos_token_id, kept.do_sample, kept.top_p) == ([2, 0], True, 0.5)


def test_the_types_of_a_checkpoints_weights_are_read_off_its_files(
    make_model, tmp_path
):
    model = make_model("llama")
    model.save_pretrained(tmp_path)
    assert set(checkpoint_dtypes(str(tmp_path)).values()) == {torch.float32}
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    found = checkpoint_dtypes(str(tmp_path))
    assert found.keys() == model.state_dict().keys()
    assert set(found.values()) == {torch.bfloat16}
    (tmp_path / "model.safetensors").unlink()
    assert checkpoint_dtypes(str(tmp_path), fresh=True) == found


def test_a_config_and_a_tokenizer_are_enough_for_a_fresh_student(folder):
    loaded = load_model(folder, role="student", init_seed=0)
    assert loaded.kind == "decoder"
    assert loaded.model.training
    assert all(p.requires_grad for p in loaded.model.parameters())
    with pytest.raises(
        FileNotFoundError, match=r"no weights \(no \.safetensors file\)"
    ):
        load_model(folder, role="student")


def test_a_teacher_is_never_drawn_anew(folder):
    with pytest.raises(ValueError, match="only weights of a student that predicts"):
        load_model(folder, init_seed=0)
