"""Templates and the worked examples before a question."""

import dataclasses
import json

import hypothesis
import pytest
from hypothesis import strategies as st

from cot_latent.data import prompts
from cot_latent.data.prompts import Prompts
from cot_latent.errors import UserError

ROW = {"question": "How many?", "answer": "2", "targets": "One, two: 2."}
MANY = [
  {"question": f"q{n}", "answer": f"a{n}", "targets": f"t{n}"} for n in range(5)
]
# What a careless `format`, `replace` or `re.sub` would take for its own.
texts = st.lists(
  st.sampled_from(
    ["{question}", "{answer}", "{", "}", "{}", "{0}", "\\1", "%s", "\n", "a"]
  ),
  max_size=6,
).map("".join)


@pytest.mark.parametrize(
  ("made", "name", "text"),
  [
    (
      prompts.PAPER,
      "prior",
      "Question: How many?\nAnswer: Let's think step by step.\n",
    ),
    (
      prompts.PAPER,
      "guide",
      "Question: How many?\nAnswer: The answer is 2. Let's think step by "
      "step.\n",
    ),
    (prompts.COMPACT, "prior", "How many??\n"),
    (prompts.COMPACT, "guide", "How many?? (2)\n"),
    (prompts.DIRECT, "prior", "Question: How many?\nAnswer:\n"),
    (Prompts(prior="{question}"), "prior", "How many?"),
    (Prompts(prior="{question}{question}"), "prior", "How many?How many?"),
    # Only the two names in braces are fields.
    (Prompts(prior="{ {question!r} {{question}}"), "prior", None),
    (Prompts(guide="{answer}:{question}"), "guide", "2:How many?"),
  ],
)
def test_templates(made, name, text):
  if text is None:
    text = "{ {question!r} {How many?}"
  assert made.fill(name, ROW) == text
  # Cut into texts and fields, it is the template again.
  parts = made.split(name)
  assert set(parts[1::2]) <= {"question", "answer"}
  joined = "".join(f"{{{p}}}" if i % 2 else p for i, p in enumerate(parts))
  assert joined == getattr(made, name)


def check_fill(fill):
  """Checks that texts are put in as they are, whatever they look like."""

  @hypothesis.given(texts, texts)
  def check(question, answer):
    row = {"question": question, "answer": answer, "targets": ""}
    assert fill("prior", row) == "<" + question + "|" + question + ">"
    assert fill("guide", row) == "<" + answer + "|" + question + ">"

  check()


def test_texts_are_not_taken_for_templates():
  made = Prompts(prior="<{question}|{question}>", guide="<{answer}|{question}>")
  check_fill(made.fill)

  def by_replacing(name, row):
    text = getattr(made, name)
    for field in ("question", "answer"):
      text = text.replace(f"{{{field}}}", row[field])
    return text

  with pytest.raises(AssertionError):
    check_fill(by_replacing)


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"prior": "no field"}, "the field {question}, and no other"),
    ({"prior": ""}, "the field {question}, and no other"),
    ({"prior": "{}"}, "the field {question}, and no other"),
    ({"prior": "{question} {}"}, "the field {question}, and no other"),
    ({"prior": "{question} {answer}"}, "the field {question}, and no other"),
    ({"prior": "{Question}"}, "the field {question}, and no other"),
    ({"prior": "{ question }"}, "the field {question}, and no other"),
    (
      {"guide": "{question}"},
      "the fields {answer} and {question}, and no other",
    ),
    ({"guide": "{answer}"}, "the fields {answer} and {question}, and no other"),
    (
      {"guide": "{question} {answer} {targets}"},
      "the fields {answer} and {question}, and no other",
    ),
  ],
)
def test_templates_that_are_refused(changes, said):
  ((name, template),) = changes.items()
  with pytest.raises(UserError) as error:
    Prompts(**changes)
  assert str(error.value) == f"Prompts.{name} = {template!r} must have {said}"


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"prior": "x" * 500 + "\n"}, "must have the field"),
    ({"num_exemplars": 0}, "num_exemplars = 0 must be above 0"),
    ({"num_exemplars": True}, "num_exemplars: expected int, got True"),
    ({"is_direct": 1}, "is_direct: expected bool, got 1"),
    ({"exemplars": None}, "exemplars: expected str, got None"),
    ({"separator": 7}, "separator: expected str, got 7"),
  ],
)
def test_other_settings_that_are_refused(changes, said):
  with pytest.raises(UserError) as error:
    Prompts(**changes)
  text = str(error.value)
  assert said in text
  assert len(text.splitlines()) == 1
  assert len(text) < 200


def test_there_is_nothing_before_a_question_without_exemplars():
  for name in ("prior", "guide"):
    assert prompts.PAPER.prefix(name, []) == ""


def check_prefix(prefix):
  """Checks order, number and hints of worked examples."""
  made = dataclasses.replace(prompts.COMPACT, separator="--")
  assert prefix(made, "prior", MANY) == "q0?\nt0--q1?\nt1--q2?\nt2--"
  assert prefix(made, "guide", MANY) == (
    "q0? (a0)\nt0--q1? (a1)\nt1--q2? (a2)\nt2--"
  )
  assert prefix(made, "prior", MANY[3:]) == "q3?\nt3--q4?\nt4--"
  one = dataclasses.replace(made, num_exemplars=1)
  assert prefix(one, "prior", MANY) == "q0?\nt0--"
  all_of_them = dataclasses.replace(made, num_exemplars=9)
  assert prefix(all_of_them, "prior", MANY).count("--") == 5
  direct = dataclasses.replace(made, is_direct=True)
  assert prefix(direct, "prior", MANY[:2]) == "q0?\na0--q1?\na1--"


@pytest.mark.parametrize(
  "broken",
  [
    lambda made, name, rows: made.prefix("prior", rows),
    lambda made, name, rows: made.prefix(name, rows[::-1]),
    lambda made, name, rows: made.prefix(name, [*rows, *MANY]),
    lambda made, name, rows: made.prefix(name, rows).removesuffix("--"),
    lambda made, name, rows: dataclasses.replace(made, is_direct=True).prefix(
      name, rows
    ),
  ],
)
def test_the_text_before_a_question(broken):
  check_prefix(Prompts.prefix)
  with pytest.raises(AssertionError):
    check_prefix(broken)


def test_prompts_pass_through_json():
  """As they are stored in a cache."""
  made = Prompts(
    prior="{question}\u00e9\n", exemplars="a.jsonl", is_direct=True
  )
  stored = json.loads(json.dumps(dataclasses.asdict(made)))
  assert Prompts(**stored) == made
