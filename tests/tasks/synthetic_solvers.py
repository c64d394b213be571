"""Reads synthetic questions and rationales from their text alone.

A `solve` function answers a question, and does so in another way than the
rationales, or by the solvers of the real benchmark. A `read` function judges
each step of a rationale by the text of the steps before it, and says what
answer the last step leads to; whatever is not a step's result must be as the
question has it, or an exception in REJECTED is raised.
"""

import operator
import re
from collections.abc import Callable
from typing import NamedTuple

from tests.tasks import solvers

REJECTED = (AssertionError, LookupError, ValueError)


class Reader(NamedTuple):
  """The functions of a kind.

  Attributes:
    solve: Question -> answer.
    read: (question, steps) -> whether each is correct, and the answer reached.
  """

  solve: Callable[[str], str]
  read: Callable[[str, list[str]], tuple[list[bool], str]]


def cut(text: str, start: str, end: str = "") -> str:
  """Takes off what a text must start and end with."""
  assert text.startswith(start)
  assert text.endswith(end)
  return text[len(start) : len(text) - len(end)]


# How strongly they bind; brackets and the ends of a formula do not.
STRENGTHS = {"not": 3, "and": 2, "or": 1, "*": 2, "+": 1, "-": 1}


def find_ready(tokens: list[str], wanted: list[str]) -> int:
  """Finds where an operation can be done, its operands being its own."""
  strength = STRENGTHS[wanted[-2]]
  for at in range(len(tokens) - len(wanted) + 1):
    end = at + len(wanted)
    before = STRENGTHS.get(tokens[at - 1], 0) if at else 0
    after = STRENGTHS.get(tokens[end], 0) if end < len(tokens) else 0
    if tokens[at:end] == wanted and before < strength >= after:
      return at
  raise AssertionError(f"{wanted} is not in {tokens}")


def reduce(tokens: list[str], steps: list[str], work):
  """Puts the results of the steps in place of what was worked out."""
  judged = []
  for step in steps:
    left, result = step.split(" = ")
    wanted = left.split(" ")
    at = find_ready(tokens, wanted)
    judged.append(result == work(*wanted))
    tokens[at : at + len(wanted)] = [result]
    while tokens[at - 1 : at] == ["("] and tokens[at + 1 : at + 2] == [")"]:
      at -= 1
      tokens[at : at + 3] = [result]
  (value,) = tokens
  return judged, value


def solve_boolean(question):
  text = cut(question, "Simplify: ")
  spaced = text.replace("(", "( ").replace(")", " )")
  return solvers.boolean_expressions(spaced + " is")


def read_boolean(question, steps):
  tokens = re.findall(r"\w+|[()]", cut(question, "Simplify: "))

  def work(*words):
    *left, name, right = words
    values = [{"True": True, "False": False}[word] for word in (*left, right)]
    done = {"not": operator.not_, "and": operator.and_, "or": operator.or_}
    return str(done[name](*values))

  return reduce(tokens, steps, work)


def solve_formula(question):
  return solvers.boolean_expressions(cut(question, "Simplify: ") + " is")


def read_formula(question, steps):
  """Compares each step with the one before, of which one place is done."""
  before, judged = open_brackets(cut(question, "Simplify: ")), []
  for step in steps:
    outcomes = {}
    for text, results in one_operator_less(before):
      outcomes[open_brackets(text)] = results
    judged.append(outcomes[step])
    before = step
  return judged, before


def open_brackets(text):
  while re.search(r"\( (True|False) \)", text):
    text = re.sub(r"\( (True|False) \)", r"\1", text)
  return text


def one_operator_less(text):
  """Yields what may follow, and whether it is correct.

  The operator is the first with values on its sides and no neighbour that binds
  more strongly; of equal ones the left one is first, except of `not`.
  """
  tokens = text.split(" ")
  for at, name in enumerate(tokens):
    if name not in ("not", "and", "or"):
      continue
    start, end = (at if name == "not" else at - 1), at + 2
    values = {*tokens[start:at], *tokens[at + 1 : end]}
    before = STRENGTHS.get(tokens[start - 1], 0) if start else 0
    after = STRENGTHS.get(tokens[end], 0) if tokens[end:] else 0
    binds = before < STRENGTHS[name] or name == "not"
    if values <= {"True", "False"} and binds and after <= STRENGTHS[name]:
      break
  correct = str(eval(" ".join(tokens[start:end])))
  for value in ("True", "False"):
    done = [*tokens[:start], value, *tokens[end:]]
    yield " ".join(done), value == correct


def solve_arithmetic(question):
  return solvers.multistep_arithmetic_two(cut(question, "Compute: ") + " =")


def read_arithmetic(question, steps):
  tokens = re.findall(r"-?\d+|\S", cut(question, "Compute: "))
  done = {"+": operator.add, "-": operator.sub, "*": operator.mul}

  def work(left, name, right):
    return str(done[name](int(left), int(right)))

  return reduce(tokens, steps, work)


WAYS = {"east": 1, "north": 1j, "west": -1, "south": -1j}
SPINS = {"left": 1j, "right": -1j, "around": -1}


def parse_walk(question):
  text = cut(question, "A robot faces north. ", ". Is it back where it began?")
  return text.split(". ")


def follow(order, place, heading):
  """Follows one order in the complex plane, where north is 1j."""
  verb, *words = order.split(" ")
  if verb == "Spin":
    (way,) = words
    return place, heading * SPINS[way]
  distance = int(words[0])
  assert distance > 0
  if verb == "Slide":
    return place + distance * WAYS[words[1]], heading
  assert (verb, len(words)) == ("Roll", 1)
  return place + distance * heading, heading


def solve_navigate(question):
  place, heading = 0, 1j
  for order in parse_walk(question):
    place, heading = follow(order, place, heading)
  return "No" if place else "Yes"


def read_navigate(question, steps):
  headings = {way[0].upper(): value for way, value in WAYS.items()}
  state, judged = (0, 1j), []
  for order, step in zip(parse_walk(question), steps, strict=True):
    x, y, way = cut(step, f"{order}: ").split(" ")
    new = int(x) + int(y) * 1j, headings[way]
    judged.append(new == follow(order, *state))
    state = new
  return judged, "No" if state[0] else "Yes"


SORT_OF = {
  thing: sort
  for sort, things in {
    "tools": "chisel drill hammer ladder rake saw shovel spanner",
    "clothes": "belt cap coat glove jacket shirt sock sweater",
    "dishes": "bowl cup jug mug plate platter saucer teapot",
    "vehicles": "bicycle canoe scooter tractor tram truck van wagon",
    "toys": "doll kite marble puzzle rattle seesaw slingshot yo-yo",
  }.items()
  for thing in things.split(" ")
}
NUMBERS = {"a": 1, "two": 2, "three": 3, "four": 4, "five": 5}


def parse_things(question):
  """Lists the number and the name of each thing to count."""
  text, sort = re.fullmatch(
    r"In the [a-z]+: ([a-z, -]+)\. How many ([a-z]+)\?", question
  ).groups()
  found = []
  for entry in text.split(", "):
    word, noun = entry.split(" ")
    number = NUMBERS[word]
    singular = cut(noun, "", "s") if number > 1 else noun
    if SORT_OF[singular] == sort:
      found.append((number, noun))
  assert sort in SORT_OF.values()
  return found


def solve_counting(question):
  return str(sum(number for number, _ in parse_things(question)))


def read_counting(question, steps):
  return read_sum(
    parse_things(question), steps, "{noun}: {total} + {number} = "
  )


def read_sum(things, steps, form):
  total, judged = 0, []
  for (number, noun), step in zip(things, steps, strict=True):
    start = form.format(noun=noun, total=total, number=number)
    result = int(cut(step, start))
    judged.append(result == total + number)
    total = result
  return judged, str(total)


PLURALS = {"scarves": "scarf", "knives": "knife", "ferries": "ferry"} | {
  f"{noun}es": noun for noun in ("wrench", "dress", "glass", "bus")
}
LONG_SORT_OF = {
  thing: sort
  for sort, things in {
    "tools": "saw,hammer,spanner,chisel,drill,shovel,rake,ladder,axe,file,"
    "wrench,crowbar,pickaxe,clamp",
    "clothes": "shirt,glove,sock,coat,sweater,belt,cap,jacket,scarf,dress,"
    "apron,skirt,hat,blouse",
    "dishes": "plate,bowl,cup,jug,saucer,teapot,mug,platter,glass,pan,ladle,"
    "knife,fork,spoon",
    "vehicles": "truck,tram,van,scooter,tractor,canoe,wagon,bicycle,bus,ferry,"
    "airplane,helicopter,sled,ambulance",
    "toys": "kite,puzzle,marble,doll,rattle,yo-yo,seesaw,slingshot,balloon,"
    "teddy,robot,spinning top,hula hoop,jigsaw",
  }.items()
  for thing in things.split(",")
}


def parse_inventory(question):
  """Lists the number and the words of each entry to count."""
  text, sort = re.fullmatch(
    r"(?:In the \w+ I see|We keep|She packed|They bought) (.+?)"
    r"(?: (?:in|for) the \w+)?\. How many (\w+) did (?:she pack|they buy)\?",
    re.sub(r"do (we keep there|I see)\?", "did she pack?", question),
  ).groups()
  found = []
  for entry in re.split(", | and ", text):
    word, noun = entry.split(" ", 1)
    number = NUMBERS["a" if word == "an" else word]
    assert (word == "an") == (number == 1 and noun[0] in "aeiou")
    if number > 1:
      noun = PLURALS.get(noun) or cut(noun, "", "s")
    if LONG_SORT_OF[noun] == sort:
      found.append((number, entry))
  assert sort in LONG_SORT_OF.values()
  return found


def solve_inventory(question):
  return str(sum(number for number, _ in parse_inventory(question)))


def read_inventory(question, steps):
  return read_sum(parse_inventory(question), steps, "{noun} ")


def parse_swaps(question):
  """Reads people, their things, pairs that swap, who is asked for, options."""
  text, title, *options = question.split("\n")
  assert title == "Options:"
  start, *swaps, last = text.split(". ")
  owned = [entry.split(" has a ") for entry in start.split(", ")]
  pairs = [cut(swap, "", " swap").split(" and ") for swap in swaps]
  asked = cut(last, "Now ", " has a")
  letters = [
    cut(option, f"({letter}) ")
    for letter, option in zip("ABCDEFG", options, strict=False)
  ]
  assert letters == [thing for _, thing in owned]
  return dict(owned), pairs, asked, letters


def solve_tracking(question):
  owned, pairs, asked, letters = parse_swaps(question)
  for one, other in pairs:
    owned[one], owned[other] = owned[other], owned[one]
  return f"({'ABCDEFG'[letters.index(owned[asked])]})"


def read_tracking(question, steps):
  owned, pairs, asked, letters = parse_swaps(question)
  names, state, judged = list(owned), "ABCDEFG"[: len(letters)], []
  *swaps, last = steps
  for (one, other), step in zip(pairs, swaps, strict=True):
    new = cut(step, f"{one} {other}: ")
    assert sorted(new) == sorted(state)
    exchange = {names.index(one): other, names.index(other): one}
    right = [
      state[names.index(exchange.get(place, name))]
      for place, name in enumerate(names)
    ]
    judged.append(list(new) == right)
    state = new
  letter = cut(last, f"{asked} has ")
  assert len(letter) == 1
  assert letter in state
  judged.append(state[names.index(asked)] == letter)
  return judged, f"({letter})"


def solve_lies(question):
  """Puts it as the benchmark does."""
  text = re.sub(r" Is (\w+) honest\?$", r" Does \1 tell the truth?", question)
  assert text != question
  text = text.replace("is honest.", "tells the truth.")
  return solvers.web_of_lies(text.replace("is a liar.", "lies."))


def read_lies(question, steps):
  first, *others = question.split(". ")
  last = cut(others.pop(), "Is ", " honest?")
  verdict, judged = cut(steps[0], first.split(" ")[0]), []
  judged.append(steps[0] == first)
  about = first.split(" ")[0]
  for sentence, step in zip(others, steps[1:], strict=True):
    name, claim = sentence.split(f" says {about}")
    new = cut(step, name)
    assert {new, claim, verdict} <= {" is honest", " is a liar"}
    judged.append((new == " is honest") == (claim == verdict))
    verdict, about = new, name
  assert about == last
  return judged, "Yes" if verdict == " is honest" else "No"


HONEST = ("is honest", "speaks the truth", "can be trusted", "is sincere")
LIAR = ("is dishonest", "speaks untruths", "cannot be trusted")
LIAR += ("makes things up",)


def parse_testimony(question):
  """Lists each person and what is said: of the first, then by the others."""
  *sentences, asked = question.split(". ")
  found = []
  for sentence in sentences:
    assert sentence.endswith(HONEST) != sentence.endswith(LIAR)
    if found:
      about = re.search(r"(?:says|that) (?!that )(\w+)", sentence)[1]
      assert about == found[-1][0]
    found.append((sentence.split(" ")[0], sentence.endswith(HONEST)))
  assert asked.split(" ")[1] == found[-1][0]
  return found


def solve_testimony(question):
  liars = [claim for _, claim in parse_testimony(question)].count(False)
  return "No" if liars % 2 else "Yes"


def read_testimony(question, steps):
  words = {True: "honest", False: "liar"}
  states = {word: key for key, word in words.items()}
  (first, claim), *others = parse_testimony(question)
  before = states[cut(steps[0], f"{first}: ")]
  judged = [before == claim]
  for (name, claim), step in zip(others, steps[1:], strict=True):
    new = states[cut(step, f"{name} says {words[claim]}: ")]
    judged.append(new == (claim == before))
    before = new
  return judged, "Yes" if before else "No"


CLOSING = dict(zip("([{<", ")]}>", strict=True))


def solve_dyck(question):
  spaced = " ".join(cut(question, "Close what is open: "))
  return solvers.dyck_languages(f"Input: {spaced}")


def read_dyck(question, steps):
  still_open, judged = "", []
  brackets = cut(question, "Close what is open: ")
  for bracket, step in zip(brackets, steps, strict=True):
    new = cut(step, f"{bracket} ")
    new = "" if new == "-" else new
    assert set(new) <= set(CLOSING)
    assert step != f"{bracket} "
    if bracket in CLOSING:
      judged.append(new == still_open + bracket)
    else:
      judged.append(new == still_open[:-1])
    still_open = new
  return judged, " ".join(CLOSING[bracket] for bracket in still_open[::-1])


def solve_sorting(question):
  return solvers.word_sorting(f"List: {cut(question, 'Sort: ')}")


def read_sorting(question, steps):
  first, *others = cut(question, "Sort: ").split(" ")
  done, judged = [first], []
  for word, step in zip(others, steps, strict=True):
    new = step.split(" ")
    place = new.index(word)
    before, after = new[:place], new[place + 1 :]
    assert before + after == done
    judged.append(
      all(other < word for other in before)
      and all(other > word for other in after[:1])
    )
    done = new
  return judged, " ".join(done)


READERS = {
  "boolean_expressions": Reader(solve_boolean, read_boolean),
  "dyck_languages": Reader(solve_dyck, read_dyck),
  "formula": Reader(solve_formula, read_formula),
  "inventory": Reader(solve_inventory, read_inventory),
  "multistep_arithmetic": Reader(solve_arithmetic, read_arithmetic),
  "navigate": Reader(solve_navigate, read_navigate),
  "object_counting": Reader(solve_counting, read_counting),
  "testimony": Reader(solve_testimony, read_testimony),
  "tracking_shuffled_objects": Reader(solve_tracking, read_tracking),
  "web_of_lies": Reader(solve_lies, read_lies),
  "word_sorting": Reader(solve_sorting, read_sorting),
}
