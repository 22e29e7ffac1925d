"""What learning rests on: the objective, the export, the measure."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from checks.table import check, close
from checks.tiny_zoo import TEXT, seen, zoo


@check("student.terms", "distances vanish at the target, and only there")
def _terms() -> str:
    from student.objective import Comparison, StepContext
    from student.terms import OBJECTIVES

    batch, got = seen("student", [TEXT], logits=True)
    k, v = got.kv.flat()
    weight = torch.ones(batch.mask.shape)
    pred = (k + 0.1).requires_grad_(), (v + 0.1).requires_grad_()
    values = {}
    for name in ("kv_k", "kv_v", "cosine", "ce"):
        term = OBJECTIVES[name]()
        far = Comparison("fused", *pred, k, v, weight)
        near = Comparison("fused", k, v, k, v, weight)
        values[name] = float(term(StepContext(batch, got.logits, [far])))
        if name != "ce":
            assert values[name] > 0
            close(term(StepContext(batch, got.logits, [near])), 0.0)
    logits, labels = got.logits[0, :-1], batch.ids[0, 1:]
    close(values["ce"], torch.nn.functional.cross_entropy(logits, labels))
    return f"{len(OBJECTIVES)} terms, next token {values['ce']:.2f} nats"


@check("student.checkpoint", "the student loads with plain transformers")
def _export() -> str:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from student.checkpoint import export_student

    tokenizer, capture = zoo("student")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student"
        export_student(capture.model, tokenizer, path)
        model = AutoModelForCausalLM.from_pretrained(path)
        again = AutoTokenizer.from_pretrained(path)
        ids = again([TEXT], return_tensors="pt").input_ids
        with torch.no_grad():
            close(model(ids).logits, capture.model(ids).logits, atol=1e-4)
        names = sorted(file.suffix for file in path.iterdir())
    assert ".safetensors" in names and ".bin" not in names
    return f"equal logits, {names.count('.safetensors')} safetensors file"


@check("student.evaluate", "256 equal choices cost 8 bits a token, over characters")
def _bits() -> str:
    from student.evaluate import bits_and_chars

    batch, _ = seen("student", [TEXT])
    small = replace(batch, ids=batch.ids % 256)
    bits, chars = bits_and_chars(torch.zeros(*batch.ids.shape, 256), small)
    close(bits[0], 8.0 * batch.has_text[0, 1:].sum())
    return f"{float(bits[0]):.0f} bits for {int(chars[0])} characters"
