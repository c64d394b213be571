"""The whole job on the real files: 20 TRICE steps, and a report."""

import json

import pytest

from cot_latent import cli
from cot_latent.tasks import bbh


def run(capsys, directory, *arguments):
  status = cli.main(
    [
      "train",
      *arguments,
      f"--gin.MODEL_DIR='{directory}'",
      "--gin.NUM_VOTES=0",
    ]
  )
  assert status == 0, capsys.readouterr().err
  return json.loads((directory / "report.json").read_text())


def check(report, task, num_test):
  assert report["status"] == "complete"
  assert report["data"]["task"] == task
  assert [row["step"] for row in report["metrics"]] == list(range(1, 21))
  results = [(r["step"], r["total"]) for r in report["results"]]
  assert results == [(0, num_test), (20, num_test)]
  assert all(row["time/sampling"] > 0 for row in report["metrics"])
  assert {sample["source"] for sample in report["samples"]} == {
    "greedy",
    "memory",
  }


@pytest.mark.parametrize("name", bbh.TASKS)
def test_every_bbh_task_fits_its_lengths(name, data_dir, capsys):
  arguments = [
    "--gin_file=gin/runs/bbh_tiny.gin",
    f"--gin.TASK='bbh_{name}'",
    f"--gin.DATA_DIR='{data_dir}'",
  ]
  assert cli.main(["train", *arguments, "--dry_run"]) == 0
  assert "left out" not in capsys.readouterr().out


@pytest.mark.parametrize("task", ["boolean_expressions", "navigate"])
def test_bbh(task, data_dir, tmp_path, capsys):
  report = run(
    capsys,
    tmp_path / "run",
    "--gin_file=gin/runs/bbh_tiny.gin",
    f"--gin.TASK='bbh_{task}'",
    f"--gin.DATA_DIR='{data_dir}'",
  )
  check(report, f"bbh_{task}", 100)
  assert report["data"]["splits"]["train"]["num_examples"] == 150
  # The hinted prompt gives the memory answers to keep.
  assert report["metrics"][0]["memory/correct_fraction"] > 0
  assert any(row["grad/norm"] > 0 for row in report["metrics"])


def test_gsm8k(data_dir, tmp_path, capsys):
  report = run(
    capsys,
    tmp_path / "run",
    "--gin_file=gin/runs/gsm8k_tiny.gin",
    f"--gin.DATA_DIR='{data_dir}'",
    "--gin.BASE_STEPS=200",
    "--gin.MAX_LENGTH=128",
    "--gin.PROMPT_LENGTH=192",
  )
  splits = report["data"]["splits"]
  test, train = splits["test"], splits["train"]
  assert test["num_examples"] + test["num_left_out"] == 1319
  assert train["num_examples"] + train["num_left_out"] == 7473
  check(report, "gsm8k", test["num_examples"])
  # Right by luck, now and then: enough for the memory and some gradients.
  assert report["metrics"][-1]["memory/correct_fraction"] > 0
  assert any(row["grad/norm"] > 0 for row in report["metrics"])
