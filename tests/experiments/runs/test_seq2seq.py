"""An encoder-decoder student in a whole run, against transformers alone."""

import json

import pytest
import torch
import yaml
from torch.nn import functional
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from align.text.prompted import Prompted
from experiments.cli import main
from experiments.record.history import read_json
from tests.experiments.small_runs import said
from tests.seq2seq import inputs, save, tokenizer

LEARNED = {
    "A man walks.": "Ein Mann geht.",
    "The dog sleeps.": "Der Hund schläft.",
    "Two women talk to a child.": "Zwei Frauen reden mit einem Kind.",
    "The old house.": "Das alte Haus.",
}
HELD_OUT = {"A dog walks.": "Ein Hund geht.", "Two men.": "Zwei Männer."}


def config(folder, **changes):
    """Three steps, each over all four pairs, from a wider teacher with more layers."""
    rows = {"train.tsv": LEARNED, "val.tsv": HELD_OUT}
    for name, pairs in rows.items():
        table = "".join(f"{a}\t{b}\n" for a, b in pairs.items())
        (folder / name).write_text(table)
    pairs = {
        "file": str(folder / "train.tsv"),
        "eval_file": str(folder / "val.tsv"),
        "prompt": "{source}",
    }
    settings = {
        "run": {"name": "run", "dir": str(folder)},
        "student": {"model": str(save(folder / "s"))},
        "teachers": {"t": {"model": str(save(folder / "t", layers=3, width=24))}},
        "data": {"train": [], "pairs": {"en-de": pairs}, "max_length": 96},
        "train": {
            "steps": 3,
            "batch_size": 4,
            "calibration_samples": 4,
            "log_every": 1,
            "engine": "torch",
            "learning_rate": 0.01,
            "warmup_steps": 0,
        },
        "phases": ["single"],
        "loss": {"gamma_kl": 0},
        "output": {"kd": 1},
        "eval": {"use": ["bits_per_char", {"use": "generation", "new_tokens": 8}]},
        "baselines": {"ce_only": False, "single_teachers": "none"},
        "samples": {"prompts": 1, "max_new_tokens": 4},
        **changes,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seq2seq")
    assert main(["train", str(config(folder))]) == 0
    return folder / "run"


def lines(run):
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row["kind"] == "train"]


def without_text():
    """Tokens that hold no character: the end of a text, a bare marker before a word."""
    names = tokenizer()
    return torch.tensor([names.eos_token_id, names.convert_tokens_to_ids("▁")])


@pytest.mark.slow
def test_ce_and_kd_of_the_first_step_are_what_transformers_computes(run):
    folder = run.parent
    student, teacher = (
        AutoModelForSeq2SeqLM.from_pretrained(folder / name).eval()
        for name in ("s", "t")
    )
    given = inputs([Prompted(source, " " + t) for source, t in LEARNED.items()])
    with torch.no_grad():
        reference, taught = student(**given), teacher(**given)
    kept = (given["labels"] >= 0) & ~torch.isin(given["labels"], without_text())
    kd = functional.kl_div(
        reference.logits[kept].log_softmax(-1),
        taught.logits[kept].log_softmax(-1),
        log_target=True,
        reduction="batchmean",
    )
    terms = lines(run)[0]["terms"]
    assert terms["ce"] == pytest.approx(float(reference.loss), rel=1e-5)
    assert terms["kd"] == pytest.approx(float(kd), rel=1e-4)
    assert terms["kv_k"] > 0 and terms["kv_v"] > 0


@pytest.mark.slow
def test_what_is_learned_is_exported_measured_and_written(run, capsys):
    student = AutoModelForSeq2SeqLM.from_pretrained(run / "student").eval()
    names = AutoTokenizer.from_pretrained(run / "student")
    texts = [Prompted(source, " " + target) for source, target in HELD_OUT.items()]
    given = inputs(texts)
    with torch.no_grad():
        logits = student(**given).logits
    nll = functional.cross_entropy(
        logits.transpose(1, 2), given["labels"], reduction="none"
    )
    nll[torch.isin(given["labels"], without_text())] = 0
    chars = sum(len(target) for target in HELD_OUT.values())
    bits = float(nll.double().sum()) / chars / torch.log(torch.tensor(2.0)).item()
    measured = read_json(run / "summary.json")["phases"][-1]["bpc"]["en-de"]
    assert measured == pytest.approx(bits, rel=1e-5)

    source = next(iter(HELD_OUT))
    read = names(source, return_tensors="pt")
    new = student.generate(**read, max_new_tokens=6, do_sample=False)[0]
    words = names.decode(new, skip_special_tokens=True)
    capsys.readouterr()
    words_of = ["generate", str(run), "--prompt", source, "--max-new-tokens", "6"]
    assert main(words_of) == 0
    assert words in " ".join(capsys.readouterr().out.split()) or not words
    assert main(["eval", str(run), "--use", "generation", "speed"]) == 0
    shown = capsys.readouterr()
    assert "encoder-decoder writes another one" in shown.out + shown.err


@pytest.mark.slow
def test_a_run_that_was_paused_goes_on_bit_for_bit(run, tmp_path):
    path = str(config(tmp_path))
    assert main(["train", path, "--pause-after", "2"]) == 75
    assert main(["train", path]) == 0
    resumed = tmp_path / "run" / "student" / "model.safetensors"
    assert resumed.read_bytes() == (run / "student" / "model.safetensors").read_bytes()


WAYS = (
    "student.lora.rank=4",
    "student.quantise=int8",
    "fuse.space=z",
    "loss.select={sure: {use: uncertain, percentile: 50, keep: below, "
    "on: [kv, outputs]}, rho: {use: excess_loss, share: 0.5, on: [next_token]}}",
    "train.steps=2",
)


@pytest.mark.slow
def test_updates_a_latent_and_selectors_go_on_bit_for_bit(tmp_path):
    """Low rank on rounded weights, a shared latent, and selected places at once."""
    for name in ("whole", "paused"):
        (tmp_path / name).mkdir()
    whole, paused = (str(config(tmp_path / name)) for name in ("whole", "paused"))
    assert main(["train", whole, *WAYS]) == 0
    assert main(["train", paused, *WAYS, "--pause-after", "1"]) == 75
    assert main(["train", paused, *WAYS]) == 0
    students = [tmp_path / n / "run" / "student" for n in ("whole", "paused")]
    files = [(s / "model.safetensors").read_bytes() for s in students]
    assert files[0] == files[1]
    begun = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "whole" / "s")
    student = AutoModelForSeq2SeqLM.from_pretrained(students[0])
    assert not torch.equal(
        begun.decoder.block[0].layer[1].EncDecAttention.q.weight,
        student.decoder.block[0].layer[1].EncDecAttention.q.weight,
    )
    adapter = read_json(students[0] / "adapter" / "adapter_config.json")
    assert adapter["task_type"] == "SEQ_2_SEQ_LM"


def test_stores_are_refused_before_anything_is_loaded(settings, capsys):
    code, message = said(["extract", str(settings)], capsys)
    assert code == 2 and "is an encoder-decoder, and stores hold" in message


REFUSED = {
    "data.train=[zoo]": "data.train gives texts of one part",
    "student.trained=embeddings": "student.trained=embeddings is of decoders",
    "store.read=true": "store.read takes teachers from stores",
    "data.written.by=student": "data.written has texts go on",
    "loss.gamma_kl=0.01": "loss.gamma_kl of phase.single is to be 0",
    "loss.relation_k=1": "loss.relation_k of phase.single is to be 0",
    "align.position_means=remove": "phase.single.align.position_means=remove",
    "loss.terms={h: {use: match, site: hidden}}": "loss.terms.h.weight of",
    "loss.terms={g: {use: match, site: keys, distance: gram}}": "phase.single.loss."
    "terms.g: distance of keys compares tokens with each other",
    "loss.terms={v: {use: match, site: values}}": "phase.single.loss.terms.v: distance",
    "loss.terms={m: {use: mixup}}": "phase.single.loss.terms.m: mixup",
    "phase.single.loss.outcome_every=2": "phase.single.loss.outcome_every is 2",
    "phase.single.transform={q: {use: fake_quant}}": "phase.single.transform is of",
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return config(tmp_path_factory.mktemp("refused"))


@pytest.mark.parametrize("change", REFUSED)
def test_what_cannot_be_had_is_refused_by_its_setting(change, settings, capsys):
    """Before any weight is loaded, and before any text is read."""
    (settings.parent / "train.tsv").unlink(missing_ok=True)
    (settings.parent / "s" / "model.safetensors").unlink(missing_ok=True)
    code, message = said(["train", str(settings), "--check", change], capsys)
    assert code == 2
    assert "is an encoder-decoder: " + REFUSED[change] in message
