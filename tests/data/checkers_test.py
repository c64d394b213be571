"""Answers are read out of what a model wrote, and nothing is made of it."""

import decimal
import re
import time

import hypothesis
import pytest
from hypothesis import strategies as st

from cot_latent.data import checkers

# The same examples on every machine; a nightly seed would be another profile.
fixed = hypothesis.settings(
  derandomize=True, deadline=None, max_examples=300, database=None
)
EXTRACTORS = [checkers.answer_sentence, checkers.answer_tag]
DIGITS = "7" * 10_000  # int() refuses that many

# Pieces of which completions are made, so that random ones often have answers.
PIECES = (
  *("the answer is ", "The answer is ", "<answer>", "</answer>"),
  *("(A)", "(B)", "18", "-5", "1,800", "$", ".", "\n", "\r\n", " ", "\u0663"),
)
completions = st.one_of(
  st.text(), st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
)


def tagged(text):
  return f"Let us see.\n<answer>\n{text}\n</answer>"


@pytest.mark.parametrize(
  ("completion", "answer"),
  [
    ("So the answer is (B).", "(B)"),
    ("The answer is (B).", "(B)"),
    ("It is (B). So the answer is (B). ", "(B)"),
    ("It is (B).\r\nSo the answer is (B).\r\n", "(B)"),
    ("the answer is True.", "True"),
    ("the answer is ] } ) >.", "] } ) >"),
    ("the answer is apple pear.", "apple pear"),
    ("the answer is Monsters, Inc.", "Monsters, Inc"),
    ("the answer is ((B)).", "((B))"),
    # As it was written: only the very same text is right.
    ("the answer is B.", "B"),
    ("the answer is (b).", "(b)"),
    ("the answer is **(B)**.", "**(B)**"),
    ("the answer is (A) and (B).", "(A) and (B)"),
    ("the answer is (A) or (B).", "(A) or (B)"),
    ("the answer is 18.0.", "18.0"),
    ("the answer is 1,800.", "1,800"),
    ("the answer is $18.", "$18"),
    ("the answer is 6*3.", "6*3"),
    ("the answer is \u0663.", "\u0663"),
    ("the answer is (B)..", "(B)."),  # one period ends the sentence
    (f"the answer is {DIGITS}.", DIGITS),
    # The last sentence is the answer.
    ("The answer is (A). No, the answer is (B).", "(B)"),
    ("the answer is (A). The answer is (B).", "(B)"),
    ("the answer is the answer is (B).", "(B)"),
    ("Q: a\nA: the answer is (A).\n\nQ: b\nA: the answer is (B).", "(B)"),
    # It must be there, end the completion, and be one line.
    ("(B)", None),
    ("(B).", None),
    ("The answer: (B).", None),
    ("THE ANSWER IS (B).", None),
    ("the answer is(B).", None),
    ("the answer is (B)", None),  # cut at the token limit
    ("the answer is", None),
    ("the answer is ", None),
    ("the answer is .", None),
    ("the answer is \n.", None),
    ("the answer is (B).\n\nQ: another question?", None),
    ("the answer is (B).\n\nQ: another. And more.", None),
    ("the answer is (A)\nor (B).", None),
    ("", None),
    (" \n", None),
    (".", None),
  ],
)
def test_the_sentence_that_ends_a_completion(completion, answer):
  assert checkers.answer_sentence(completion) == answer


@pytest.mark.parametrize("more", [" so", " so.", "\n so", "\n so."])
def test_a_sentence_followed_by_more_is_not_the_answer(more):
  completion = "So the answer is (B)." + more * 100
  assert checkers.answer_sentence(completion) != "(B)"


@pytest.mark.parametrize(
  ("completion", "answer"),
  [
    (tagged("18"), "18"),
    ("<answer>18</answer>", "18"),
    (tagged("18").replace("\n", "\r\n"), "18"),
    (tagged("18") + " so" * 133, "18"),
    (tagged("18") + "\n\nQuestion: another one?\nAnswer:", "18"),
    # The last complete tag is the answer.
    (tagged("2") + "\n\n" + tagged("18"), "18"),
    (tagged("18") + "\n<answer>\n19", "18"),
    ("<answer>\n" + tagged("18"), "18"),
    # A tag must be there, be closed, and hold a number.
    ("18", None),
    ("#### 18", None),
    ("The answer is 18.", None),
    ("<answer>\n18", None),  # cut at the token limit
    ("18\n</answer>", None),
    ("</answer>18<answer>", None),
    ("<ANSWER>18</ANSWER>", None),
    ("<answer></answer>", None),
    ("<answer>\n</answer>", None),
    (tagged("18\n19"), None),
    (tagged("18") + tagged("none"), None),
    ("", None),
  ],
)
def test_the_last_tag_of_a_completion(completion, answer):
  assert checkers.answer_tag(completion) == answer


@pytest.mark.parametrize(
  ("text", "number"),
  [
    ("18", "18"),
    ("18.", "18"),
    ("18.0", "18"),
    ("18.00", "18"),
    ("18.00.", "18"),
    ("018", "18"),
    (" 18\r\n", "18"),
    ("-5", "-5"),
    ("-5.50", "-5.5"),
    ("-0", "0"),
    ("-0.00", "0"),
    ("0.05", "0.05"),
    ("100", "100"),
    ("1,800", "1800"),
    ("1,234,567.80", "1234567.8"),
    ("$18", "18"),
    ("18$", "18"),
    ("-$18", "-18"),
    ("$-18", "-18"),
    ("$1,800.50.", "1800.5"),
    (DIGITS, DIGITS),
    (f"-{DIGITS}.{DIGITS}0", f"-{DIGITS}.{DIGITS}"),
  ],
)
def test_a_number_is_written_in_one_way(text, number):
  assert checkers.normalize_number(text) == number
  assert checkers.answer_tag(tagged(text)) == number


NO_NUMBERS = [
  *("", " ", ".", "-", "$", ",", "$.", "-.", ",5", "(B)", "B", "none"),
  *("18%", "18 eggs", "eggs 18", "(18)", "**18**", "18 19", "18\n19", "18, 19"),
  *("\u0663", "\uff11\uff18", "\u00b2", "1\u0663", "\u22125"),
  *("5$3", "1.2.3", "18..", "1.5,0", "1.,5", "--5", "5-", "- 5"),
  *("6*3", "6+3", "36/2", "1e3", "0x12", "1_800", "inf", "nan", "None"),
]


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_is_no_number_is_no_answer(text):
  assert checkers.normalize_number(text) is None
  assert checkers.answer_tag(tagged(text)) is None


def check_evaluates_nothing(normalize):
  """Checks that arithmetic and Python are no numbers."""
  for text in ("6*3", "int('18')", "len('a')", "0x12", "1_800", "9**2"):
    assert normalize(text) is None


def test_nothing_is_evaluated():
  check_evaluates_nothing(checkers.normalize_number)
  with pytest.raises(AssertionError):
    check_evaluates_nothing(lambda text: str(eval(text)))


@fixed
@hypothesis.given(st.integers(), st.sampled_from(["{:,}", "{}.00", "{}."]))
def test_integers_survive(number, form):
  assert checkers.normalize_number(form.format(number)) == str(number)


@fixed
@hypothesis.given(st.decimals(allow_nan=False, allow_infinity=False, places=3))
def test_decimals_keep_their_value(number):
  text = checkers.normalize_number(f"{number:f}")
  assert text is not None
  assert decimal.Decimal(text) == number


@fixed
@hypothesis.given(st.from_regex(r"\A\$?-?[0-9,]*[0-9.]*\.?\Z"))
def test_what_is_read_is_canonical(text):
  """Equal numbers are equal texts, so that equality of texts is enough."""
  number = checkers.normalize_number(text)
  if number is not None:
    assert re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]*[1-9])?", number)
    assert number != "-0"
    assert checkers.normalize_number(number) == number
    bare = text.strip().removesuffix(".").replace("$", "").replace(",", "")
    assert decimal.Decimal(number) == decimal.Decimal(bare)


@fixed
@hypothesis.given(completions)
def test_any_text_has_an_answer_or_none(completion):
  """No exception, and never an empty answer, which a faulty row might equal."""
  for extract in EXTRACTORS:
    answer = extract(completion)
    assert answer is None or answer.strip() == answer != ""
  sentence = checkers.answer_sentence(completion)
  assert sentence is None or sentence in completion


one_line = st.text().map(lambda text: " ".join(text.split())).filter(bool)


@fixed
@hypothesis.given(completions, one_line, st.sampled_from(["", " ", "\n", "\r"]))
def test_a_sentence_is_read_back(before, answer, after):
  hypothesis.assume("he answer is" not in answer)
  completion = f"{before}The answer is {answer}.{after}"
  assert checkers.answer_sentence(completion) == answer


def check_paper_rule(extract, completion):
  """Compares with the paper's rule: the completion ends with the sentence."""
  ends = ("the answer is (B).", "The answer is (B).")
  if completion.rstrip().endswith(ends):
    assert extract(completion) == "(B)"
  if extract(completion) == "(B)":  # then it does, white space apart
    assert " ".join(completion.split()).endswith(ends)


@fixed
@hypothesis.given(completions)
def test_a_sentence_is_right_by_the_papers_rule(completion):
  check_paper_rule(checkers.answer_sentence, completion)


def anywhere(completion):
  """Takes the first sentence, wherever it stands."""
  match = re.search(r"[Tt]he answer is (.*?)\.", completion)
  return match and match[1]


def greedy(completion):
  """Takes all that follows the first marker."""
  match = re.search(r"[Tt]he answer is (.*)\.$", completion.rstrip(), re.S)
  return match and match[1]


@pytest.mark.parametrize(
  ("broken", "completion"),
  [
    (anywhere, "the answer is (B). No, the answer is (A)."),
    (greedy, "the answer is (A). No, the answer is (B)."),
  ],
)
def test_the_papers_rule_rejects_broken_readers(broken, completion):
  check_paper_rule(checkers.answer_sentence, completion)
  with pytest.raises(AssertionError):
    check_paper_rule(broken, completion)


MEGABYTE = 1_000_000


@pytest.mark.parametrize(
  "piece",
  [
    *("the answer is ", "The answer is x.", "<answer>", "</answer>", " ", "."),
    *("<answer></answer>", "<answer>1", "1", "1,", "1.", "0", "$", "-", "\n"),
  ],
)
def test_a_megabyte_takes_no_time(piece):
  text = piece * (MEGABYTE // len(piece))
  cases = [text, f"the answer is {text}.", f"<answer>{text}</answer>"]
  cases += [f"<answer>{text}x</answer>", f"<answer>1.{text}x</answer>"]
  start = time.process_time()
  for completion in cases:
    for extract in EXTRACTORS:
      extract(completion)
  assert time.process_time() - start < 0.5
