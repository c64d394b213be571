"""An answer that is written in a form is read back, and nothing else is."""

import typing

import hypothesis
import pytest
from hypothesis import strategies as st

from cot_latent.data.answers import bbh as bbh_conventions
from cot_latent.data.answers import checkers
from cot_latent.data.answers import forms as answer_forms
from cot_latent.data.answers import gsm8k as gsm8k_conventions

# Answers of each kind that a task may have.
KINDS = {
  "choice": st.sampled_from("ABR").map("({})".format),
  "integer": st.integers(-(10**12), 10**12).map(str),
  "brackets": st.lists(st.sampled_from("()[]{}<>"), min_size=1).map(" ".join),
  "words": st.lists(
    st.text("abz'-", min_size=1, max_size=5), min_size=1, max_size=9
  ).map(" ".join),
  ("Yes", "No"): st.sampled_from(["Yes", "No"]),
  "text": st.text("aB \u00e9.,(", min_size=1, max_size=9).filter(
    lambda text: checkers.admits("text", text)
  ),
}


def test_the_two_forms():
  assert answer_forms.close("sentence", "(B)") == "So the answer is (B)."
  assert answer_forms.close("tag", "-7") == "<answer>\n-7\n</answer>"


def check_read_back(close, kind, form):
  """Checks that the convention of training reads what ends a target."""
  convention = next(
    iter(answer_forms.conventions("toy", form, kind, False).values())
  )

  @hypothesis.given(KINDS[kind])
  def check(answer):
    for rationale in ("", "Step by step.\n", "First (A), then 3. "):
      completion = rationale + close(form, answer)
      assert checkers.is_correct(convention, completion, answer)
      # A cut target is no answer.
      assert not checkers.is_correct(convention, completion[:-1], answer)

  check()


CASES = [("sentence", kind) for kind in KINDS] + [("tag", "integer")]


@pytest.mark.parametrize(("form", "kind"), CASES)
def test_an_answer_is_read_back(form, kind):
  check_read_back(answer_forms.close, kind, form)

  def without_end(form, answer):
    return answer_forms.close(form, answer)[:-1]

  def other_answer(form, answer):
    return answer_forms.close(form, f"{answer}1")

  for broken in (without_end, other_answer):
    with pytest.raises(AssertionError):
      check_read_back(broken, kind, form)


@pytest.mark.parametrize("is_direct", [False, True])
@pytest.mark.parametrize(("form", "kind"), CASES)
def test_the_conventions(form, kind, is_direct):
  ways = answer_forms.conventions("toy", form, kind, is_direct)
  assert [way.name for way in ways.values()] == list(ways)
  first = next(iter(ways))
  assert first == ("direct" if is_direct else "trice")
  assert not ways[first].scores_cut  # what training counts as right, has ended
  assert not ways[first].needs_question  # nor is there one in training
  known = (
    bbh_conventions.conventions(kind)
    if form == "sentence"
    else gsm8k_conventions.conventions()
  )
  assert [name for name in ways if name != "direct"] == list(known)


def check_direct(conventions):
  sentence = conventions("toy", "sentence", "text", True)["direct"]
  for completion, answer in (
    ("Yes", "Yes"),
    (" (B)\n", "(B)"),
    ("] }", "] }"),
    ("So the answer is Yes.", "So the answer is Yes."),
    ("", None),
    (" \n", None),
  ):
    assert sentence.extract(completion, "") == answer
  tag = conventions("toy", "tag", "integer", True)["direct"]
  for completion, answer in (
    ("18", "18"),
    ("$1,800.00\n", "1800"),
    ("18 eggs", None),
    ("<answer>\n18\n</answer>", None),
    ("", None),
  ):
    assert tag.extract(completion, "") == answer


def test_a_direct_answer_is_the_completion():
  check_direct(answer_forms.conventions)

  def always_with_rationales(task, form, kind, is_direct):
    del is_direct
    ways = answer_forms.conventions(task, form, kind, False)
    return {"direct": next(iter(ways.values()))}

  with pytest.raises(AssertionError):
    check_direct(always_with_rationales)


def check_wordings(conventions):
  """One task's flexible filter knows other wordings than its kind's."""
  for task, answer in (
    ("bbh_web_of_lies_v1", "yes"),
    ("bbh_web_of_lies", "yes"),
    ("bbh_navigate_v1", None),
    ("toy", None),
  ):
    ways = conventions(task, "sentence", ("Yes", "No"), False)
    found = ways["lm_eval_flexible"].extract("He tells the truth.", "")
    assert found == answer


def test_a_convention_may_depend_on_the_task():
  check_wordings(answer_forms.conventions)

  def by_kind_alone(task, form, kind, is_direct):
    del task
    return answer_forms.conventions("", form, kind, is_direct)

  with pytest.raises(AssertionError):
    check_wordings(by_kind_alone)


def test_a_convention_of_a_function():
  own = answer_forms.own("mine", lambda text: text.upper() or None)
  assert (own.name, own.scores_cut, own.needs_question) == (
    "mine",
    False,
    False,
  )
  assert own.extract("a", "question") == "A"
  assert own.extract("", "question") is None
  assert checkers.is_correct(own, "a", "A")
  assert not checkers.is_correct(own, "a", "a")  # as the task has it


def test_all_forms_are_here():
  assert {form for form, _ in CASES} == set(typing.get_args(answer_forms.Form))
