"""Trainers' notes become rows, and a report names what ended its run."""

import copy

import pytest

from cot_latent.errors import Preempted
from cot_latent.reporting import record, runlog
from cot_latent.runtime import files
from tests.reporting import made_up

HEADER = made_up.make_header(steps=3)


def open_log(folder, resume_at=None, **settings):
  return made_up.open_log(folder, copy.deepcopy(HEADER), resume_at, **settings)


def note_all(log):
  """Notes a run of three steps, which is evaluated and saved at the end."""
  with log.phase("base", num_scored=5) as found:
    found["was_read"] = False
  for step in (1, 2, 3):
    log.step(step, made_up.metrics())
  log.params(3, made_up.sha("params"))
  log.evaluated(3, 1.5, made_up.evaluation(7, made_up.result(3, "greedy", 100)))
  log.saving(3)
  log.checkpoint(3, sha256=made_up.sha("checkpoint"))


class Shown:
  """Stands for a writer of metrics; keeps what it is told."""

  def __init__(self, is_broken=False):
    self.numbers, self.ends, self.is_broken = {}, [], is_broken

  def write_scalars(self, step, scalars):
    self.numbers |= {(tag, step): value for tag, value in scalars.items()}

  def flush(self):
    self.ends.append("flush")

  def close(self):
    self.ends.append("close")
    if self.is_broken:
      raise OSError("no space")


def test_what_is_noted_is_in_the_journal_in_its_order(tmp_path):
  log = open_log(tmp_path)
  note_all(log)
  log.finish("complete")
  rows = files.read_rows(tmp_path / record.JOURNAL, None)
  assert rows == log.rows
  assert [(row["step"], row["kind"]) for row in rows] == [
    (0, "phase"),
    *((step, "metrics") for step in (1, 2, 3)),
    *((3, kind) for kind in ("params", "result", "evaluation_seconds")),
    *((3, kind) for kind in ("output", "usage", "checkpoint")),
  ]
  assert log.phase_row("base").keys() == {
    *("step", "phase", "seconds", "num_scored", "was_read")
  }
  (usage,) = record.of_kind(rows, "usage")
  assert usage["first_step_seconds"] > 0
  assert record.read(tmp_path)["status"] == "complete"


def test_a_phase_that_fails_has_no_row(tmp_path):
  log = open_log(tmp_path)
  with pytest.raises(ValueError, match="no luck"), log.phase("base"):
    raise ValueError("no luck")
  assert log.rows == []


def test_writers_are_shown_numbers_with_a_slash(tmp_path):
  log, shown = open_log(tmp_path), Shown()
  log.writers = [shown]
  note_all(log)
  log.finish("complete")
  assert shown.numbers["chain/accept_rate", 2] == 0.5
  assert shown.numbers["eval/greedy_accuracy", 3] == 100 / made_up.TOTAL
  tags = {tag for tag, _ in shown.numbers}
  assert tags.isdisjoint({"num_sampled", "sampler/log_prob_gap"})
  assert shown.ends == ["flush", "close"]


@pytest.mark.parametrize("resume_at", [None, 2])
def test_the_other_processes_have_the_rows_and_write_nothing(
  tmp_path, resume_at
):
  first = open_log(tmp_path)
  note_all(first)
  first.close()
  before = {path: path.read_bytes() for path in tmp_path.iterdir()}
  other = open_log(tmp_path, resume_at, is_first=False)
  steps = [row["step"] for row in other.rows]
  assert steps == ([] if resume_at is None else [0, 1, 2])
  note_all(other)
  assert other.rows[-1] == first.rows[-1]
  assert other.finish("complete") == {}
  assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_checkpoint_without_a_row_gets_one_and_no_second_one(tmp_path):
  log = open_log(tmp_path)
  for _ in range(2):
    log.note_resumed(0, made_up.sha("checkpoint"))
  assert [row["kind"] for row in log.rows] == ["checkpoint"]


@pytest.mark.parametrize("is_broken", [False, True])
@pytest.mark.parametrize(
  ("error", "status", "says"),
  [
    (ValueError("no luck"), "failed", "ValueError: no luck"),
    (KeyboardInterrupt(), "interrupted", None),
    (Preempted(), "interrupted", None),
  ],
)
def test_a_report_names_what_ended_the_run(
  tmp_path, error, status, says, is_broken
):
  log, shown = open_log(tmp_path), Shown(is_broken)
  log.writers = [shown]
  log.step(1, made_up.metrics())
  with pytest.raises(type(error)) as caught, log.guarded():
    raise error
  assert caught.value is error
  report = record.read(tmp_path)
  assert (report["status"], report["error"]) == (status, says)
  assert shown.ends == ["close"]


def test_a_run_whose_end_is_not_known_was_interrupted():
  assert runlog.ending(None) == ("interrupted", None)


def test_an_evaluation_that_comes_again_is_dropped(tmp_path):
  log = open_log(tmp_path)
  note_all(log)
  log.close()
  runlog.drop_evaluation(tmp_path, 3)
  kinds = {row["kind"] for row in open_log(tmp_path, 3).rows}
  assert kinds == {"phase", "metrics", "params", "usage", "checkpoint"}
  runlog.drop_evaluation(tmp_path, 2)
  assert {row["step"] for row in open_log(tmp_path, 2).rows} == {0, 1, 2}
