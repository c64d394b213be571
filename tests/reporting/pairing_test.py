"""McNemar's test on shared questions sees what counts alone do not."""

import math

import pytest

from cot_latent.errors import UserError
from cot_latent.reporting import pairing
from cot_latent.runtime import files
from tests.reporting import made_up

TOTAL = made_up.TOTAL


def write_run(folder, is_correct, ids=range(TOTAL)):
  """A run of one evaluation, with its outputs."""
  lines = [
    {"id": str(i), "task": "chain_v1", "is_correct": right}
    for i, right in zip(ids, is_correct, strict=True)
  ]
  content = "".join(map(files.to_json_line, lines)).encode()
  (folder / "outputs").mkdir(parents=True)
  (folder / "outputs/x.jsonl").write_bytes(content)
  part = {
    **{"path": "outputs/x.jsonl", "sha256": files.sha256(content)},
    **{"num_bytes": len(content), "step": 10},
    **{"split": "test", "decoder": "greedy"},
  }
  results = [made_up.result(10, "greedy", sum(is_correct))]
  report = made_up.make_report(results=results, parts=[part])
  path = folder / "report.json"
  made_up.write(path, report)
  return pairing.Run(path, report)


def pair(tmp_path, other, **settings):
  """Runs of which the first has the first 100 questions right."""
  one = write_run(tmp_path / "one", [i < 100 for i in range(TOTAL)])
  return one, write_run(tmp_path / "other", other, **settings)


def by_hand(one_alone, other_alone):
  """Twice the binomial's tail, and 1 where that is more."""
  number, fewer = one_alone + other_alone, min(one_alone, other_alone)
  tail = sum(math.comb(number, k) for k in range(fewer + 1)) / 2**number
  return min(1.0, 2 * tail)


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (3, 12), (12, 3), (7, 7)])
def test_the_p_value_is_the_binomial_s(counts):
  expected = by_hand(*counts) if any(counts) else 1.0
  assert pairing.mcnemar(*counts) == pytest.approx(expected, rel=1e-12)


def test_a_shift_of_few_questions_is_seen(tmp_path):
  """12 questions more and none fewer: by counts that might be chance."""
  runs = pair(tmp_path, [i < 112 for i in range(TOTAL)])
  (line,), is_consistent = pairing.compare_accuracies(*runs)
  assert not is_consistent
  assert (
    "of 200 shared questions 0 are correct in the first alone and 12" in line
  )
  assert "p = 0.00049 by McNemar's exact test, which is not above 0.01" in line


def test_without_outputs_counts_are_compared_and_a_line_says_so(tmp_path):
  one, other = pair(tmp_path, [i < 112 for i in range(TOTAL)])
  (other.path.parent / "outputs/x.jsonl").unlink()
  (line, note), is_consistent = pairing.compare_accuracies(one, other)
  assert is_consistent
  assert "100 and 112 of 200 correct" in line
  assert "by Fisher's exact test" in line
  assert note.startswith(f"{other.path} has no outputs of greedy at step 10")


def test_questions_are_paired_by_id_and_not_by_place(tmp_path):
  runs = pair(
    tmp_path,
    [i < 100 for i in reversed(range(TOTAL))],
    ids=[*reversed(range(TOTAL))],
  )
  (line,), is_consistent = pairing.compare_accuracies(*runs)
  assert is_consistent
  assert "0 are correct in the first alone and 0 in the second" in line


def test_outputs_that_were_changed_are_refused(tmp_path):
  one, other = pair(tmp_path, [True] * TOTAL)
  with (other.path.parent / "outputs/x.jsonl").open("a") as file:
    file.write("{}\n")
  with pytest.raises(UserError, match="it was changed"):
    pairing.compare_accuracies(one, other)
