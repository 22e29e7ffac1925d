"""Every documented name exists and takes what the documentation gives it."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    path
    for path in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
    ]
    if path.exists()
]
PACKAGES = ("align", "teacher", "fuse", "student", "plugins", "experiments")

# The calls that keep their names and meanings from release to release.
FIXED = {
    "align": """
        build_char_align_matrix(student_tokens, teacher_tokens, text)
        apply_char_alignment(teacher_kv, A)
        align_sequence_lengths(teacher_kv, student_kv, align_matrix=A)
        build_multi_teacher_layer_map([24, 32], 12, strategy="ratio")
        interpolate_teacher_layers(teacher_kvs, layer_map, 12)
        MultiTeacherHeadDimAdapter([(768, 12), (1024, 16)], 512, 8)
        MultiTeacherHeadDimAdapter.forward(self, teacher_ks, teacher_vs)
        MultiTeacherRoPEScaler([(10000, 2048)], 2048, scaling_method="ntk")
        MultiTeacherRoPEScaler.scale_kv_pairs(self, ks, vs)
        visualize_layer_mapping(m, num_teacher_layers=32, num_student_layers=12)
        visualize_alignment(A, student_tokens, teacher_tokens)
    """,
    "teacher": """
        TeacherKVExtractor("gpt2", batch_size=4)
        TeacherKVExtractor.extract_kvs(self, texts)
        TeacherKVExtractor.save_kvs(self, kvs, path)
        compute_multi_teacher_prototypes(kvs_list, method="kmeans")
        compute_routing_weights(student_hidden, prototypes, temperature=1.0)
    """,
    "fuse": """
        fuse_kvs_fixed(kvs_list, weights=[0.5, 0.5])
        fuse_kvs_similarity(kvs_list, query, prototypes, temperature=1.0)
        LearnableRouter(hidden_dim=512, num_teachers=3, router_type="mlp")
        fuse_kvs_learnable(kvs_list, query, router)
        EntropyRegularizer(target="specialized", strength=0.01)
        EntropyRegularizer.compute_loss(self, weights)
    """,
}
CALLS = [
    (package, line.strip())
    for package, lines in FIXED.items()
    for line in lines.strip().splitlines()
]
FILES = """
    align/tokenizer_align.py align/time_align.py align/layer_map.py
    align/head_dim_adapter.py align/rope_scale.py teacher/extract_teacher_kv.py
    teacher/router_proto.py fuse/fuse_kv.py experiments/train_multi_teacher_kv.py
    scripts/run_multi_teacher.sh scripts/test_multi_teacher.py
"""
DEFAULTS = {
    "student.config.LossConfig": {
        "lambda_k": 1.0,
        "lambda_v": 1.0,
        "beta_cos": 0.1,
        "gamma_kl": 0.01,
        "delta_ce": 1.0,
    },
    "fuse.config.FuseConfig": {
        "entropy_reg_strength": 0.01,
        "entropy_target": "specialized",
    },
}
OPTIONS = {
    "experiments.config.sections.AlignConfig": (
        "layer_mapping_strategy",
        "rope_scaling_method",
    ),
    "student.config.TrainConfig": (
        "gradient_checkpointing",
        "bf16",
        "fp16",
        "warmup_steps",
    ),
}


def find(dotted: str) -> object:
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


def bind(call: ast.Call, target: object, where: str) -> None:
    """Check a call's arguments against a signature, without running it."""
    if any(isinstance(word, ast.Starred) for word in call.args):
        return
    keywords = [word.arg for word in call.keywords]
    if None in keywords:
        return
    try:
        inspect.signature(target).bind(*call.args, **dict.fromkeys(keywords))
    except TypeError as error:
        pytest.fail(f"{where}: {ast.unparse(call)}: {error}")


@pytest.mark.parametrize(("package", "line"), CALLS, ids=[line for _, line in CALLS])
def test_fixed_calls_bind(package, line):
    call = ast.parse(line, mode="eval").body
    target = importlib.import_module(package)
    for name in ast.unparse(call.func).split("."):
        assert hasattr(target, name), f"{package} has no {ast.unparse(call.func)}"
        target = getattr(target, name)
    bind(call, target, package)


@pytest.mark.parametrize("path", FILES.split())
def test_fixed_files_exist(path):
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("section", DEFAULTS)
def test_documented_defaults_hold(section):
    config = find(section)()
    assert {name: getattr(config, name) for name in DEFAULTS[section]} == DEFAULTS[
        section
    ]


@pytest.mark.parametrize("section", OPTIONS)
def test_documented_options_exist(section):
    config = find(section)()
    assert [name for name in OPTIONS[section] if not hasattr(config, name)] == []


def blocks(language: str) -> list[tuple[str, str]]:
    """(page:line, code) of every fenced block of a language."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.M | re.S):
            line = text[: match.start()].count("\n") + 2
            found.append((f"{page.relative_to(ROOT)}:{line}", match[1]))
    return found


def ours(tree: ast.AST) -> dict[str, object]:
    """What a block imports from the six packages, by the name it uses."""
    names: dict[str, object] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module.split(".")[0] in PACKAGES:
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"
                    names[alias.asname or alias.name] = getattr(module, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in PACKAGES:
                    importlib.import_module(alias.name)
    return names


def test_python_blocks_use_what_exists():
    for where, code in blocks("python"):
        try:
            tree = ast.parse(code)
        except SyntaxError as error:
            pytest.fail(f"{where}: {error}")
        names = ours(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                target = names.get(node.func.id)
                if callable(target):
                    bind(node, target, where)


def commands() -> list[tuple[str, list[str]]]:
    """(page:line, words) of every command line in shell blocks."""
    found = []
    for language in ("bash", "sh", "console", "shell"):
        for where, code in blocks(language):
            for line in code.replace("\\\n", " ").splitlines():
                words = line.removeprefix("$ ").split("#")[0].split()
                if words:
                    found.append((where, words))
    return found


def test_commands_in_the_pages_exist():
    from experiments.cli import main

    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    known: dict[str, bool] = {}
    for where, words in commands():
        if words[0] == "make":
            for word in words[1:]:
                if not re.match(r"[A-Z_]+=|-", word) and word.isalpha():
                    assert word in targets, f"{where}: no target {word!r}"
                if "=" in word:
                    break
        if words[0] == "mtkd" and len(words) > 1 and words[1].isalpha():
            if words[1] not in known:
                known[words[1]] = _has_help(main, words[1])
            assert known[words[1]], f"{where}: no command 'mtkd {words[1]}'"


def _has_help(main, command: str) -> bool:
    """Whether `mtkd COMMAND --help` is there."""
    try:
        return main([command, "--help"]) in (0, None)
    except SystemExit as done:
        return done.code in (0, None)


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if "://" not in target and not target.startswith("mailto:"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
