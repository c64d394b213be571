"""Fuzzing of the answer checkers.

`python -m tests.data.answers.checkers_fuzz --seconds 60` makes completions with
Hypothesis, other ones each time. An external fuzzer, such as atheris, calls
`test_one_input` with bytes.
"""

import argparse
import random
import time
from typing import NamedTuple

import hypothesis
from hypothesis import strategies as st

from cot_latent.data.answers import bbh as bbh_conventions
from cot_latent.data.answers import checkers
from cot_latent.data.answers import gsm8k as gsm8k_conventions


class Case(NamedTuple):
  """A kind of question, one question, and some answers, all different."""

  kind: checkers.Kind
  answers: tuple[str, ...]
  question: str = ""
  task: str = ""


HATS = "Which?\nOptions:\n(A) the red hat\n(B) the blue hat\n(C) \u00bfno hat?"
WORDS = "Sort the words. List: pear apple it&t o'hare fig"
CASES = (
  Case("choice", ("(A)", "(B)", "(Q)"), HATS),
  Case("choice_or_text", ("(A)", "the blue hat", "pear, fig"), HATS),
  Case("integer", ("0", "5", "-5", "18", "1800"), "How many?"),
  Case("brackets", ("]", "] )", "} > ]"), "Complete: [ ( "),
  Case("words", ("apple fig it&t o'hare pear", "fig pear"), WORDS),
  Case("text", ("a hat", "18"), "What?"),
  Case(("Yes", "No"), ("Yes", "No"), "Is it?"),
  Case(("Yes", "No"), ("Yes", "No"), "Does she?", "web_of_lies"),
  Case(("yes", "no"), ("yes", "no"), "Is it?", "sports_understanding"),
  Case(("True", "False"), ("True", "False"), "not True is"),
  Case(("valid", "invalid"), ("valid", "invalid"), "Is it valid?"),
)
GSM8K = Case("integer", ("0", "5", "-5", "18", "1800"), "How many?")

ZEROSHOT_STOPS = ("</s>", "Q:", "<|im_end|>")
BBH_STOPS = {
  "lm_eval_strict": ZEROSHOT_STOPS,
  "lm_eval_flexible": ZEROSHOT_STOPS,
  "lm_eval_fewshot": ("</s>", "Q", "\n\n"),
}
GSM8K_STOPS = {
  "lm_eval_strict": ("</s>", "Question:", "<|im_end|>"),
  "lm_eval_flexible": ("</s>", "Question:", "<|im_end|>"),
  "lm_eval_cot_strict": ZEROSHOT_STOPS,
}
READERS = [
  (convention, case, BBH_STOPS.get(name, ()))
  for case in CASES
  for name, convention in bbh_conventions.conventions(
    case.kind, case.task
  ).items()
] + [
  (convention, GSM8K, GSM8K_STOPS.get(name, ()))
  for name, convention in gsm8k_conventions.conventions().items()
]

# Pieces of which completions are made, so that random ones often have answers.
PIECES = (
  *("the answer is ", "The answer is ", "The answer: ", "The final answer: "),
  *("<answer>", "</answer>", "#### ", "(A)", "(B)", "(Q)", "(b)", ": B", "B"),
  *("18", "-5", "1,800", "18.0", "0", "$", "-", "..", "...", "eighteen"),
  *("one ", "hundred", "thousand ", "million ", "twenty ", "eight", "and "),
  *("the blue hat", "no hat", "pear", "apple ", "fig ", "it&t ", "o'hare "),
  *("Yes", "no", "not plausible", "tells the truth", "True", "invalid "),
  *("] ", "} >", ")", '"', "**", "\\", ",", ".", "\n", "\n\n", "\r\n", " "),
  *("Q", "Q: ", "Question: ", "</s>", "<|im_end|>", "[invalid]", "\0"),
  *("\u0663", "\uff11", "\u0130", "\ud800", "\u2028", "\u00a0", "\x1c"),
)
completions = st.one_of(
  st.text(), st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
)


def check_reading(convention, case, completion):
  """Checks that there is at most one answer, and that one may be correct."""
  found = convention.extract(completion, case.question)
  assert found is None or (isinstance(found, str) and found)
  right = [
    answer
    for answer in case.answers
    if checkers.is_correct(convention, completion, answer, case.question)
  ]
  assert right == [
    answer
    for answer in case.answers
    if found is not None and convention.normalize(answer) == found
  ]
  assert len(right) <= 1


def check_stops(convention, case, stops, completion):
  """Checks that text after a stop string changes nothing."""
  found = convention.extract(completion, case.question)
  for stop in stops:
    more = f"{completion}{stop}{completion} the answer is {case.answers[0]}."
    assert convention.extract(more, case.question) == found


def check_completion(completion):
  """Checks what holds of every completion, for all conventions."""
  for convention, case, stops in READERS:
    check_reading(convention, case, completion)
    check_stops(convention, case, stops, completion)
  for case in CASES:
    trice = bbh_conventions.conventions(case.kind)["trice"]
    for answer in case.answers:
      more = f"{completion}\nSo the answer is {answer}."
      assert checkers.is_correct(trice, more, answer)
      assert not checkers.is_correct(trice, more[:-1], answer)


def test_one_input(data: bytes) -> None:
  """Checks one completion; bytes that are not UTF-8 become surrogates.

  Args:
    data: From a fuzzer.

  Raises:
    AssertionError: If a check fails, or takes unreasonably long.
  """
  start = time.process_time()
  check_completion(data.decode(errors="surrogateescape"))
  assert time.process_time() - start < 1 + 1e-4 * len(data)


def main() -> None:
  """Fuzzes for some seconds, and says how much was tried."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--seconds", type=float, default=60)
  seconds = parser.parse_args().seconds
  end, tried = time.monotonic() + seconds, 0

  def check(completion):
    nonlocal tried
    if time.monotonic() < end:
      tried += 1
      check_completion(completion)
      test_one_input(completion.encode(errors="replace"))

  while time.monotonic() < end:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}, {tried} completions so far", flush=True)
    settings = hypothesis.settings(
      max_examples=2000,
      deadline=None,
      database=None,
      suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.seed(seed)(settings(hypothesis.given(completions)(check)))()
  print(f"no fault in {tried} completions")


if __name__ == "__main__":
  main()
