"""The texts say what the numbers are, in columns."""

import pathlib
import re

import pytest

from cot_latent.reporting import summary

PLAN = {
  "steps": 40,
  "sequences_sampled": 1_234_567,
  "sequences_scored": 5_120,
  "sampled_by_phase": {
    "memory_start": 1_000,
    "steps": 1_200_000,
    "evaluation": 33_567,
  },
  "scored_by_phase": {"base": 1_920, "steps": 3_200},
}


def result(step, decoder, num_samples, accuracy):
  return {
    "step": step,
    "decoder": decoder,
    "num_samples": num_samples,
    "accuracy": accuracy,
    "interval": [accuracy - 0.051, accuracy + 0.049],
  }


def make_report(num_samples=40):
  votes = "self_consistency"
  return {
    "plan": {"steps": 40},
    "identity": {"method": "trice", "task": "chain"},
    "suspect": [],
    "data": {"splits": {"train": {"num_examples": 9, "num_left_out": 0}}},
    "cost": {"seconds": {"total": 83.6}},
    "results": [
      result(0, "greedy", 1, 0.25),
      result(0, votes, num_samples, 0.375),
      result(20, "greedy", 1, 0.999),
      result(40, "greedy", 1, 0.5),
      result(40, votes, num_samples, 0.625),
    ],
  }


def ends(line):
  """Where a line's numbers or words end."""
  return [found.end() for found in re.finditer(r"\S+", line)]


def test_plan_text():
  lines = summary.plan_text(PLAN).splitlines()
  assert [line.split() for line in lines] == [
    ["sequences", "sampled", "scored,", "at", "most"],
    ["base", "model", "0", "1,920"],
    ["memory", "start", "1,000", "0"],
    ["steps", "1,200,000", "3,200"],
    ["evaluation", "33,567", "0"],
    ["all", "1,234,567", "5,120"],
  ]
  assert len({tuple(ends(line)[-2:]) for line in lines[1:]}) == 1
  assert ends(lines[0])[1] == ends(lines[1])[-2]
  assert len(set(map(len, lines))) == 1


@pytest.mark.parametrize("num_samples", [2, 40, 100])
def test_report_text(num_samples):
  folder = pathlib.Path("runs/x")
  text = summary.report_text(make_report(num_samples), folder)
  head, greedy, votes, what, where = text.splitlines()
  assert head.split()[-3:] == ["95%", "interval", "after"]
  assert greedy.split() == ["greedy", "0.250", "0.500", "0.449", "to", "0.549"]
  assert votes.split() == [
    "self-consistency",
    f"({num_samples})",
    *["0.375", "0.625", "0.574", "to", "0.674"],
  ]
  # Numbers stand under their words.
  for line in (greedy, votes):
    assert ends(line)[-5:-3] == ends(head)[2:4]
  assert what == "40 steps of trice on chain; 84 s in all"
  assert where == "report: runs/x/report.html and runs/x/report.json"


def test_report_text_without_votes():
  report = make_report()
  report["results"] = [r for r in report["results"] if r["num_samples"] == 1]
  text = summary.report_text(report, pathlib.Path("x"))
  assert "self-consistency" not in text
  assert len(text.splitlines()) == 4


def test_examples_left_out_are_reported():
  report = make_report()
  assert "left out" not in summary.report_text(report, pathlib.Path("x"))
  report["data"]["splits"] |= {
    "train (base model)": {"num_examples": 3_229, "num_left_out": 4_244},
    "test": {"num_examples": 1_088, "num_left_out": 231},
  }
  line = (
    "left out, being too long: 4,244 of 7,473 in train (base model); "
    "231 of 1,319 in test"
  )
  lines = summary.report_text(report, pathlib.Path("x")).splitlines()
  assert line in lines


def test_examples_truncated_are_reported():
  data = make_report()["data"]
  assert summary.left_out_text(data) == ""
  data["splits"]["test"] = {
    "num_examples": 1_319,
    "num_left_out": 0,
    "num_truncated": 1_231,
  }
  line = "truncated, being too long: 1,231 of 1,319 in test"
  assert summary.left_out_text(data) == line
  # Each kind has its line, and a split of each is under its own.
  data["splits"]["train"]["num_left_out"] = 1
  assert summary.left_out_text(data).splitlines() == [
    "left out, being too long: 1 of 10 in train",
    line,
  ]
  report = make_report() | {"data": data}
  lines = summary.report_text(report, pathlib.Path("x")).splitlines()
  assert line in lines


def test_of_a_mixture_the_whole_is_told():
  report = make_report()
  whole = [row | {"task": "bbh_v1"} for row in report["results"]]
  parts = [
    row | {"task": task, "accuracy": 0.0, "interval": [0.0, 0.1]}
    for row in whole
    for task in ("bbh_a_v1", "bbh_b_v1")
  ]
  alone = summary.report_text(report, pathlib.Path("x"))
  # In the order of a run: at each step the whole, then its tasks.
  mixed = []
  for number, row in enumerate(whole):
    mixed += [row, *parts[2 * number : 2 * number + 2]]
  told = summary.report_text(report | {"results": mixed}, pathlib.Path("x"))
  assert told == alone
  # Of the tasks it would be another text.
  other = summary.report_text(report | {"results": parts}, pathlib.Path("x"))
  assert other != alone


def test_a_suspect_run_is_announced():
  report = make_report()
  report["suspect"] = ["nothing moved"]
  lines = summary.report_text(report, pathlib.Path("x")).splitlines()
  assert "suspect: nothing moved" in lines
