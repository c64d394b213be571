"""The whole job on the real files: some TRICE steps, and a report."""

import json

import pytest

from cot_latent import cli
from cot_latent.reporting import record
from cot_latent.tasks import bbh
from tests.params import by_day

NUM_STEPS = 6
SHORT = [
  f"--gin.TRAIN_STEPS={NUM_STEPS}",
  f"--gin.EVAL_PERIOD={NUM_STEPS}",
  "--gin.NUM_VOTES=0",
]


def run(capsys, directory, *arguments):
  status = cli.main(
    ["train", *SHORT, *arguments, f"--gin.MODEL_DIR='{directory}'"]
  )
  captured = capsys.readouterr()
  assert status == 0, captured.err
  return record.read_whole(directory)


def check(report, task, num_test):
  assert report["status"] in record.FINISHED
  assert report["data"]["task"] == task
  steps = [row["step"] for row in report["metrics"]]
  assert steps == list(range(1, NUM_STEPS + 1))
  results = [(r["step"], r["total"]) for r in report["results"]]
  assert results == [(0, num_test), (NUM_STEPS, num_test)]
  assert all(row["time/sampling"] > 0 for row in report["metrics"])
  assert {sample["source"] for sample in report["samples"]} == {
    "greedy",
    "memory",
  }


def check_rescored(report, directory, task, data_dir, capsys):
  """Checks that the command finds the run's numbers in its outputs."""
  for row in report["results"]:
    name = f"{row['step']:06}-test-{row['decoder']}.jsonl"
    path = str(directory / "outputs" / name)
    arguments = ["score", path, f"--task={task}", f"--data_dir={data_dir}"]
    assert cli.main(arguments) == 0
    assert json.loads(capsys.readouterr().out) == {
      "correct": row["correct"],
      "total": row["total"],
      "accuracy": row["accuracy"],
      "unparseable": row["num_unparseable"],
    }


@pytest.fixture(scope="module")
def base_flags(tmp_path_factory):
  """One kind of synthetic task, read once; the lengths are the task's own."""
  path = tmp_path_factory.mktemp("cache") / "base.npz"
  task = "synthetic_boolean_expressions"
  assert cli.main(["cache", f"--task={task}", f"--output={path}"]) == 0
  return [f"--gin.BASE_TASK='{task}'", f"--gin.BASE_CACHE='{path}'"]


@pytest.mark.parametrize(
  "name", by_day(bbh.TASKS, "navigate", "object_counting", "word_sorting")
)
def test_every_bbh_task_fits_its_lengths(name, base_flags, data_dir, capsys):
  arguments = [
    "--gin_file=gin/runs/bbh_tiny.gin",
    f"--gin.TASK='bbh_{name}'",
    *base_flags,
    f"--data_dir={data_dir}",
  ]
  assert cli.main(["train", *arguments, "--dry_run"]) == 0
  out = capsys.readouterr().out
  assert " in train" not in out
  assert " in test" not in out


@pytest.mark.slow
@pytest.mark.parametrize("name", bbh.TASKS)
def test_the_papers_study_fits_the_authors_examples(name, data_dir, capsys):
  arguments = [
    "--gin_file=gin/studies/paper_bbh/trice_few_shot.gin",
    f"--gin.TASK='bbh_{name}'",
    "--gin.BASE_TASK='synthetic_boolean_expressions'",
    "--gin.MODEL_DIR=None",
    f"--data_dir={data_dir}",
  ]
  assert cli.main(["train", *arguments, "--dry_run"]) == 0
  out = capsys.readouterr().out
  assert " in train" not in out
  assert " in test" not in out


@pytest.mark.slow
def test_the_papers_study_of_gsm8k_finds_its_examples(data_dir, capsys):
  arguments = [
    "--gin_file=gin/studies/paper_gsm8k/trice_few_shot.gin",
    "--gin.MODEL_DIR=None",
    f"--data_dir={data_dir}",
  ]
  assert cli.main(["train", *arguments, "--dry_run"]) == 0
  # No question is too long beside the examples, which come from the training
  # split. Some rationales are too long for the base model to fit.
  out = capsys.readouterr().out
  left_out = out.partition("left out, being too long: ")[2].split(", ")
  assert all(part.strip().endswith("(base model)") for part in left_out)


def run_bbh(capsys, data_dir, directory, task, *arguments):
  report = run(
    capsys,
    directory,
    "--gin_file=gin/runs/bbh_tiny.gin",
    f"--gin.TASK='bbh_{task}'",
    f"--gin.BASE_TASK='synthetic_{task}'",
    f"--data_dir={data_dir}",
    *arguments,
  )
  check(report, f"bbh_{task}_v1", 100)
  assert report["data"]["base_task"] == f"synthetic_{task}_v1"
  assert report["data"]["splits"]["train"]["num_examples"] == 150
  assert report["data"]["splits"]["train"]["num_left_out"] == 0
  check_rescored(report, directory, f"bbh_{task}", data_dir, capsys)
  return report


@pytest.mark.slow
def test_bbh(data_dir, tmp_path, capsys):
  report = run_bbh(capsys, data_dir, tmp_path / "run", "boolean_expressions")
  assert not report["suspect"]
  first, last = report["metrics"][0], report["metrics"][-1]
  # The hinted prompt gives the memory rationales to keep.
  assert first["memory/correct_fraction"] > 0.2
  assert last["memory/correct_fraction"] > first["memory/correct_fraction"]
  accepted = sum(row["chain/accept_rate"] for row in report["metrics"])
  assert accepted / NUM_STEPS > 0.15
  assert all(row["grad/norm"] > 0 for row in report["metrics"])


@pytest.mark.slow
def test_bbh_with_long_questions(data_dir, tmp_path, capsys):
  report = run_bbh(
    capsys,
    data_dir,
    tmp_path / "run",
    "navigate",
    "--gin.BASE_STEPS=30",
    "--gin.BASE_BATCH_SIZE=4",
    "--gin.BATCH_SIZE=4",
    "--gin.MAX_LENGTH=96",
  )
  # Rationales of 96 tokens at most are left to fit the base model to.
  base = report["data"]["splits"]["base (base model)"]
  assert base["num_left_out"] > 0
  assert base["num_left_out"] + base["num_examples"] == 4000


@pytest.mark.slow
def test_gsm8k(data_dir, tmp_path, capsys):
  report = run(
    capsys,
    tmp_path / "run",
    "--gin_file=gin/runs/gsm8k_tiny.gin",
    f"--data_dir={data_dir}",
    "--gin.BASE_STEPS=200",
    "--gin.MAX_LENGTH=128",
    "--gin.PROMPT_LENGTH=192",
  )
  splits = report["data"]["splits"]
  test, train = splits["test"], splits["train"]
  assert test["num_examples"] + test["num_left_out"] == 1319
  assert train["num_examples"] + train["num_left_out"] == 7473
  check(report, "gsm8k_v1", test["num_examples"])
  check_rescored(report, tmp_path / "run", "gsm8k", data_dir, capsys)
  # Right by luck, now and then: enough for the memory and some gradients.
  assert report["metrics"][-1]["memory/correct_fraction"] > 0
  assert any(row["grad/norm"] > 0 for row in report["metrics"])
