"""Folders that are not what they seem: one name, one model, or a refusal."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from align.foreign.inside import OutsideError
from teacher import KVCapture, load_model
from teacher.loading.model_config import read_config

pytestmark = pytest.mark.edges

ROLES = ("teacher", "student")


@pytest.fixture
def folder(tiny_zoo, tmp_path):
    return shutil.copytree(tiny_zoo["student"], tmp_path / "model")


def plain(path):
    return AutoModelForCausalLM.from_pretrained(path)


def adapted(path):
    """The model there with an adapter whose updates do something."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"])
    model = peft.get_peft_model(plain(path), settings)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(torch.arange(9)[None]).logits


@pytest.mark.parametrize("with_peft", [True, False])
@pytest.mark.parametrize("role", ROLES)
def test_an_adapter_beside_weights_is_refused_with_or_without_peft(
    folder, role, with_peft, monkeypatch
):
    """With peft transformers put it on the weights, without it passed it by."""
    adapted(folder).save_pretrained(folder)
    if not with_peft:
        monkeypatch.setitem(sys.modules, "peft", None)
    for load in (
        lambda: load_model(folder, role=role),
        lambda: read_config(str(folder)),
    ):
        with pytest.raises(ValueError, match="beside whole weights") as caught:
            load()
        for part in (str(folder), "remove adapter_config.json", "merge_and_unload()"):
            assert part in str(caught.value)


def test_what_the_refusals_advise_gives_the_model_that_was_meant(
    folder, tiny_zoo, tmp_path
):
    from peft import AutoPeftModelForCausalLM, PeftModel

    meant = adapted(folder)
    meant.save_pretrained(tmp_path / "adapter")
    expected = logits(meant)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    with pytest.raises(ValueError, match=rf"adapter for '{folder}', not a model"):
        load_model(tmp_path / "adapter")
    merged = AutoPeftModelForCausalLM.from_pretrained(
        str(tmp_path / "adapter")
    ).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(
        logits(load_model(tmp_path / "merged").model), expected, rtol=1e-4, atol=1e-4
    )

    beside = tmp_path / "beside"  # merged weights, and the adapter left over
    shutil.copytree(tmp_path / "merged", beside)
    meant.save_pretrained(beside)
    with pytest.raises(ValueError, match="beside whole weights"):
        load_model(beside)
    (beside / "adapter_config.json").unlink()
    (beside / "adapter_model.safetensors").unlink()
    assert torch.equal(
        logits(load_model(beside).model),
        logits(load_model(tmp_path / "merged").model),
    )

    again = PeftModel.from_pretrained(plain(folder), tmp_path / "adapter")
    torch.testing.assert_close(
        logits(again.merge_and_unload()), expected, rtol=1e-4, atol=1e-4
    )


def test_shards_that_are_not_there_are_named(folder):
    model = plain(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="60KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    kept = shards[1].read_bytes()
    shards[1].unlink()
    message = rf"lacks {shards[1].name}, 1 of the {len(shards)} files .*copy the rest"
    with pytest.raises(FileNotFoundError, match=message):
        load_model(folder)
    shards[1].write_bytes(kept)
    load_model(folder)  # as the message says
    index = folder / "model.safetensors.index.json"
    index.rename(folder / "elsewhere")
    message = rf"holds {len(shards)} of {len(shards)} files .* but no {index.name}"
    with pytest.raises(FileNotFoundError, match=message):
        load_model(folder)
    index.write_text("{")
    with pytest.raises(FileNotFoundError, match=f"{index.name} is damaged"):
        load_model(folder)


@pytest.mark.parametrize(
    ("prefix", "advice"),
    [
        ("_orig_mod.", "torch.compile; save the model inside it, model._orig_mod"),
        ("base_model.model.", r"peft; call merge_and_unload\(\) before saving"),
        ("module.", "a parallel launch; save the model inside it, model.module"),
    ],
)
def test_weights_saved_with_a_wrapper_name_it(folder, prefix, advice):
    file = folder / "model.safetensors"
    weights = {prefix + name: tensor for name, tensor in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"begin with '{prefix}'.*{advice}"):
        load_model(folder)


def test_custom_code_is_not_run_and_the_way_out_is_said(folder):
    there = folder / "config.json"
    own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    settings = json.loads(there.read_text()) | {"auto_map": own, "model_type": "own"}
    there.write_text(json.dumps(settings))
    (folder / "own.py").write_text("raise SystemExit('ran')")
    for load in (load_model, read_config):
        with pytest.raises(ValueError, match=r"not run: .*trust_remote_code=True"):
            load(str(folder))


@pytest.mark.parametrize("role", ROLES)
def test_outputs_come_by_name_whatever_the_config_asks_for(folder, role):
    there = folder / "config.json"
    settings = json.loads(there.read_text()) | {"return_dict": False}
    there.write_text(json.dumps(settings))
    capture = KVCapture(load_model(folder, role=role).model)
    ids = torch.arange(5)[None]
    seen = capture(ids, ids >= 0, logits=True, hidden=True)
    assert seen.logits.shape[:2] == seen.hidden.shape[:2] == (1, 5)


def test_quantised_weights_teach_and_are_no_student(folder):
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(load_in_4bit=True)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)
    assert load_model(folder).kind == "decoder"
    message = (
        r"quantised already \(bitsandbytes.*student.quantise=int4 and student.lora"
    )
    with pytest.raises(ValueError, match=message):
        load_model(folder, role="student")
    fresh = load_model(folder, role="student", init_seed=0).model
    assert not hasattr(fresh.config, "quantization_config")
    assert {p.dtype for p in fresh.parameters()} == {torch.float32}


def test_an_index_that_lists_weights_outside_the_folder_is_refused(folder):
    weights = folder / "model.safetensors"
    weights.rename(folder.parent / "weights.safetensors")
    names = dict.fromkeys(
        load_file(folder.parent / "weights.safetensors"), "../weights.safetensors"
    )
    index = folder / f"{weights.name}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    with pytest.raises(OutsideError, match=r"names the file '\.\./weights"):
        load_model(folder, role="teacher")


def test_weights_behind_links_are_read_as_in_the_cache_of_the_hub(folder):
    weights = folder / "model.safetensors"
    weights.rename(folder.parent / "blob")
    weights.symlink_to("../blob")
    names = dict.fromkeys(load_file(weights), weights.name)
    index = folder / f"{weights.name}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    assert load_model(folder, role="teacher").kind == "decoder"


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("model.safetensors", "model.safetensors and round in a circle"),
        ("../gone", r"\.\./gone \(No such file or directory\)"),
    ],
)
def test_a_link_to_weights_that_leads_nowhere_is_told(folder, role, target, told):
    weights = folder / "model.safetensors"
    weights.unlink()
    weights.symlink_to(target)
    told = rf"{weights} is a link that leads to {told}; put the file itself there"
    with pytest.raises(FileNotFoundError, match=told):
        load_model(folder, role=role)


def test_a_folder_without_weights_of_any_kind_says_no_word_of_pickled_ones(folder):
    (folder / "model.safetensors").unlink()
    told = rf"{folder} holds no weights \(no \.safetensors file\); download or copy"
    with pytest.raises(FileNotFoundError, match=told):
        load_model(folder)


@pytest.mark.parametrize("name", ["e\u0301", "深度", "a name"])
def test_a_name_that_no_hub_can_have_is_not_found(name):
    with pytest.raises(FileNotFoundError, match="was not found: looked for the folder"):
        read_config(name)
