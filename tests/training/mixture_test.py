"""Results of a mixture: for each task, for the whole, and their averages."""

import json

import pytest

from cot_latent import cli
from cot_latent.em import evaluation
from cot_latent.reporting import page, summary
from tests.training import toy

pytestmark = pytest.mark.usefixtures("compile_once", "read_once")

FIVE, THREE, WORDS = toy.PARTS
# Correct answers of each task among its 10 held-out questions, and what becomes
# of the others: they are wrong, without an answer, or right but cut.
RIGHT = {FIVE: 7, THREE: 2, WORDS: 9}
OTHERS = {FIVE: ["wrong"] * 3, THREE: ["none", "cut"] * 4, WORDS: ["cut"]}


def answer_as_told(drawer, params, *, num_samples, **_):
  """Stands for `evaluation.evaluate`: a fixed outcome of each question."""
  examples = drawer.examples
  outputs = []
  for task in toy.PARTS:
    fates = ["right"] * RIGHT[task] + OTHERS[task]
    places = [i for i, name in enumerate(examples.tasks) if name == task]
    for i, fate in zip(places, fates, strict=True):
      answer = examples.answers[i]
      said = {
        "wrong": "The answer is grey.",
        "none": "The answer",
      }.get(fate, f"The answer is {answer}.")
      extracted = {"right": answer, "wrong": "grey"}.get(fate)
      repeats = num_samples or 1
      outputs.append(
        evaluation.Output(
          id=examples.ids[i],
          task=task,
          question=examples.questions[i],
          target=answer,
          completions=[said] * repeats,
          ended=[fate != "cut"] * repeats,
          extracted=extracted,
          is_correct=fate == "right",
          num_correct=repeats if fate == "right" else 0,
        )
      )
  return outputs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  directory = tmp_path_factory.mktemp("runs") / "mixture"
  config = toy.make_experiment(directory, toy.MIXTURE, steps=1)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(evaluation, "evaluate", answer_as_told)
    return directory, toy.run(config)


def test_each_task_and_the_whole_have_results(run):
  _, report = run
  names = [toy.MIXTURE, FIVE, THREE, WORDS]
  places = [(r["step"], r["decoder"], r["task"]) for r in report["results"]]
  assert places == [
    (step, decoder, name)
    for step in (0, 1)
    for decoder in ("greedy", "self_consistency")
    for name in names
  ]
  for row in report["results"]:
    votes = 2 if row["decoder"] == "self_consistency" else 1
    assert row["num_samples"] == votes
    parts = [row["task"]] if row["task"] in RIGHT else [FIVE, THREE, WORDS]
    fates = [fate for part in parts for fate in OTHERS[part]]
    assert row["correct"] == sum(RIGHT[part] for part in parts)
    assert row["total"] == 10 * len(parts)
    assert row["accuracy"] == row["correct"] / row["total"]
    assert row["num_unparseable"] == len(fates) - fates.count("wrong")
    assert row["num_cut"] == votes * fates.count("cut")
    if row["task"] in RIGHT:
      assert "averages" not in row
    else:
      assert row["averages"] == {
        "3 tasks": pytest.approx((0.7 + 0.2 + 0.9) / 3),
        "2 tasks, 3 grouped": pytest.approx(((0.7 + 0.2) / 2 + 0.9) / 2),
        "examples": 18 / 30,
      }


def test_the_page_and_the_terminal_show_them(run):
  directory, report = run
  # Completions may hold carriage returns, which `read_text` would translate.
  text = (directory / "report.html").read_bytes().decode()
  assert text == page.render(report)
  assert "2 tasks, 3 grouped" in text
  assert "67.5%" in text
  for name in (toy.MIXTURE, FIVE, THREE, WORDS):
    assert f"{name} · test" in text
  said = summary.report_text(report, directory)
  assert said.splitlines()[1].split()[:3] == ["greedy", "0.600", "0.600"]


@pytest.mark.parametrize("decoder", ["greedy", "self_consistency"])
def test_the_command_finds_the_same_numbers(run, capsys, decoder):
  directory, report = run
  path = directory / "outputs" / f"000001-test-{decoder}.jsonl"
  assert cli.main(["score", str(path), f"--task={toy.MIXTURE}"]) == 0
  row = next(r for r in report["results"] if r["decoder"] == decoder)
  assert json.loads(capsys.readouterr().out) == {
    "correct": row["correct"],
    "total": row["total"],
    "accuracy": row["accuracy"],
    "unparseable": row["num_unparseable"],
    "averages": row["averages"],
  }
