"""A report that would run a program does not, in any command."""

import sys

import pytest

from cot_latent import cli
from cot_latent.reporting import record
from cot_latent.runtime import files
from tests.commands import inside_t5x
from tests.reporting import made_up

pytestmark = pytest.mark.usefixtures("compile_once", "read_once")

TASKS = """
import pathlib
from cot_latent.tasks import table
pathlib.Path({left!r}).touch()
table.register('trusted_mine', {rows!r}, kind='integer')
"""
RUN = [
  *("--gin_file=gin/runs/quickstart.gin", "--gin.TASK='trusted_mine'"),
  *("--gin.BASE_TASK='chain'", "--gin.BASE_STEPS=2", "--gin.TRAIN_STEPS=1"),
  *("--gin.PROMPT_LENGTH=80", "--gin.MAX_LENGTH=80"),
  *("--gin.BATCH_SIZE=4", "--gin.NUM_VOTES=0", "--gin.MEMORY_START='prior'"),
]


def call(capsys, *arguments):
  """The exit status of a command, and what it printed."""
  capsys.readouterr()
  status = cli.main([*map(str, arguments)])
  captured = capsys.readouterr()
  return status, captured.out + captured.err


@pytest.mark.parametrize("command", ["export", "rerun"])
@pytest.mark.parametrize("more", [{}, {"t5x": inside_t5x.SECTION}])
def test_a_made_up_report_runs_no_program(tmp_path, capsys, command, more):
  left = tmp_path / "left"
  resolved = (
    "from __gin__ import dynamic_registration\n"
    "import subprocess\n"
    "from cot_latent.training import experiment\n"
    "experiment.Experiment.seed = @subprocess.check_output()\n"
    f"subprocess.check_output.args = ['touch', {str(left)!r}]\n"
  )
  report = made_up.make_report("trice", configuration__resolved=resolved)
  path = tmp_path / "report.json"
  path.write_text(files.to_json(record.sealed(report | more)))
  status, text = call(capsys, command, path, f"--output={tmp_path / 'out'}")
  assert status == 2
  assert text.count("\n") == 1
  if not (more and command == "export"):
    assert text.startswith(
      f"t5x: error: {path}: the configuration imports subprocess, whose code "
      "would run; a report may import only cot_latent, t5x, seqio, optax"
    )
  assert not left.exists()
  assert not (tmp_path / "out").exists()


def test_a_task_of_your_own_is_imported_where_you_say_so(
  tmp_path, capsys, monkeypatch
):
  left, rows = tmp_path / "left", tmp_path / "rows.jsonl"
  lines = [{"question": f"{n}+1", "answer": f"{n + 1}"} for n in range(20)]
  rows.write_text("".join(map(files.to_json_line, lines)))
  code = TASKS.format(left=str(left), rows=str(rows))
  (tmp_path / "trusted_tasks.py").write_text(code)
  monkeypatch.syspath_prepend(tmp_path)
  flags = [*RUN, "--gin.TASK_MODULE='trusted_tasks'"]
  run = tmp_path / "run"
  status, text = call(capsys, "train", *flags, f"--gin.MODEL_DIR='{run}'")
  assert status == 0, text
  assert left.exists()
  again = ["rerun", run, f"--output={tmp_path / 'again'}"]
  status, text = call(capsys, *again)
  assert status == 2
  assert "imports trusted_tasks, whose code would run" in text
  assert text.count("\n") == 1
  assert "trusted_tasks" in sys.modules  # by the training alone
  status, text = call(capsys, *again, "--allow_import=trusted_tasks")
  assert status == 0, text
  assert "verdict: bitwise equal" in text
