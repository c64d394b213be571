"""Answers are read out of what a model wrote, and nothing is made of it."""

import decimal
import re
import time

import hypothesis
import pytest
from hypothesis import strategies as st

from cot_latent.data.answers import bbh as bbh_conventions
from cot_latent.data.answers import checkers
from cot_latent.data.answers import gsm8k as gsm8k_conventions
from cot_latent.errors import UserError
from tests.data.answers import checkers_fuzz

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
    # As it was written: only the very same text is correct.
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


@hypothesis.given(st.integers(), st.sampled_from(["{:,}", "{}.00", "{}."]))
def test_integers_survive(number, form):
  assert checkers.normalize_number(form.format(number)) == str(number)


@hypothesis.given(st.decimals(allow_nan=False, allow_infinity=False, places=3))
def test_decimals_keep_their_value(number):
  text = checkers.normalize_number(f"{number:f}")
  assert text is not None
  assert decimal.Decimal(text) == number


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


@hypothesis.given(completions)
def test_any_text_has_an_answer_or_none(completion):
  """No exception, and never an empty answer, which a faulty row might equal."""
  for extract in EXTRACTORS:
    answer = extract(completion)
    assert answer is None or answer.strip() == answer != ""
  sentence = checkers.answer_sentence(completion)
  assert sentence is None or sentence in completion


one_line = st.text().map(lambda text: " ".join(text.split())).filter(bool)


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


@hypothesis.given(completions)
def test_a_sentence_is_correct_by_the_papers_rule(completion):
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


# Conventions ----------------------------------------------------------------

BBH_NAMES = ("trice", "bbh_authors", "lm_eval_strict", "lm_eval_flexible")
BBH_NAMES += ("lm_eval_fewshot",)
HATS, WORDS = checkers_fuzz.HATS, checkers_fuzz.WORDS
MORE = " so" * 133  # 399 characters


def check_bbh(kind, completion, expected, right=None, question="", task=""):
  """Checks what each convention reads, and which of it is correct.

  Args:
    kind: Of answers.
    completion: What a model wrote.
    expected: What the conventions of BBH_NAMES read, in this order.
    right: The known answer, or None to check the reading only.
    question: What was asked.
    task: Whose question it is.
  """
  conventions = bbh_conventions.conventions(kind, task)
  assert set(conventions) == {*BBH_NAMES, "bbh_authors_direct"}
  read = {n: c.extract(completion, question) for n, c in conventions.items()}
  assert tuple(read[name] for name in BBH_NAMES) == tuple(expected)
  # The direct rule compares all that was written.
  whole = completion if completion.strip() else None
  assert read["bbh_authors_direct"] == whole
  if right is not None:
    for name, convention in conventions.items():
      lower = name in ("lm_eval_strict", "lm_eval_flexible")
      assert checkers.is_correct(convention, completion, right, question) == (
        read[name] == (right.lower() if lower else right)
      )


# Answers to the question HATS, by trice, the authors, and lm-eval's strict,
# flexible and fewshot.
@pytest.mark.parametrize(
  ("completion", "expected"),
  [
    ("So the answer is (B).", ["(B)", "(B)", "(b)", "(b)", "(B)"]),
    ("So the answer is (B). ", ["(B)", "(B)", "(b)", "(b)", "(B)."]),
    ("So the answer is (B)..", ["(B).", "(B).", "(b)", "(b)", "(B)."]),
    (
      "So it is.\r\nSo the answer is (B).\r\n",
      ["(B)", "(B)", "(b)", "(b)", "(B)."],
    ),
    ("(B)", [None, None, None, "(b)", None]),
    # As it was written, except for the flexible rule.
    ("So the answer is (b).", ["(b)", "(b)", "(b)", None, "(b)"]),
    ("So the answer is B.", ["B", "B", "b", None, "B"]),
    (
      "So the answer is **(B)**.",
      ["**(B)**", "**(B)**", "**(b)**", "(b)", "**(B)**"],
    ),
    ("So the answer is ((B)).", ["((B))", "((B))", "((b))", "(b)", "((B))"]),
    (
      "So the answer is (A) and (B).",
      ["(A) and (B)", "(A) and (B)", "(a) and (b)", "(b)", "(A) and (B)"],
    ),
    (
      "So the answer is (B) or (A).",
      ["(B) or (A)", "(B) or (A)", "(b) or (a)", "(a)", "(B) or (A)"],
    ),
    ('So the answer is "(B)".', ['"(B)"', '"(B)"', "(b)", "(b)", '"(B)"']),
    (
      "So the answer is (\u0412).",
      ["(\u0412)", "(\u0412)", "(\u0432)", None, "(\u0412)"],
    ),
    (
      "So the answer is \uff08B\uff09.",
      [
        "\uff08B\uff09",
        "\uff08B\uff09",
        "\uff08b\uff09",
        None,
        "\uff08B\uff09",
      ],
    ),
    (
      "So the answer is (\ud800).",
      ["(\ud800)", "(\ud800)", "(\ud800)", None, "(\ud800)"],
    ),
    # NumPy's strings lose closing NULs, and keep their length in lower case.
    (
      "So the answer is \u0130\0.",
      ["\u0130\0", "\u0130\0", "i", None, "\u0130"],
    ),
    ("So the answer is (B).\0", [None, "(B).\0", "(b)", "(b)", "(B)."]),
    # The letter Q ends a completion.
    ("So the answer is (Q).", ["(Q)", "(Q)", "(q)", "(q)", None]),
    ("Quite so. The answer is (B).", ["(B)", None, "(b)", "(b)", None]),
    # The option's text, and a letter after a colon.
    (
      "So the answer is the blue hat.",
      ["the blue hat", "the blue hat", "the blue hat", "(b)", "the blue hat"],
    ),
    ("It is: The Blue-hat", [None, None, None, None, None]),
    ("It is: The Blue hat!", [None, None, None, "(b)", None]),
    ("So: no hat, after all.", [None, None, None, "(c)", None]),
    ("So: A. No, the answer: B.", [None, None, None, "(b)", None]),
    # Other markers.
    ("The answer is (B).", ["(B)", None, "(b)", "(b)", None]),
    ("The answer: (B).", [None, None, "(b)", "(b)", None]),
    ("The final answer: (B).", [None, None, "(b)", "(b)", None]),
    ("THE ANSWER IS (B).", [None, None, None, "(b)", None]),
    # Twice, or in the question, which was copied.
    (
      "The answer is (A). No, the answer is (B).",
      ["(B)", "(B)", "(a). no the answer is (b)", "(b)", "(B)"],
    ),
    (
      "So the answer is (A).\nSo the answer is (B).",
      ["(B)", "(A)", "(a)", "(b)", "(A)"],
    ),
    (
      "So the answer is (B).\nSo the answer is (A).",
      ["(A)", "(B)", "(b)", "(a)", "(B)"],
    ),
    (
      "When the answer is (A)?\nSo the answer is (B).",
      ["(B)", "(A)?", "(a)", "(b)", "(A)"],
    ),
    # More text. It runs on in the line, below it, or as another question.
    (
      "So the answer is (B)." + MORE,
      [None, "(B)." + MORE, "(b)." + MORE[:-1], "(b)", "(B)." + MORE[:-1]],
    ),
    ("So the answer is (B).\n" + MORE, [None, "(B)", "(b)", "(b)", "(B)"]),
    (
      "So the answer is (B).\n\nQ: other question",
      [None, "(B)", "(b)", "(b)", "(B)"],
    ),
    (
      "So the answer is (B).\n\nQ: other\nA: So the answer is (A).",
      ["(A)", "(B)", "(b)", "(b)", "(B)"],
    ),
    (
      "So the answer is (B).\n\nQuestion: other\nAnswer: So the answer is (A).",
      ["(A)", "(B)", "(b)", "(a)", "(B)"],
    ),
    # A worked example that was copied: it does not end with the sentence, and
    # most stop at its Q; the authors' rule counts it.
    (
      "Q: other\nA: So the answer is (B).\n\nQ: this\nA: So",
      [None, "(B)", None, None, None],
    ),
    (
      "Question: other\nAnswer: So the answer is (B).\n\nQuestion: this\nAns",
      [None, "(B)", "(b)", "(b)", None],
    ),
    # A blank line ends a completion of the fewshot rule.
    ("So it is.\n\nSo the answer is (B).", ["(B)", "(B)", "(b)", "(b)", None]),
    # Nothing, or cut at the token limit.
    ("", [None] * 5),
    ("\n ", [None] * 5),
    ("So the answer is (B)", [None, "(B)", "(b", "(b)", "(B"]),
    ("So the answer is (B", [None, "(B", "(", None, "("]),
    ("So the answer is (", [None, "(", None, None, None]),
    ("So the answer is ", [None] * 5),
    ("So the answer is", [None] * 5),
    ("So the answer is .", [None] * 5),
    ("[invalid]", [None] * 5),
  ],
)
@pytest.mark.parametrize("kind", ["choice", "choice_or_text"])
def test_choices(kind, completion, expected):
  check_bbh(kind, completion, expected, "(B)", HATS)
  check_bbh(kind, completion, expected, "(A)", HATS)


@pytest.mark.parametrize(
  ("question", "completion", "expected"),
  [
    ("", ": B", None),
    ("(A) ... (B) hat", "hat", None),  # an empty option is everywhere
    ("(A) ... (B) hat", "hat: B", "(b)"),
    ("(X) cap (Y) hat", "hat", "(b)"),  # the second one
    ("(A) hat (B) hat", "hat", "(b)"),
    ("(A) . hat", "a hat", "hat"),  # what was a period's space is not a hat's
    ("(A) cap (B) cap and hat", "cap and hat", "(a)"),
    ("(A) c+p (B) hat", "ccp hat c+p", "(a)"),  # a text, no pattern
    ("(A) ha^t (B) cap", "ha", "(a)"),
    ("(A) hat (B) ...", "hat: B", "(b)"),
    ("(A) x " * 40, "So: Z", "(z)"),
  ],
)
def test_options_are_numbered_as_they_stand(question, completion, expected):
  convention = bbh_conventions.conventions("choice")["lm_eval_flexible"]
  assert convention.extract(completion, question) == expected


# How numbers are read in "So the answer is X.": by lm-eval's strict and
# flexible rules; the others give what was written.
@pytest.mark.parametrize(
  ("text", "strict", "flexible"),
  [
    (DIGITS, DIGITS, DIGITS),
    ("18", "18", "18"),
    ("18.", "18", "18"),
    ("18.0", "18.0", "0"),
    ("18.00", "18.00", "00"),
    ("-5", "-5", "-5"),
    ("1,800", "1800", "800"),
    ("$18", "$18", "18"),
    ("$1,800.50.", "$1800.50", "50"),
    ("18%", "18%", "18"),
    ("18 eggs", "18 eggs", "18"),
    ("**18**", "**18**", "18"),
    ("18 (see step 2)", "18 (see step 2)", "2"),
    ("18, as is well-known", "18 as is well-known", "-"),
    ("6*3", "6*3", "3"),
    ("\u0661\u0668", "\u0661\u0668", None),
    ("\uff11\uff18", "\uff11\uff18", None),
    # In words, if there is no digit; word2number has faults of its own.
    ("eighteen", "eighteen", "18"),
    ("Eighteen", "eighteen", "18"),
    ("zero", "zero", "0"),
    ("eight", "eight", None),
    ("twenty one", "twenty one", "21"),
    ("twenty eight", "twenty eight", "20"),
    ("twenty-one", "twenty-one", "-"),
    ("not often", "not often", "10"),
    ("four hundred and two", "four hundred and two", "402"),
    ("two thousand", "two thousand", "2000"),
    ("ten million one hundred two", "ten million one hundred two", "10000102"),
    ("one million two thousand", "one million two thousand", "1003002"),
    ("one billion", "one billion", "1000000000"),
    ("one trillion", "one trillion", "1"),
    ("two hundred thousand ten", "two hundred thousand ten", "200010"),
    ("one two three ten ten", "one two three ten ten", "1"),
    ("two hundred and twenty one", "two hundred and twenty one", "221"),
    ("two hundred ten three", "two hundred ten three", "213"),
    ("eight hundred", "eight hundred", "800"),
    ("six hundred", "six hundred", "100"),
    ("two hundred & five", "two hundred & five", "205"),
    # Where word2number refuses, lm-eval stops, and here is no answer.
    ("one thousand thousand", "one thousand thousand", None),
    ("one thousand one million", "one thousand one million", None),
    ("million thousand", "million thousand", None),
    ("forteen", "forteen", None),
    ("onetwo", "onetwo", "2"),
    ("onetwothree", "onetwothree", None),
  ],
)
def test_integers(text, strict, flexible):
  completion = f"So the answer is {text}."
  read = [text, text, strict, flexible, text]
  for right in ("18", "-5", "1800", DIGITS):
    check_bbh("integer", completion, read, right)


@pytest.mark.parametrize(
  ("text", "number"),
  [
    ("one two", "3"),
    ("one\ntwo", "2"),
    ("one\rtwo", "2"),
    ("one\x1ctwo", "2"),
    ("one\u00a0two", "3"),
    ("one,two", None),
    ("eight one", "9"),
    ("one and", "1"),
  ],
)
def test_where_numbers_in_words_end(text, number):
  convention = bbh_conventions.conventions("integer")["lm_eval_flexible"]
  assert convention.extract(text, "") == number


YES, ORACLES = ("Yes", "No"), ("yes", "no")


@pytest.mark.parametrize(
  ("kind", "task", "completion", "expected"),
  [
    (YES, "", "So the answer is No.", ["No", "No", "no", "no", "No"]),
    (YES, "", "So the answer is no.", ["no", "no", "no", "no", "no"]),
    (YES, "", "So the answer is NO.", ["NO", "NO", "no", None, "NO"]),
    (YES, "", "So the answer is No", [None, "No", "n", "no", "N"]),
    (YES, "", "Yes, so the answer is No.", ["No", "No", "no", "no", "No"]),
    (
      YES,
      "",
      "the answer is No. Yes.",
      ["No. Yes", "No. Yes", "no. yes", "yes", "No. Yes"],
    ),
    (
      YES,
      "",
      "the answer is Nobody.",
      ["Nobody", "Nobody", "nobody", None, "Nobody"],
    ),
    (YES, "", "He tells the truth.", [None] * 5),
    (
      YES,
      "web_of_lies",
      "He tells the truth.",
      [None, None, None, "yes", None],
    ),
    (
      YES,
      "web_of_lies",
      "He does not tell the truth.",
      [None, None, None, "no", None],
    ),
    (
      YES,
      "web_of_lies",
      "No, he is telling The Truth!",
      [None, None, None, "yes", None],
    ),
    (YES, "web_of_lies", "the answer is NO.", ["NO", "NO", "no", "no", "NO"]),
    (ORACLES, "", "the answer is no.", ["no", "no", "no", "no", "no"]),
    (ORACLES, "", "It is plausible.", [None, None, None, "yes", None]),
    (ORACLES, "", "It is Not Plausible.", [None, None, None, "no", None]),
    (ORACLES, "", "It is implausible.", [None] * 5),
    (
      ("True", "False"),
      "",
      "not True, the answer is False.",
      ["False", "False", "false", "false", "False"],
    ),
    (
      ("True", "False"),
      "",
      "the answer is false.",
      ["false", "false", "false", None, "false"],
    ),
    (
      ("valid", "invalid"),
      "",
      "the answer is invalid.",
      ["invalid", "invalid", "invalid", "invalid", "invalid"],
    ),
    (
      ("valid", "invalid"),
      "",
      "the answer is not valid.",
      ["not valid", "not valid", "not valid", "valid", "not valid"],
    ),
    # Regular expressions in a closed set are texts.
    (
      ("a.c", "(b"),
      "",
      "the answer is abc.",
      ["abc", "abc", "abc", None, "abc"],
    ),
  ],
)
def test_closed_sets(kind, task, completion, expected):
  for right in kind:
    check_bbh(kind, completion, expected, right, task=task)


@pytest.mark.parametrize(
  ("completion", "expected"),
  [
    ("the answer is ] } ) >.", ["] } ) >"] * 5),
    ("the answer is ]}.", ["]}"] * 5),
    ("the answer is ( [ ] ).", ["( [ ] )"] * 5),
    ("the answer is ] )", [None, "] )", "]", "] )", "]"]),
    # A space alone is a run of brackets and spaces.
    ("the answer is ] ). ", ["] )", "] )", "] )", None, "] )."]),
    ("the answer is ] ).\n", ["] )", "] )", "] )", "] )", "] )"]),
    ("the answer is ] ). So", [None, "] ). So", "] ). s", None, "] ). S"]),
    ('We need "]". So the answer is ] ).', ["] )"] * 5),
    ('the answer is "] )".', ['"] )"', '"] )"', "] )", "] )", '"] )"']),
    ("the answer is \\].", ["\\]", "\\]", "]", "]", "\\]"]),
  ],
)
def test_brackets(completion, expected):
  for right in ("] )", "] } ) >", "]"):
    check_bbh("brackets", completion, expected, right)


@pytest.mark.parametrize(
  ("completion", "expected"),
  [
    ("the answer is fig it&t o'hare.", ["fig it&t o'hare"] * 5),
    (
      "the answer is fig, pear.",
      ["fig, pear", "fig, pear", "fig pear", "fig pear", "fig, pear"],
    ),
    (
      "the answer is Apple pear.",
      ["Apple pear", "Apple pear", "apple pear", "pear", "Apple pear"],
    ),
    (
      "the answer is pineapple fig.",
      [
        "pineapple fig",
        "pineapple fig",
        "pineapple fig",
        "fig",
        "pineapple fig",
      ],
    ),
    ("the answer is plum.", ["plum", "plum", "plum", None, "plum"]),
    # A word that the answer leaves out is taken from before it.
    (
      "apple fig. So the answer is fig pear.",
      ["fig pear", "fig pear", "fig pear", "apple fig pear", "fig pear"],
    ),
    (
      "the answer is fig fig pear.",
      [
        "fig fig pear",
        "fig fig pear",
        "fig fig pear",
        "fig pear",
        "fig fig pear",
      ],
    ),
    (
      "the answer is fig pear fig.",
      [*["fig pear fig"] * 3, "pear fig", "fig pear fig"],
    ),
  ],
)
def test_words(completion, expected):
  for right in ("fig pear", "fig it&t o'hare", "apple fig pear"):
    check_bbh("words", completion, expected, right, WORDS)


def test_words_without_a_list_are_not_found():
  convention = bbh_conventions.conventions("words")["lm_eval_flexible"]
  for question in ("", "Sort fig", "List:", "List:  "):
    assert convention.extract("fig", question) is None


def test_free_text_has_no_flexible_rule():
  conventions = bbh_conventions.conventions("text")
  assert "lm_eval_flexible" not in conventions
  answer = "dearth, wind, & fire"
  completion = f"So the answer is {answer}."
  for name in ("trice", "bbh_authors", "lm_eval_strict", "lm_eval_fewshot"):
    assert checkers.is_correct(conventions[name], completion, answer)


def test_the_direct_rule_takes_the_answer_and_nothing_else():
  convention = bbh_conventions.conventions("choice")["bbh_authors_direct"]
  assert checkers.is_correct(convention, "(B)", "(B)")
  for text in ("(B).", " (B)", "(B)\n", "(b)", "B", "(A)", "", "(B)\n\nQ: a"):
    assert not checkers.is_correct(convention, text, "(B)")


GSM8K_NAMES = ("trice", "openai", "lm_eval_strict", "lm_eval_flexible")
GSM8K_NAMES += ("lm_eval_cot_strict",)


def check_gsm8k(completions, expected):
  """Checks what each convention reads in its completion, and its verdict."""
  conventions = gsm8k_conventions.conventions()
  assert tuple(conventions) == GSM8K_NAMES
  for name, completion, number in zip(
    GSM8K_NAMES, completions, expected, strict=True
  ):
    convention = conventions[name]
    assert convention.extract(completion, "") == number
    for right in ("18", "-5", "1800", "1", DIGITS):
      verdict = checkers.is_correct(convention, completion, right)
      assert verdict == (number == right)


# By trice, OpenAI, and lm-eval's gsm8k strict, gsm8k flexible, gsm8k_cot
# strict, each after its own mark.
@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("18", ["18"] * 5),
    ("18.", ["18", "18.", "18", "18", "18"]),
    ("18.,", [None, "18.", "18", "18", "18"]),
    ("18.0", ["18", "18.0", "18.0", "18.0", "18.0"]),
    ("18.00", ["18", "18.00", "18.00", "18.00", "18.00"]),
    ("-5", ["-5"] * 5),
    ("1,800", ["1800"] * 5),
    ("$18", ["18", None, None, "18", None]),
    ("$1,800.50.", ["1800.5", None, None, "1800.50", None]),
    ("18%", [None, "18", "18", "18", "18"]),
    ("18 eggs", [None, "18", "18", "18", "18"]),
    ("**18**", [None, None, None, "18", None]),
    ("(18)", [None, None, None, "18", None]),
    ("18 (see step 2)", [None, "18", "18", "2", "18"]),
    ("18 or 19", [None, "18", "18", "19", "18"]),
    ("18 ...", [None, "18", "18", "..", "18"]),
    ("6*3", [None, "6", "6", "3", "6"]),
    ("\u0661\u0668", [None] * 5),
    ("\uff11\uff18", [None] * 5),
    ("1\u0668", [None, "1", "1", "1", "1"]),
    (DIGITS, [DIGITS] * 5),
    ("eighteen", [None] * 5),
    ("", [None] * 5),
    (",", [None] * 5),
    ("[invalid]", [None] * 5),
  ],
)
def test_gsm8k_numbers(text, expected):
  marked, said = f"#### {text}", f"The answer is {text}."
  # The flexible rule needs no mark, which might be read as a number.
  check_gsm8k([tagged(text), marked, marked, text, said], expected)
  # CR LF, a space, and 400 more characters.
  for more in ("\r\n", " ", MORE):
    forms = [tagged(text), marked, marked, text, f"The answer is {text}"]
    check_gsm8k([form + more for form in forms], expected)


@pytest.mark.parametrize(
  ("completion", "expected"),
  [
    ("The answer is 18.", [None, None, None, "18", "18"]),
    # It eats a character.
    ("The answer is 18", [None, None, None, "18", "1"]),
    ("The answer is 5", [None, None, None, "5", None]),
    ("the answer is 18.", [None, None, None, "18", None]),
    ("####18", [None, None, None, "18", None]),
    ("<answer>18</answer>", ["18", None, None, "18", None]),
    # Twice; and another question that follows.
    ("#### 2\n#### 18", [None, "2", "2", "18", None]),
    ("The answer is 2. The answer is 18.", [None, None, None, "18", "2"]),
    ("<answer>2</answer><answer>18</answer>", ["18", None, None, "18", None]),
    ("#### 18\n\nQ: 3 eggs?", [None, "18", "18", "3", None]),
    (
      "#### 18\n\nQuestion: 3 eggs?\nAnswer: #### 3",
      [None, "18", "18", "18", None],
    ),
    ("The answer is 18.\n\nQ: 3 eggs?", [None, None, None, "3", "18"]),
    (tagged(18) + "\n\nQ: 3 eggs?", ["18", None, None, "3", None]),
    (tagged(18) + "\n\nQuestion: 3 eggs?", ["18", None, None, "18", None]),
    (tagged(18) + "\n\nQ: other?\n" + tagged(3), ["3", None, None, "3", None]),
    # A worked example that was copied: for trice and OpenAI it counts.
    (
      "Question: other\nAnswer: #### 18\n\nQuestion: this",
      [None, "18", None, None, None],
    ),
    (
      "Question: other\n" + tagged(18) + "\n\nQuestion: this",
      ["18", None, None, None, None],
    ),
    (
      "Q: other\nA: The answer is 18.\n\nQ: this",
      [None, None, None, "18", None],
    ),
    # Nothing, or cut at the token limit.
    ("", [None] * 5),
    ("####", [None] * 5),
    ("#### ", [None] * 5),
    ("#### .", [None, ".", None, None, None]),
    ("The answer is .", [None] * 5),
    ("<answer>\n18", [None, None, None, "18", None]),
    ("#### 18</s>2<|im_end|>3", [None, "18", "18", "18", None]),
  ],
)
def test_gsm8k_completions(completion, expected):
  check_gsm8k([completion] * 5, expected)


def test_only_trice_counts_a_cut_completion_as_incorrect():
  for conventions in (
    bbh_conventions.conventions("choice"),
    gsm8k_conventions.conventions(),
  ):
    cut = {n for n, c in conventions.items() if not c.scores_cut}
    assert cut == {"trice"}
    assert all(name == c.name for name, c in conventions.items())


def test_who_reads_the_question():
  for convention, case, _ in checkers_fuzz.READERS:
    assert convention.needs_question == (
      convention.name == "lm_eval_flexible"
      and case.kind in ("choice", "choice_or_text", "words")
    )


def check_needs_question(convention, case, completion):
  """Checks that a convention which says so reads no question."""
  found = convention.extract(completion, case.question)
  if not convention.needs_question:
    assert convention.extract(completion, "") == found


def check_never_equal(is_correct):
  """Checks that no answer is not equal to a known answer of the same look."""
  for conventions in (
    bbh_conventions.conventions("text"),
    gsm8k_conventions.conventions(),
  ):
    for convention in conventions.values():
      for answer in ("[invalid]", "", "None", ",", "."):
        assert not is_correct(convention, "", answer)


def test_no_answer_is_never_correct():
  check_never_equal(checkers.is_correct)

  def with_placeholder(convention, completion, answer):
    found = convention.extract(completion, "") or "[invalid]"
    return found == (convention.normalize(answer) or "[invalid]")

  with pytest.raises(AssertionError):
    check_never_equal(with_placeholder)


# The rules once more, as lm-eval writes them: a regular expression, and which
# match counts.
BBH_IGNORED = (r"\.$", ",", r"\\", "\n", '"')
GSM8K_IGNORED = (",", r"\$", r"(?s).*#### ", r"\.$")
GSM8K_FLEXIBLE = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
STRICT = "|".join(
  rf"(?<={marker})(.*)(?=.)"
  for marker in (
    *("The answer is ", "the answer is ", "The answer: "),
    "The final answer: ",
  )
)
RULES = [
  ("choice", "lm_eval_strict", STRICT, 0, BBH_IGNORED),
  ("choice", "lm_eval_fewshot", r"(?<=the answer is )(.*)(?=.)", 0, ()),
  (YES, "lm_eval_flexible", r"\b(Yes|No|yes|no)\b", -1, BBH_IGNORED),
  (
    *("brackets", "lm_eval_flexible"),
    *(r'(?<= )([" \[\(<{}>\)\]]+)|([" \[\(<{}>\)\]]+)', -1, BBH_IGNORED),
  ),
  (None, "lm_eval_strict", r"#### (\-?[0-9\.\,]+)", 0, GSM8K_IGNORED),
  (None, "lm_eval_flexible", GSM8K_FLEXIBLE, -1, GSM8K_IGNORED),
  (
    *(None, "lm_eval_cot_strict"),
    *(r"The answer is (\-?[0-9\.\,]+).", 0, GSM8K_IGNORED),
  ),
]


def check_rule(rule, extract, completion):
  """Compares one convention with its regular expression."""
  kind, name, pattern, which, ignored = rule
  stops = checkers_fuzz.GSM8K_STOPS if kind is None else checkers_fuzz.BBH_STOPS
  text = completion
  for stop in stops[name]:
    text = text.split(stop)[0]
  matches = re.findall(pattern, text)
  found = matches[which] if matches else ""
  if isinstance(found, tuple):
    found = next(filter(None, found), "")
  found = found.strip()
  for one in ignored:
    found = re.sub(one, "", found)
  found = found.lower() if ignored else found
  assert (extract(completion, "") or "") == found


def find_rule(kind, name):
  conventions = (
    gsm8k_conventions.conventions()
    if kind is None
    else bbh_conventions.conventions(kind)
  )
  return conventions[name].extract


# Except for what NumPy does to these two.
PLAIN = [p for p in checkers_fuzz.PIECES if p not in ("\0", "\u0130")]
plain_completions = st.lists(st.sampled_from(PLAIN), max_size=12).map("".join)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule[0]}_{rule[1]}")
@hypothesis.given(completion=plain_completions)
def test_a_convention_is_its_regular_expression(rule, completion):
  check_rule(rule, find_rule(*rule[:2]), completion)


@pytest.mark.parametrize(
  ("number", "completion"),
  [
    (0, "the answer is (B)"),
    (2, "Yes. No."),
    (3, "] x )"),
    (6, "The answer is 5"),
  ],
)
def test_other_readers_are_no_rule(number, completion):
  """Twins that take the first for the last, or spare the last character."""

  def broken(text, question):
    del question
    patterns = {0: "the answer is (.*)", 2: "(Yes|No)", 3: "([]) ]+)"}
    match = re.search(patterns.get(number, "The answer is ([0-9]+)"), text)
    return match and match[1].strip().lower()

  rule = RULES[number]
  check_rule(rule, find_rule(*rule[:2]), completion)
  with pytest.raises(AssertionError):
    check_rule(rule, broken, completion)


@hypothesis.given(checkers_fuzz.completions)
def test_what_holds_of_every_completion(completion):
  checkers_fuzz.check_completion(completion)
  for convention, case, _ in checkers_fuzz.READERS:
    check_needs_question(convention, case, completion)


def broken_conventions():
  """Twins: an empty answer, two correct answers, no stop."""
  true = bbh_conventions.conventions("choice")["lm_eval_strict"]
  yield true._replace(extract=lambda completion, question: completion[:0])
  yield true._replace(
    extract=lambda completion, question: "x", normalize=lambda answer: "x"
  )
  yield true._replace(
    extract=lambda completion, question: completion[-3:] or None
  )


@pytest.mark.parametrize("broken", list(broken_conventions()))
def test_broken_conventions_are_rejected(broken):
  def check(convention):
    case = checkers_fuzz.CASES[0]
    for completion in ("", "(A)", "the answer is (B)."):
      checkers_fuzz.check_reading(convention, case, completion)
      checkers_fuzz.check_stops(convention, case, ("Q:",), completion)

  check(bbh_conventions.conventions("choice")["lm_eval_strict"])
  with pytest.raises(AssertionError):
    check(broken)


def test_the_fuzz_target_takes_any_bytes():
  for data in (b"", b"the answer is (B).", b"\xff\x00\xed\xa0\x80", b"Q" * 999):
    checkers_fuzz.test_one_input(data)


def write_answer(name, answer, is_gsm8k):
  """Writes a known answer in a convention's own form."""
  if name == "bbh_authors_direct":
    return answer
  if not is_gsm8k:
    return f"Let us see. So the answer is {answer}."
  forms = {"trice": tagged(answer), "lm_eval_cot_strict": "The answer is {}."}
  return forms.get(name, "#### {}").format(answer)


word_lists = st.permutations(["pear", "apple", "it&t", "o'hare", "fig"])
KNOWN = {
  "choice": st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ").map("({})".format),
  "choice_or_text": st.sampled_from(["(C)", "(R)"]),
  "integer": st.integers(-(10**30), 10**30).map(str),
  "brackets": st.lists(st.sampled_from("])}>"), min_size=1).map(" ".join),
  "words": word_lists.map(" ".join),
  "text": st.text("abcxyzABC 0189&-", min_size=1).map(str.strip).filter(bool),
}
KNOWN |= {
  case.kind: st.sampled_from(case.kind)
  for case in checkers_fuzz.CASES
  if isinstance(case.kind, tuple)
}


@hypothesis.given(st.data())
def test_known_answers_are_read_back(data):
  convention, case, _ = data.draw(st.sampled_from(checkers_fuzz.READERS))
  is_gsm8k = case is checkers_fuzz.GSM8K
  answer = data.draw(KNOWN[case.kind])
  assert checkers.admits(case.kind, answer)
  completion = write_answer(convention.name, answer, is_gsm8k)
  lost = convention.name == "lm_eval_fewshot" and "Q" in answer
  verdict = checkers.is_correct(convention, completion, answer, case.question)
  assert verdict != lost
  once = convention.normalize(answer)
  assert convention.normalize(once) == once


@hypothesis.given(st.data())
def test_different_answers_stay_different(data):
  convention, case, _ = data.draw(st.sampled_from(checkers_fuzz.READERS))
  hypothesis.assume(case.kind != "text")  # may differ in case alone
  one, other = data.draw(KNOWN[case.kind]), data.draw(KNOWN[case.kind])
  normalize = convention.normalize
  assert (normalize(one) == normalize(other)) == (one == other)


@pytest.mark.parametrize(
  ("kind", "known", "unknown", "description"),
  [
    (
      "choice",
      ["(A)", "(Z)"],
      ["A", "(a)", "(A).", "(AB)", "(\u0391)"],
      "(A), (B), ...",
    ),
    (
      "integer",
      ["0", "-5", DIGITS],
      ["-0", "05", "1,800", "5.", "+5", "\u0663"],
      "an integer",
    ),
    (
      "brackets",
      ["]", "] ) } >", "( )"],
      ["])", "]  )", "] ", "] x"],
      "brackets",
    ),
    ("words", ["fig", "fig it&t"], ["fig  pear", " fig", "fig\n"], "words"),
    ("text", ["a hat", "(A)"], [" hat", "hat\n", "a\nhat"], "text"),
    ("choice_or_text", ["(A)", "a hat"], [" (A)"], "(A), (B), ... or text"),
    (("Yes", "No"), ["Yes", "No"], ["yes", "Yes.", "Maybe"], "Yes or No"),
    (("a", "b", "c"), ["c"], ["d"], "a, b or c"),
  ],
)
def test_kinds(kind, known, unknown, description):
  for answer in known:
    assert checkers.admits(kind, answer)
  for answer in [*unknown, "", " ", "\n"]:
    assert not checkers.admits(kind, answer)
  assert checkers.describe(kind) == description


@pytest.mark.parametrize(
  "kind",
  [
    *("", "chioce", (), ("Yes",), ("Yes", "Yes"), ("Yes", ""), ("Yes", "No ")),
    *(("Yes", 1), None, 3, ["Yes", "No"]),
  ],
)
def test_an_unknown_kind_is_refused(kind):
  for use in (
    checkers.check_kind,
    checkers.describe,
    bbh_conventions.conventions,
    lambda kind: checkers.admits(kind, "Yes"),
  ):
    with pytest.raises(UserError, match="choice, integer") as caught:
      use(kind)
    assert "\n" not in str(caught.value)
    assert repr(kind)[:60] in str(caught.value)


# Pieces that a reader might look at again and again.
EVIL = (
  *("the answer is ", "the answer is\n", "<answer>1", "#### 1", "(A", ": "),
  *("The answer is 1,", "1", "$", " ", "\n", "\u0130", "] ", "not "),
  *("does not tell the ", "the blue ha", "fig ", "one,", "six ", "eight "),
)


def check_time(extract, question, size):
  """Checks that a text of this size takes at most 1.5 us a character."""
  for piece in EVIL:
    completion = f"one{piece * (size // len(piece))}x"
    start = time.process_time()
    extract(completion, question)
    taken = time.process_time() - start
    assert taken < 1.5e-6 * size, (piece, taken)


def distinct_readers():
  """One reader of each rule: many are the same whatever the kind."""
  found = {}
  for convention, case, _ in checkers_fuzz.READERS:
    is_gsm8k = case is checkers_fuzz.GSM8K
    name = f"{'gsm8k' if is_gsm8k else 'bbh'}_{convention.name}"
    if convention.name == "lm_eval_flexible" and not is_gsm8k:
      closed = isinstance(case.kind, tuple)
      name += f"_{case.task or 'closed' if closed else case.kind}"
    found.setdefault(name, (convention, case.question))
  del found["bbh_lm_eval_flexible_choice_or_text"]
  return [pytest.param(*reader, id=name) for name, reader in found.items()]


@pytest.mark.parametrize(("convention", "question"), distinct_readers())
def test_the_time_is_linear(convention, question):
  check_time(convention.extract, question, MEGABYTE)


def test_quadratic_readers_are_rejected():
  def quadratic(completion, question):
    del question
    return re.search(r"\s+$", completion)

  with pytest.raises(AssertionError):
    check_time(quadratic, "", 10_000)


def test_a_long_question_is_no_trouble():
  convention = bbh_conventions.conventions("choice")["lm_eval_flexible"]
  start = time.process_time()
  for piece in ("(A) hat ", "(", "(A)", " ", "^"):
    convention.extract("So: B", piece * (MEGABYTE // len(piece)))
  assert time.process_time() - start < 5
