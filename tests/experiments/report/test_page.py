import io
import json
import re
from dataclasses import replace

from rich.console import Console

from experiments.report.page import report_text
from experiments.report.settings import changed_settings
from experiments.report.teachers import number
from experiments.report.verdicts import summary_table, verdicts

DRAWS = True


def test_the_report_says_plainly_which_phases_did_not_help(made_up):
    text = report_text(made_up)
    assert "3 of 5 phases helped; these did not: real_multi, z_space." in text
    assert "**real_multi** did not help: 2.925 bits per character, 0.025 more" in text
    assert "**routing** helped: 2.755" in text
    assert "The run took 5 min 12 s." in text


def test_the_table_holds_every_arm(made_up):
    row = next(
        line for line in report_text(made_up).splitlines() if line.startswith("| dual")
    )
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        "dual",
        "40",
        "3.620",
        "3.350",
        "3.485",
        "3.555",
        "3.500 (gpt2-prose)",
        "8.000",
        "-2.0%",  # 3.485 / 3.555 - 1
        "-0.4%",
        "yes",
    ]


def test_every_picture_of_the_report_exists(drawn):
    run, _ = drawn
    pictures = re.findall(r"!\[\w+\]\((.+?)\)", (run.path / "report.md").read_text())
    assert pictures[0] == "figures/comparison.png"
    assert len(pictures) == 6
    assert all((run.path / picture).is_file() for picture in pictures)


def test_pictures_from_elsewhere_are_shown_too(made_up):
    made_up.figures.mkdir()
    (made_up.figures / "alignment_t5.png").write_bytes(b"")
    text = report_text(made_up)
    assert "![alignment_t5](figures/alignment_t5.png)" in text
    assert "How one sentence's student tokens meet a teacher's. Here: t5." in text


def test_the_report_tells_how_to_do_it_again(made_up):
    text = report_text(made_up)
    assert f"mtkd train {made_up.path}/config.yaml run.name=made-up-again" in text
    assert f"from_pretrained('{made_up.path}/student')" in text


def test_missing_baselines_leave_no_verdict(made_up):
    entry = {"name": "dual", "steps": 4, "bpc": {"all": 2.0}, "ce_only": None}
    run = replace(made_up, summary={"phases": [entry | {"best_single": None}]})
    (verdict,) = verdicts(run)
    assert verdict.helped is None
    text = report_text(run)
    assert "has no baseline to compare with: 2.000" in text
    assert "Not compared: the run has trained no baseline (`baselines.ce_only`" in text
    assert "phases helped" not in text
    assert "| – | – | – |" in text  # vs CE only, vs best single, helped
    assert "| mean |" not in text  # one domain is its own mean


def compared(run, ce_only, best_single, **changed):
    """The same run with one phase of 2.000 bits beside these baselines."""
    single = best_single and {"teacher": "gpt2", "bpc": {"all": best_single}}
    entry = {"name": "dual", "steps": 4, "bpc": {"all": 2.0}, "best_single": single}
    entry |= {"ce_only": ce_only and {"all": ce_only}} | changed
    return replace(run, summary={"phases": [entry]})


def test_what_helped_beat_both_baselines(made_up):
    run = compared(made_up, 2.5, 1.6)
    text = report_text(run)
    assert "| -20.0% | +25.0% | no |" in text
    assert "0 of 1 phases helped; these did not: dual." in text
    assert "**dual** beat CE only, but not the best single teacher: 2.000" in text
    assert "| -20.0% | -20.0% | yes |" in report_text(compared(made_up, 2.5, 2.5))
    assert "| +25.0% | -20.0% | no |" in report_text(compared(made_up, 1.6, 2.5))
    assert "| -20.0% | – | yes |" in report_text(compared(made_up, 2.5, None))
    assert "| – | +25.0% | no |" in report_text(compared(made_up, None, 1.6))


def test_one_teacher_is_not_held_against_itself(made_up):
    run = compared(made_up, 2.5, 2.0, beats_best_single=None)
    text = report_text(run)
    assert "| 2.000 (gpt2) | – | -20.0% | – | yes |" in text
    assert "1 of 1 phases helped." in text


def test_an_unfinished_run_says_so(made_up):
    text = report_text(replace(made_up, summary={}))
    assert "The run is not finished: 40 metric lines so far" in text


def test_events_are_noted_and_not_without_end(made_up):
    events = [
        {"kind": "event", "phase": "dual", "step": i, "event": "non-finite loss"}
        for i in range(25)
    ]
    text = report_text(replace(made_up, metrics=events))
    assert "- phase dual, step 0: non-finite loss" in text
    assert "and 5 more" in text


def with_gate(run, index, **changed):
    """The same run, where the gate had something to say of one phase."""
    harm = {"domain": "code", "against": "ce_only", "bpc": 2.61, "reference": 2.5}
    gate = {"harms": [harm], "rolled_back": False, "own_text": True} | changed
    phases = list(run.summary["phases"])
    phases[index] = phases[index] | {"gate": gate}
    return replace(run, summary=run.summary | {"phases": phases})


def test_a_phase_that_hurt_says_where_and_by_how_much(made_up):
    text = report_text(with_gate(made_up, 3))
    assert "**routing** helped: 2.755" in text
    assert "It hurt: code 2.610, 4.4% more than CE only (2.500)." in text
    assert "| hurt code |" in text
    assert "yes, hurt" not in text
    assert "rolled back" not in text
    counted = "2 of 5 phases helped; these did not: real_multi, z_space"
    assert f"{counted}; these hurt in a domain: routing." in text
    cells = list(summary_table(with_gate(made_up, 3)).columns[-1].cells)
    assert cells[3].plain == "hurt code"


def test_a_phase_that_was_rolled_back_helped_nobody(made_up):
    run = with_gate(made_up, 3, rolled_back=True)
    text = report_text(run)
    assert "2 of 5 phases helped; these did not: real_multi, z_space." in text
    assert (
        "Rolled back for doing harm: routing; the run's student is the one it" in text
    )
    assert "**routing** was rolled back: 2.755" in text
    assert "| rolled back |" in text
    assert "The gate decided on held-out text of its own" in text
    shared = report_text(with_gate(made_up, 3, rolled_back=True, own_text=False))
    assert "whose numbers are hence a little too good" in shared


def test_the_ledger_has_a_row_per_teacher_and_domain(made_up):
    entry = {
        "phase": "routing",
        "share": {"prose": 0.75, "code": 0.25},
        "coverage": 0.9,
        "bpc": {"prose": 1.5, "code": 2.5},
        "without": {"prose": 3.0, "code": 2.0},
        "loses": {"prose": 0.25, "code": -0.125},
    }
    account = {"gpt2": entry, "bert": entry | {"bpc": None}}
    text = report_text(replace(made_up, summary={"ledger": account}))
    assert "| gpt2 | prose | routing | 75.0% | 90.0% | 1.500 | 3.000 | +0.250 |" in text
    assert "| bert | code | routing | 25.0% | 90.0% | – | 2.000 | -0.125 |" in text
    assert "leave_one_out" not in text
    better = {"metrics": {"chrf": {"unit": "", "better": "higher"}}}
    more = {"gpt2": entry | {"more": {"chrf": {"de": -2.5}, "unknown": {"de": 1.0}}}}
    measured = replace(made_up, summary={"ledger": more, "evaluation": better})
    assert "| gpt2 | chrf | higher | de | -2.500 |" in report_text(measured)
    bare = {"gpt2": entry | {"without": None, "loses": None}}
    text = report_text(replace(made_up, summary={"ledger": bare}))
    assert "| 1.500 | – | – |" in text
    assert "`baselines.leave_one_out=all` trains the arms" in text


def test_alarms_stand_before_other_events_and_name_another_arm(made_up):
    events = [
        {"kind": "event", "phase": "dual", "step": 3, "event": "non-finite loss"},
        {
            "kind": "event",
            "arm": "single:qwen-code",
            "phase": "dual",
            "step": 25,
            "alarm": "collapse std_k",
            "event": "the student's key spread is 27%",
        },
    ]
    text = report_text(replace(made_up, metrics=events))
    alarms, notes = text.split("## Noted on the way")
    said = (
        "- arm single:qwen-code, phase dual, step 25: the student's key spread is 27%"
    )
    assert said in alarms.split("## Alarms")[1]
    assert "key spread" not in notes


def test_the_printed_table_has_a_row_per_phase(made_up):
    table = summary_table(made_up)
    assert table.row_count == 5
    assert [column.header for column in table.columns][-1] == "helped"


def test_a_narrow_table_leaves_columns_out_and_no_number_cut(made_up):
    def lines(room):
        out = Console(width=room, file=io.StringIO(), markup=False)
        out.print(summary_table(made_up, room))
        return out.file.getvalue()

    assert "for want of room" not in lines(200)
    narrow = lines(80)
    assert "…" not in narrow and "for want of room without before" in narrow
    mean = number(verdicts(made_up)[0].mean)
    assert mean in narrow and "vs CE" in narrow and "helped" in narrow


def test_the_end_of_a_report_names_strangers_and_is_left_out_where_unknown(made_up):
    whose = {"plugin": "acme", "distribution": "acme-mtkd", "version": "1.2"}
    made = {
        "versions": {"mtkd": "0.1"},
        "plugins": {"layer_map mine": {**whose, "digest": "a" * 64}},
    }
    assert report_text(replace(made_up, summary=made)).endswith(
        "\n\n---\n\nMade with mtkd 0.1. The layer map `mine` is of the plugin `acme` "
        "(acme-mtkd 1.2), code aaaaaaaaaaaa.\n"
    )
    assert "---\n\nMade" not in report_text(replace(made_up, summary={}))


def test_alarms_stand_before_the_table(made_up):
    alarm = {"kind": "event", "alarm": "collapse", "message": "keys shrink", "step": 1}
    text = report_text(replace(made_up, metrics=[*made_up.metrics, alarm]))
    assert text.index("keys shrink") < text.index("| phase |")


def test_the_student_that_is_kept_is_the_key_figure(made_up):
    assert "- bits per character: 2.720 (after z_space, 8.000 at first)" in (
        report_text(made_up)
    )
    kept = replace(made_up, summary=made_up.summary | {"final_phase": "routing"})
    text = report_text(kept)
    assert "- bits per character: 2.755 (after routing, 8.000 at first)" in text
    assert "- against CE only: -2.5% (2.825)" in text
    assert "- against the best single teacher: -1.4% (2.795, gpt2-prose)" in text
    none = replace(made_up, summary=made_up.summary | {"final_phase": None})
    assert "- bits per character" not in report_text(none)


def test_samples_before_and_after_are_shown_whatever_is_in_them(made_up):
    sample = {"prompt": "Once", "before": "```\n<b>", "after": "upon a time"}
    text = report_text(replace(made_up, summary={"samples": [sample]}))
    assert "*before*\n\n````text\nOnce|```\n<b>\n````" in text
    assert "*after*\n\n```text\nOnce|upon a time\n```" in text
    assert "What the student writes" not in report_text(made_up)


def test_names_stay_in_their_cell_and_are_no_html(made_up):
    summary = {"teachers": {"a|b": {"model": "<img>"}}}
    assert "| a\\|b | \\<img> |" in report_text(replace(made_up, summary=summary))


def test_a_config_that_is_no_text_costs_the_report_its_settings_alone(made_up):
    (made_up.path / "config.yaml").write_bytes(b"run: {name: a\xe5}")
    assert changed_settings(made_up) == []


def test_settings_that_differ_are_named_with_their_default(made_up):
    (made_up.path / "config.yaml").write_text(
        "run: {name: x, seed: 3}\n"
        "train: {learning_rate: 0.5, steps: null}\n"
        "teachers: {a: {model: m, weight: 1.0, dtype: bfloat16}}\n"
        "phase: {dual: {train: {steps: 7}}}\n"
        "of_an_earlier_version: 1\n"
    )
    rows = [
        line
        for line in report_text(made_up).splitlines()
        if line.startswith("| `") and "config show" not in line
    ]
    assert rows == [
        "| `run.seed` | 3 | 0 |",
        "| `train.learning_rate` | 0.5 | 0.001 |",
        "| `teachers.a.model` | m | – |",
        "| `teachers.a.dtype` | bfloat16 | auto |",
        "| `phase.dual.train.steps` | 7 | – |",
        "| `of_an_earlier_version` | 1 | – |",
    ]


def test_time_and_memory_leave_out_what_lies_between_two_launches(made_up):
    times = [(1, 0.0), (3, 60.0), (4, 5000.0), (6, 5060.0)]
    metrics = [
        {
            "kind": "train",
            "phase": "dual",
            "step": s,
            "time": t,
            "memory_gib": 1 + s / 8,
        }
        for s, t in times
    ]
    starts = [{"event": "start", "time": t, "host": "h"} for t in (-1.0, 4000.0)]
    (made_up.path / "attempts.jsonl").write_text("\n".join(map(json.dumps, starts)))
    text = report_text(replace(made_up, metrics=metrics))
    assert "| main | dual | 4 | 2 min 0 s | 2.0 | 1.75 |" in text
    assert "Launched 2 times, the last time on h in 1 process." in text


def test_the_report_shows_what_a_router_could_gain(made_up):
    room = {"teachers": {"gpt2-prose": 2.0, "qwen-code": 2.5}, "equal": 2.1}
    room |= {"prequential": 2.05, "per_text": 2.08, "per_stretch": 1.9, "gain": 0.024}
    plain = {
        "teachers": ["gpt2-prose", "qwen-code"],
        "domains": {"prose": room},
        "left_out": {"bert-mixed": "it is bidirectional"},
        "gain": 0.0238,
        "ceiling": 0.0952,
    }
    summary = {**made_up.summary, "routing_room": plain}
    text = report_text(replace(made_up, summary=summary))
    row = "| prose | 2.000 | 2.500 | 2.100 | 2.050 | 2.080 | 1.900 | 2.4% |"
    assert row in " ".join(text.replace("|", " | ").split()).replace("| |", "|\n|")
    assert "routing can gain at most 2.4% over equal weights" in text
    assert "teacher 'bert-mixed' is left out: it is bidirectional" in text
    assert "What a router could gain" not in report_text(made_up)
