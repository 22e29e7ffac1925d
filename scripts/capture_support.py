"""Write the table of architectures that capture is tested on into docs/teacher.md.

    python scripts/capture_support.py            # print it
    python scripts/capture_support.py --write    # put it into the page

Read from the tests themselves, without running them: who is built in
tests/teacher/conftest.py, and which tests of tests/teacher/capture take whom.
"""

from __future__ import annotations

import ast
import sys
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "teacher.md"
BUILT = ROOT / "tests" / "teacher" / "conftest.py"
TRIED = ROOT / "tests" / "teacher" / "capture"
TESTS = [TRIED / "test_kv_capture.py", TRIED / "test_capture_padding.py"]
BEGIN = "<!-- begin: python scripts/capture_support.py --write -->"
END = "<!-- end -->"

CHECKS = {
    "test_rerotated_content_keys_equal_the_library_cache": "cache",
    "test_decoder_and_cross_equal_the_library_cache": "cache",
    "test_content_keys_are_the_projection_before_rotation": "projection",
    "test_content_keys_of_latent_attention_are_both_parts_of_every_head": "projection",
    "test_keys_of_both_stacks_are_those_of_their_projections": "projection",
    "test_logits_are_those_of_the_plain_forward": "logits",
    "test_injecting_the_own_content_gives_the_own_logits": "injection",
    "test_checkpointing_changes_no_gradient_of_a_kv_loss": "checkpointing",
    "test_attention_rows_equal_the_head_mean_of_eager_attention": "attention",
    "test_rows_padded_on_the_right_equal_the_text_alone": "right padding",
    "test_rows_padded_on_the_left_equal_the_text_alone": "left padding",
}
"""A test that is parametrised by model, and the word for it in the table."""
APART = {
    "gpt_neox": {"test_content_keys_of_fused_partial_rotation": "projection"},
    "modernbert": {
        "test_content_keys_of_fused_projections_of_an_encoder": "projection"
    },
    "t5": {"test_attention_rows_include_t5_position_bias": "attention"},
}
"""Tests written for one model."""
KINDS = {"ENCODERS": "encoder", "SHARED": "encoder", "BOTH": "both"}
"""What models of a list of the tests are; decoders otherwise."""
REFUSED = "test_unsupported_models_are_refused_by_name"

PARTICULAR = {
    "gpt2": "learned positions",
    "opt": "learned positions with an offset",
    "llama": "rotary, grouped queries",
    "llama3": "llama3-scaled rotation",
    "yarn": "YaRN rotation with its attention factor",
    "linear": "linearly scaled rotation",
    "dynamic": "dynamic NTK, beyond its trained length",
    "longrope": "LongRoPE rotation, beyond its first length",
    "proportional": "rotation in proportion, some pairs still",
    "mistral": "sliding window shorter than the text",
    "mistral_wide": "sliding window longer than the text",
    "qwen2": "biases on q, k, v",
    "qwen3": "norm on keys before rotation",
    "gpt_neox": "half of each head rotated, fused q, k, v",
    "phi": "half of each head rotated",
    "gemma2": "sliding window every second layer, soft-capped scores",
    "gemma3": "two rotations in one model, norm on keys",
    "cohere": "interleaved rotation",
    "cohere2": "layers without rotation, sliding window",
    "smollm3": "layers without rotation",
    "glm": "interleaved rotation of half of each head",
    "olmo2": "norm on all heads' keys before rotation",
    "glm4": "interleaved rotation of half of each head",
    "deepseek_v3": "latent attention: rotated part behind, keys wider than values",
    "deepseek_v3_halves": "the same, rotated in halves",
    "qwen3_next": "linear attention in three layers of four, named and left out",
    "gemma3n": "layers that read others' KV, named and left out",
    "gpt_oss": "attention sinks, mixture of experts",
    "phi3": "fused q, k, v, fused gate and input",
    "bert": "learned positions, sees both sides",
    "roberta": "learned positions behind a padding row",
    "albert": "one layer's weights used by all",
    "distilbert": "learned positions, sees both sides",
    "modernbert": "rotary encoder, local attention, fused q, k, v",
    "t5": "relative positions; encoder, decoder and cross",
    "bart": "learned positions; encoder, decoder and cross",
}
"""What makes a model worth a test of its own."""


def table() -> str:
    """Compose the table and the line of those refused."""
    tests, kinds = _tests()
    built = _built()
    taken: dict[str, set[str]] = {name: set() for name in built}
    for test, word in CHECKS.items():
        for name in _parameters(*tests[test]):
            taken[name].add(word)
    for name, models in APART.items():
        for test, word in models.items():
            assert test in tests, test
            taken[name].add(word)
    rows = ["| model | class | kind | particular | checked |", "|---|---|---|---|---|"]
    order = list(dict.fromkeys(CHECKS.values()))
    for name, cls in built.items():
        kind = KINDS.get(_list_of(name, kinds), "decoder")
        words = ", ".join(sorted(taken[name], key=order.index))
        rows.append(f"| {name} | `{cls}` | {kind} | {PARTICULAR[name]} | {words} |")
    refused = ", ".join(f"`{cls}`" for cls in _classes(tests[REFUSED][0]))
    return "\n".join(rows) + f"\n\nRefused by name: {refused}."


def page_with(text: str) -> str:
    """The page with the table between its marks replaced."""
    page = PAGE.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin and end, f"{PAGE} lacks the marks of the table"
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


Lists = dict[str, list[str]]
"""Module-level constants that are plain data, as lists of names."""


def _tests() -> tuple[dict[str, tuple[ast.FunctionDef, Lists]], Lists]:
    """Every test with the lists of its file, and the lists of the first file."""
    tests: dict[str, tuple[ast.FunctionDef, Lists]] = {}
    every = []
    for path in TESTS:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        lists: Lists = {}
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                tests[node.name] = node, lists
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                with suppress(ValueError):  # not plain data
                    lists[node.targets[0].id] = list(ast.literal_eval(node.value))
        every.append(lists)
    return tests, every[0]


def _list_of(name: str, kinds: Lists) -> str:
    return next(kind for kind, names in kinds.items() if name in names)


def _built() -> dict[str, str]:
    """Name and class of every model the tests build, in their order."""
    for node in ast.parse(BUILT.read_text(encoding="utf-8")).body:
        named = isinstance(node, ast.AnnAssign) and ast.unparse(node.target)
        if named == "CONFIGS":
            entries = node.value
            assert isinstance(entries, ast.Dict)
            return {
                ast.literal_eval(key): ast.literal_eval(value.elts[0])
                for key, value in zip(entries.keys, entries.values, strict=True)
                if key is not None and isinstance(value, ast.Tuple)
            }
    raise AssertionError(f"{BUILT} has no CONFIGS")


def _parameters(test: ast.FunctionDef, lists: Lists) -> list[str]:
    """The names a test is parametrised by."""
    for mark in test.decorator_list:
        if isinstance(mark, ast.Call) and ast.literal_eval(mark.args[0]) == "name":
            allowed = {"__builtins__": {}, "sorted": sorted, **lists}
            expression = ast.Expression(mark.args[1])
            return list(eval(compile(expression, "<parameters>", "eval"), allowed))
    raise AssertionError(f"{test.name} is not parametrised by name")


def _classes(test: ast.FunctionDef) -> list[str]:
    called = [node.func for node in ast.walk(test) if isinstance(node, ast.Call)]
    names = [func.attr for func in called if isinstance(func, ast.Attribute)]
    return [name for name in dict.fromkeys(names) if name.endswith("ForCausalLM")]


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page_with(table()), encoding="utf-8")
    else:
        print(table())
