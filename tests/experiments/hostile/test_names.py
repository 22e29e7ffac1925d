"""Names that would be markup, a formula or a command to the terminal stay names."""

import pytest

from experiments.cli import main
from experiments.record.run_dir import read_run
from experiments.report.figures import draw_run
from tests.experiments.small_runs import small_config, write_text

PAGES = True


@pytest.mark.slow
def test_a_run_on_texts_with_hostile_names_trains_reports_and_is_shown(
    tiny_zoo, tmp_path, capsys
):
    names = ["$a_$.txt", "[red]x.txt", "a|b`c.txt", "<script>.txt", "e\x1b[2Jc.txt"]
    for number, name in enumerate(names):
        write_text(tmp_path / name, 12 + number)
    texts = [f"{tmp_path / name}" for name in names]
    config = small_config(tmp_path, tiny_zoo, {"data": {"train": texts}})
    assert main(["train", str(config)]) == 0
    run = read_run(tmp_path / "run")
    assert len(draw_run(run)) > 1
    capsys.readouterr()
    assert main(["report", str(tmp_path / "run"), "--no-figures"]) == 0
    assert main(["status", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    text = (tmp_path / "run" / "report.md").read_text()
    page = (tmp_path / "run" / "report.html").read_text()
    assert r"\<script>" in text and "\x1b" not in text + page
    assert "<script>" not in page.split("</style>")[1].partition("<script")[0]
