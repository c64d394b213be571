"""Answers of six BIG-Bench Hard tasks, computed from the questions alone.

None is the code that made the benchmark, and none evaluates text as Python.
"""

import re


def boolean_expressions(question: str) -> str:
  """Parses `not ( True ) and False is`; `not` binds first, then `and`."""
  tokens = question.removesuffix(" is").split()

  def either() -> bool:
    value = both()
    while tokens and tokens[0] == "or":
      tokens.pop(0)
      value |= both()
    return value

  def both() -> bool:
    value = unit()
    while tokens and tokens[0] == "and":
      tokens.pop(0)
      value &= unit()
    return value

  def unit() -> bool:
    token = tokens.pop(0)
    if token == "not":
      return not unit()
    if token == "(":
      value = either()
      assert tokens.pop(0) == ")"
      return value
    return {"True": True, "False": False}[token]

  value = either()
  assert not tokens
  return str(value)


def multistep_arithmetic_two(question: str) -> str:
  """Parses `((-1 + 2 * -3) - (4)) =`; a minus at a digit is its sign."""
  tokens = re.findall(r"-?\d+|\S", question.removesuffix(" ="))

  def total() -> int:
    value = product()
    while tokens and tokens[0] in "+-":
      sign = tokens.pop(0)
      value += product() if sign == "+" else -product()
    return value

  def product() -> int:
    value = unit()
    while tokens and tokens[0] == "*":
      tokens.pop(0)
      value *= unit()
    return value

  def unit() -> int:
    token = tokens.pop(0)
    if token == "(":
      value = total()
      assert tokens.pop(0) == ")"
      return value
    return int(token)

  value = total()
  assert not tokens
  return str(value)


def word_sorting(question: str) -> str:
  """Sorts the words after `List: ` by code points."""
  return " ".join(sorted(question.partition("List: ")[2].split()))


def dyck_languages(question: str) -> str:
  """Closes what is still open, the innermost first."""
  closing = {"(": ")", "[": "]", "{": "}", "<": ">"}
  still_open = []
  for bracket in question.partition("Input: ")[2].split():
    if bracket in closing:
      still_open.append(closing[bracket])
    else:
      assert still_open.pop() == bracket
  return " ".join(reversed(still_open))


def navigate(question: str) -> str:
  """Walks in the complex plane; forward is 1, left is 1j."""
  ways = {"": 1, " forward": 1, " backward": -1, " left": 1j, " right": -1j}
  turns = {"left": 1j, "right": -1j, "around": -1}
  place, heading = 0, 1
  walk = question.partition("? ")[2].partition("\n")[0]
  for order in walk.removesuffix(".").split(". "):
    if step := re.fullmatch(r"Take (\d+) steps?( \w+)?", order):
      place += heading * ways[step[2] or ""] * int(step[1])
    elif turn := re.fullmatch(r"Turn (\w+)", order):
      heading *= turns[turn[1]]
    else:
      assert order == "Always face forward"
  return "No" if place else "Yes"


def web_of_lies(question: str) -> str:
  """Goes along the chain: a truthful person's statement is true."""
  is_truthful = {}
  *sentences, last = re.split(r"(?<=\.) ", question.removeprefix("Question: "))
  for sentence in sentences:
    who, about, verb = re.fullmatch(
      r"(\w+) (?:says (\w+) )?(tells the truth|lies)\.", sentence
    ).groups()
    says_truth = verb == "tells the truth"
    is_truthful[who] = says_truth == is_truthful[about] if about else says_truth
  asked = re.fullmatch(r"Does (\w+) tell the truth\?", last)[1]
  return "Yes" if is_truthful[asked] else "No"
