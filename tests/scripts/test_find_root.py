"""The scripts that SLURM copies find their checkout by the same lines."""

import re
import subprocess
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts"
WHOLE = re.compile(r"^# Print the checkout.*?^find_root\(\) \{\n.*?^\}\n", re.M | re.S)


def finders():
    for script in sorted(SCRIPTS.glob("*.sh")):
        text = script.read_text(encoding="utf-8")
        if "find_root()" in text:
            (lines,) = WHOLE.findall(text)
            yield script.name, lines


def test_every_script_that_is_copied_has_the_same_lines():
    """A copy in SLURM's spool folder can source nothing before they have run."""
    found = dict(finders())
    assert set(found) == {"extract_teacher_kv.sh", "run_multi_teacher.sh", "sweep.sh"}
    assert len(set(found.values())) == 1


def test_they_find_the_checkout_from_a_copy(tmp_path):
    _, lines = next(finders())
    script = tmp_path / "slurm_script"
    script.write_text(
        f"set -euo pipefail\ndie() {{ echo $*; exit 2; }}\n{lines}find_root\n"
    )

    def run(**environment):
        return subprocess.run(
            ["bash", str(script)],
            env={"PATH": "/usr/bin:/bin", **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    root = str(SCRIPTS.parent.resolve())
    assert run(MTKD_HOME=root).stdout.strip() == root
    submitted = run(SLURM_JOB_ID="1", SLURM_SUBMIT_DIR=str(SCRIPTS))
    assert submitted.stdout.strip() == root
    nowhere = run()
    assert nowhere.returncode == 2 and "set MTKD_HOME to it" in nowhere.stdout
