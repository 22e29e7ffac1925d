"""The table of many machines: what is counted, and that its page is up to date."""

import json

import pytest


def work(script, **other):
    given = {
        "tokens": 1000,
        "passes": 2,
        "student": 6e9,
        "teacher": 4e9,
        "parameters": 10**9,
        "stored": 500,
        "teacher_bytes": 8 * 10**9,
    }
    return script.Work(**given | other)


def machine(script, **other):
    given = {
        "tflops": 100.0,
        "share": 0.5,
        "memory": 1000.0,
        "link": 100.0,
        "network": 10.0,
        "store": 1.0,
        "gpus": 4,
    }
    return script.Machine(**given | other)


def test_parts_of_a_step_are_those_worked_out_by_hand(script):
    setting = script.Setting(name="", teacher="store", encoding=1)
    parts = script.parts(work(script), setting, 2, machine(script))
    assert parts == pytest.approx(
        {
            "student": 2000 * 6e9 / 50e12,
            "store": 500 * 2000 * 8 / 1e9,
            # 4 GB: 7/8 by 100 GB/s in the node; half of it over 4 cards of 10 GB/s
            "gradients": 2 * max(4 * 7 / 8 / 100, 4 / 2 / 4 / 10),
            "optimiser": 28e9 / 8 / 1000e9,
        }
    )
    live = script.Setting(name="", zero=3, teacher="sharded")
    parts = script.parts(work(script), live, 2, machine(script))
    assert parts["gradients"] == pytest.approx(3 * 2 * 0.05)
    assert parts["teacher's weights"] == pytest.approx(2 * 0.1)
    assert parts["teacher"] == pytest.approx(2000 * 4e9 / 50e12)


def test_teachers_on_half_the_ranks_run_beside_the_students(script):
    here = script.Setting(name="", teacher="ranks")
    live = script.parts(work(script), script.Setting(name=""), 2, machine(script))
    parts = script.parts(work(script), here, 2, machine(script))
    assert parts["student"] == live["student"]
    beside = max(live["teacher"] - live["student"], 0)
    assert parts["teacher"] == pytest.approx(beside)
    assert parts["answers"] == pytest.approx(work(script).stored * 2 * 2000 / 2e9)
    assert script.trained_on(here, 2, machine(script))[:2] == (4, 1)
    alone = script.trained_on(here, 1, machine(script))
    assert alone[0] == machine(script).gpus // 2 == alone[2].gpus


def test_one_node_sends_nothing_between_nodes(script):
    slow = machine(script, network=1e-9)
    assert script.gathered(8e9, 1, slow) == pytest.approx(8 * 3 / 4 / 100)


def test_operations_are_two_a_weight_and_token_and_six_with_the_backward(
    script, tiny_zoo
):
    """By hand for a Llama: its matrices, and attention's two products."""
    folder = tiny_zoo["student"]
    config = json.loads((folder / "config.json").read_text())
    tokens = 16
    forward, parameters, stored = script.counted(str(folder), tokens, False)
    width, layers = config["hidden_size"], config["num_hidden_layers"]
    heads, size = config["num_attention_heads"], config["head_dim"]
    kv = config["num_key_value_heads"] * size
    inner = config["intermediate_size"]
    matrices = layers * width * (2 * heads * size + 2 * kv + 3 * inner)
    matrices += width * config["vocab_size"]
    attention = layers * 2 * heads * size * tokens
    assert forward == pytest.approx(2 * (matrices + attention), rel=0.02)
    assert stored == layers * 2 * kv and parameters > matrices / 2
    both, _, _ = script.counted(str(folder), tokens, True)
    assert both == pytest.approx(3 * forward, rel=0.05)


def test_a_run_of_one_process_takes_the_place_of_operations(script, tmp_path):
    lines = [
        {
            **{"kind": "train", "arm": "main", "step_s": s, "tokens_per_s": 10 / s},
            "parts_s": {"align": 0.03 * s},
        }
        for s in (1.0, 2.0, 9.0)
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    start = {"event": "start", "world_size": 1}
    (tmp_path / "attempts.jsonl").write_text(json.dumps(start))
    assert script.measured_step(tmp_path) == (2.0, 10)
    assert script.aligned_share(tmp_path) == pytest.approx(0.03)
    made = script.table(work(script, measured=2.0), [1, 64], machine(script))
    assert "store in" not in made and "2,00" in made
    (tmp_path / "attempts.jsonl").write_text(json.dumps(start | {"world_size": 2}))
    with pytest.raises(SystemExit, match=r"3 logged steps of \{2\} processes; give"):
        script.measured_step(tmp_path)


@pytest.mark.slow
def test_the_pages_table_is_what_the_script_says(script, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    script.main([])
    page = script.PAGE.read_text(encoding="utf-8")
    table = page.partition(script.BEGIN)[2].partition(script.END)[0]
    assert table.strip() == capsys.readouterr().out.strip()
