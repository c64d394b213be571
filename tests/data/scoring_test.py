"""Stored completions scored again: what each line means, and what is wrong."""

import json

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from cot_latent.data import scoring
from cot_latent.data.answers import forms as answer_forms
from cot_latent.data.examples import TokenizedSplit
from cot_latent.data.prompts import Prompts
from cot_latent.data.task import Task
from cot_latent.errors import UserError
from cot_latent.models import vocabularies
from tests.asserts import message_of

NO_TOKENS = np.zeros(0, np.int32)
# id, task, question, answer
KNOWN = {
  "train": [
    ("a/0", "toy_a", "One of\nOptions:\n(A) red\n(B) blue", "(B)"),
    ("a/1", "toy_a", "One of\nOptions:\n(A) up\n(B) down", "(A)"),
  ],
  "test": [("b/0", "toy_b", "How many?", "7")],
}


def read(split):
  columns = zip(*KNOWN[split], strict=True)
  tokens = [[NO_TOKENS] * len(KNOWN[split])] * 3
  return TokenizedSplit(*map(list, columns), *tokens)


def refuse(split):
  raise AssertionError("the data were read")


def make_task(kinds, read=refuse, form="sentence"):
  """A task, or for several kinds a mixture."""
  return Task(
    name="toy",
    vocabulary=vocabularies.byte_vocabulary(),
    prompts=Prompts(),
    form=form,
    kinds=kinds,
    conventions={
      name: answer_forms.conventions(
        name, form or "sentence", kind, is_direct=False
      )
      for name, kind in kinds.items()
    },
    splits=["train", "test"],
    rationale_splits=(),
    read=read,
    separator=NO_TOKENS,
    lesson=NO_TOKENS,
  )


ONE = {"toy_a": "choice"}
MIXTURE = {"toy_a": "choice", "toy_b": "integer"}
RIGHT, WRONG = "So the answer is (B).", "So the answer is (A)."


@pytest.fixture
def score(tmp_path):
  """Scores lines that are given as objects or as lines of the file."""

  def score(*lines, task=None, convention=None):
    path = tmp_path / "outputs.jsonl"
    texts = [n if isinstance(n, str) else json.dumps(n) for n in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return scoring.score(task or make_task(ONE), convention, path)

  score.path = tmp_path / "outputs.jsonl"
  return score


def test_a_completion(score):
  verdicts = score(
    {"completion": RIGHT, "target": "(B)"},
    {"completion": WRONG, "target": "(B)", "id": "mine"},
    {"completion": "no idea", "target": "(B)"},
    {"completion": "", "target": "(B)"},
    task=make_task(ONE, read),
  )
  assert verdicts == [
    ("line 1", "toy_a", "(B)", "(B)", True),
    ("mine", "toy_a", "(A)", "(B)", False),
    ("line 3", "toy_a", None, "(B)", False),
    ("line 4", "toy_a", None, "(B)", False),
  ]


def test_unknown_fields_are_ignored(score):
  line = {"completion": RIGHT, "target": "(B)", "step": 7, "correct": False}
  assert score(line)[0].correct


def test_a_file_with_targets_and_no_ids_never_reads_the_data(score):
  """`make_task` raises where they are read."""
  line = {"completion": RIGHT, "target": "(B)"}
  assert score(line)
  both = make_task(MIXTURE)
  assert score(line | {"task": "toy_a"}, task=both)
  asked = line | {"question": "One of\n(A) x\n(B) y"}
  assert score(asked, convention="lm_eval_flexible")
  with pytest.raises(AssertionError, match="the data were read"):
    score({"completion": RIGHT, "id": "a/0"})


def test_the_data_are_read_once(score):
  calls = []

  def count(split):
    calls.append(split)
    return read(split)

  task = make_task(MIXTURE, count)
  lines = [{"completion": RIGHT, "id": "a/0"}, {"completion": "", "id": "b/0"}]
  assert len(score(*lines, *lines, task=task)) == 4
  assert calls == ["train", "test"]


def test_targets_and_questions_are_found_by_id(score):
  task = make_task(ONE, read)
  lines = [
    {"completion": RIGHT, "id": "a/0"},
    {"completion": RIGHT, "id": "a/1"},
    {"completion": RIGHT, "id": "a/1", "target": "(A)"},
    {"completion": RIGHT, "id": "a/1", "target": None},
  ]
  found = score(*lines, task=task)
  assert [v.correct for v in found] == [True, False, False, False]
  assert [v.target for v in found] == ["(B)", "(A)", "(A)", "(A)"]
  assert [v.place for v in found] == ["a/0", "a/1", "a/1", "a/1"]
  # This convention finds the option's text in the question.
  lines = [
    {"completion": "It is blue", "id": "a/0"},
    {"completion": "It is down", "id": "a/0"},
    {"completion": "It is down", "id": "a/0", "question": "(A) up (B) down"},
    {"completion": "It is blue", "id": "a/0", "question": None},
  ]
  found = score(*lines, task=task, convention="lm_eval_flexible")
  # In its normal form, which has no capitals.
  assert [v.extracted for v in found] == ["(b)", None, "(b)", "(b)"]
  assert [v.correct for v in found] == [True, False, True, True]


def test_conventions(score):
  line = {"completion": "the answer is (B). Q: next", "target": "(B)"}
  found = {
    name: score(line | {"question": ""}, convention=name)[0]
    for name in (None, *make_task(ONE).conventions["toy_a"])
  }
  assert {name: verdict.correct for name, verdict in found.items()} == {
    None: False,
    "trice": False,
    "bbh_authors": False,
    "bbh_authors_direct": False,
    "lm_eval_strict": True,
    "lm_eval_flexible": True,
    "lm_eval_fewshot": False,
  }
  assert found["lm_eval_flexible"].target == "(b)"
  assert found["lm_eval_fewshot"].target == "(B)"


def test_numbers_in_tags(score):
  task = make_task({"toy_a": "integer"}, form="tag")
  lines = [
    {"completion": "<answer>\n$1,800.00\n</answer>", "target": target}
    for target in ("1800", "1,800", "1800.0", "180")
  ]
  found = score(*lines, task=task)
  assert [v.correct for v in found] == [True, True, True, False]
  assert {v.extracted for v in found} == {"1800"}


@pytest.mark.parametrize(
  ("kind", "form", "target", "wanted"),
  [
    ("integer", "tag", "1,000 dollars", "a number"),
    ("integer", "tag", "#### 5", "a number"),
    ("integer", "tag", "none at all", "a number"),
    ("integer", "tag", "", "a number"),
    ("integer", "sentence", "1,000", "an integer"),
    ("choice", "sentence", "A", "(A), (B), ..."),
    ("choice", "sentence", "(A) foo", "(A), (B), ..."),
    (("Yes", "No"), "sentence", "yes", "Yes or No"),
    ("text", "sentence", " a ", "text"),
  ],
)
def test_a_target_that_no_completion_could_equal_is_refused(
  score, kind, form, target, wanted
):
  task = make_task({"toy_a": kind}, form=form)
  said = message_of(score, {"completion": "", "target": target}, task=task)
  assert said == (
    f"{score.path}, line 1: the target {target!r} is not {wanted}, as the "
    "answers of toy_a are: write it so, or give 'id' alone"
  )


def test_a_task_with_a_rule_of_its_own_has_any_targets(score):
  task = make_task({"toy_a": "integer"}, form=None)
  assert not score({"completion": "", "target": "none"}, task=task)[0].correct


def test_a_target_that_contradicts_its_id_is_refused(score):
  task = make_task(MIXTURE, read)
  good = {"completion": "", "id": "b/0", "task": "toy_b", "target": "7"}
  assert score(good, task=task)
  assert message_of(score, good, good | {"target": "8"}, task=task) == (
    f"{score.path}, line 2: the target is '8', and the answer of b/0 is '7': "
    "leave out 'target' or 'id'"
  )


def test_without_the_data_the_targets_count(score):
  calls = []

  def fail(split):
    calls.append(split)
    raise UserError("no data")

  task = make_task(ONE, fail)
  line = {"completion": RIGHT, "id": "a/0", "target": "(B)"}
  assert [v.correct for v in score(line, line, task=task)] == [True, True]
  assert len(calls) == 1
  with pytest.raises(UserError, match="line 2: no data"):
    score(line, {"completion": RIGHT, "id": "a/0"}, task=task)


def test_repeated_ids_are_counted(score):
  line = {"completion": RIGHT, "target": "(B)"}
  lines = [line, line, *(line | {"id": name} for name in ("x", "y", "x", "x"))]
  assert scoring.num_repeated(score(*lines, task=make_task(ONE, read))) == 1


# Majority ----------------------------------------------------------------


def check_majority(majority):
  for given, wanted in (
    ([], None),
    ([None], None),
    (["a"], "a"),
    ([None, None, "a"], "a"),
    (["a", "b", "b"], "b"),
    (["b", "a"], "b"),  # among equals, the one drawn first
    (["a", "b", "b", "a"], "a"),
    (["c", "b", "a", "a", "b"], "b"),
    ([None, "b", None, "a", None], "b"),
    (["", "", "a"], ""),
  ):
    assert majority(given) == wanted


def by_last_draw(answers):
  votes = [answer for answer in answers if answer is not None]
  return max(reversed(votes), key=votes.count, default=None)


def with_a_vote_for_none(answers):
  return max(answers, key=answers.count, default=None)


@pytest.mark.parametrize("broken", [by_last_draw, with_a_vote_for_none])
def test_majority(broken):
  check_majority(scoring.majority)
  with pytest.raises(AssertionError):
    check_majority(broken)


@hypothesis.given(st.lists(st.sampled_from([None, "a", "b", "c"])))
def test_the_majority_has_most_votes(answers):
  found = scoring.majority(answers)
  votes = [answer for answer in answers if answer is not None]
  if found is None:
    assert not votes
  else:
    assert votes.count(found) == max(map(votes.count, votes))
    for other in votes[: votes.index(found)]:
      assert votes.count(other) < votes.count(found)


def test_several_completions(score):
  found = score(
    {"completions": [RIGHT], "target": "(B)"},
    {"completions": [WRONG, RIGHT, RIGHT], "target": "(B)"},
    {"completions": [WRONG, RIGHT], "target": "(B)"},
    {"completions": [WRONG, "?", RIGHT, "?", "?", RIGHT], "target": "(B)"},
    {"completions": ["?", "?"], "target": "(B)"},
  )
  assert [v.extracted for v in found] == ["(B)", "(B)", "(A)", "(B)", None]
  assert [v.correct for v in found] == [True, True, False, True, False]


# Cut completions ---------------------------------------------------------


@pytest.mark.parametrize(
  ("convention", "counts"), [("trice", False), ("bbh_authors", True)]
)
def test_what_was_cut_counts_where_the_convention_has_it(
  convention, counts, score
):
  line = {"completion": RIGHT, "target": "(B)"}
  lines = [line, line | {"ended": True}, line | {"ended": False}]
  found = score(*lines, convention=convention)
  assert [v.correct for v in found] == [True, True, counts]
  several = {
    "completions": [RIGHT, WRONG, WRONG],
    "target": "(B)",
    "ended": [True, False, False],
  }
  (one,) = score(several, convention=convention)
  assert one.correct is not counts  # two are wrong, but they were cut


# Mixtures ----------------------------------------------------------------


def test_a_mixture_goes_by_the_task_of_each_line(score):
  task = make_task(MIXTURE, read)
  found = score(
    {"completion": RIGHT, "id": "a/0"},
    {"completion": "The answer is 7.", "id": "b/0"},
    {"completion": "The answer is 7.", "task": "toy_b", "target": "7"},
    {"completion": RIGHT, "task": "toy_a", "target": "(B)", "id": "mine"},
    task=task,
  )
  assert [(v.task, v.correct) for v in found] == [
    ("toy_a", True),
    ("toy_b", True),
    ("toy_b", True),
    ("toy_a", True),
  ]
  # By the convention of each: an integer is read out of the text.
  (one,) = score(
    {"completion": "all 7 of them", "id": "b/0"},
    task=task,
    convention="lm_eval_flexible",
  )
  assert one.correct


@pytest.mark.parametrize(
  ("line", "said"),
  [
    ({"completion": "", "target": "7"}, "'id' must be a string, got None"),
    ({"completion": "", "id": 7}, "'id' must be a string, got 7"),
    ({"completion": "", "id": "c/0"}, "task 'toy' has no example 'c/0'"),
    (
      {"completion": "", "target": "7", "task": "toy_c"},
      "task 'toy' has no part 'toy_c'",
    ),
    (
      {"completion": "", "target": "7", "task": ["toy_a"]},
      "task 'toy' has no part ['toy_a']",
    ),
    ({"completion": "", "target": "7", "task": 7}, "task 'toy' has no part 7"),
  ],
)
def test_a_line_of_no_known_task(line, said, score):
  text = message_of(score, line, task=make_task(MIXTURE, read))
  assert text == f"{score.path}, line 1: {said}"


def test_the_task_of_a_line_is_checked_though_there_is_one(score):
  line = {"completion": "", "target": "(B)", "task": "toy_b"}
  said = "task 'toy' has no part 'toy_b'"
  assert message_of(score, line) == f"{score.path}, line 1: {said}"


def test_counts_by_task():
  scored = [("b", True), ("a", False), ("b", False), ("b", True), ("a", False)]
  assert scoring.count_by_task(scored) == {"a": (0, 2), "b": (2, 3)}
  assert list(scoring.count_by_task(scored)) == ["a", "b"]
  assert scoring.count_by_task([]) == {}


# Lines that cannot be scored ---------------------------------------------

GOOD = {"completion": RIGHT, "target": "(B)"}
NEITHER = "a line has either 'completion' or 'completions'"
ENDED = "'ended' must be true or false, one for each completion"


@pytest.mark.parametrize(
  ("line", "said"),
  [
    (7, "expected an object, got 7"),
    (None, "expected an object, got None"),
    ([RIGHT], "expected an object, got ['So the"),
    ({}, "there is neither 'id' nor 'target'"),
    ({"completion": RIGHT}, "there is neither 'id' nor 'target'"),
    ({"completion": RIGHT, "id": "a/9"}, "task 'toy' has no example 'a/9'"),
    ({"completion": RIGHT, "id": ["a"]}, "'id' must be a string, got ['a']"),
    ({"completion": RIGHT, "id": None}, "'id' must be a string, got None"),
    (GOOD | {"target": 7}, "'target' must be a string, got 7"),
    (GOOD | {"target": ["(B)"]}, "'target' must be a string, got ['(B)']"),
    ({"target": "(B)"}, NEITHER),
    (GOOD | {"completions": [RIGHT]}, NEITHER),
    (GOOD | {"completion": None}, "a completion must be a string, got None"),
    (GOOD | {"completion": [RIGHT]}, "a completion must be a string, got ['"),
    ({"completions": RIGHT, "target": "(B)"}, "'completions' must be a list"),
    ({"completions": [], "target": "(B)"}, "'completions' must be a list"),
    (
      {"completions": [RIGHT, 7], "target": "(B)"},
      "a completion must be a string, got 7",
    ),
    (GOOD | {"ended": "no"}, ENDED),
    (GOOD | {"ended": 0}, ENDED),
    (GOOD | {"ended": None}, ENDED),
    (GOOD | {"ended": [True]}, ENDED),
    ({"completions": [RIGHT], "target": "(B)", "ended": True}, ENDED),
    ({"completions": [RIGHT], "target": "(B)", "ended": []}, ENDED),
    ({"completions": [RIGHT], "target": "(B)", "ended": [1]}, ENDED),
    (
      {"completions": [RIGHT, RIGHT], "target": "(B)", "ended": [True]},
      ENDED,
    ),
    ("{", "not valid JSON"),
    ("", "not valid JSON"),
  ],
)
def test_malformed_lines(line, said, score):
  text = message_of(score, GOOD, line, GOOD, task=make_task(ONE, read))
  assert text.startswith(f"{score.path}, line 2: {said}")


def test_a_question_is_asked_for(score):
  settings = {"convention": "lm_eval_flexible", "task": make_task(ONE, read)}
  assert message_of(score, GOOD, **settings) == (
    f"{score.path}, line 1: convention 'lm_eval_flexible' reads the question: "
    "give 'question' or 'id'"
  )
  text = message_of(score, GOOD | {"question": 7}, **settings)
  assert text.endswith("line 1: 'question' must be a string, got 7")
  text = message_of(score, GOOD | {"id": "a/9"}, **settings)
  assert text.endswith("line 1: task 'toy' has no example 'a/9'")


def test_an_unknown_convention(score):
  text = message_of(score, GOOD, convention="lm_eval")
  assert text == (
    f"{score.path}, line 1: task 'toy_a' has no convention 'lm_eval', only "
    "trice, bbh_authors, bbh_authors_direct, lm_eval_strict, "
    "lm_eval_flexible, lm_eval_fewshot"
  )


def test_files_that_cannot_be_read(score):
  assert message_of(score) == f"{score.path} is empty"
  score.path.unlink()
  with pytest.raises(UserError, match=r"cannot read .*No such file"):
    scoring.score(make_task(ONE), None, score.path)
