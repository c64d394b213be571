"""Walks of a robot that may end where they began.

Level: level + 1 moves of 1 to 9, and one or two more that lead back to the
start. In half the questions one move is then made longer or shorter. At level 1
all robots slide (`Slide 3 east`). From level 2 on, half of them roll in the
direction that they face and must spin to change it (`Roll 3. Spin left.`).
"""

import random
from typing import NamedTuple

from cot_latent.tasks.synthetic import draw
from cot_latent.tasks.synthetic.kind import Kind, Problem, Slip

# Clockwise.
_WAYS = ("north", "east", "south", "west")
_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
_SPINS = {1: "right", 2: "around", 3: "left"}  # quarter turns


class Order(NamedTuple):
  """One order to the robot.

  Attributes:
    verb: Slide (in some direction), Roll (ahead) or Spin.
    amount: Distance, or quarter turns to the right.
    way: Direction of a slide: index of north, east, south, west.
  """

  verb: str
  amount: int
  way: int = 0

  def __str__(self) -> str:
    if self.verb == "Spin":
      return f"Spin {_SPINS[self.amount]}"
    if self.verb == "Slide":
      return f"Slide {self.amount} {_WAYS[self.way]}"
    return f"Roll {self.amount}"


def _moves_back(moves: list[tuple[int, int]]) -> list[tuple[int, int]]:
  """The moves (way, distance) that lead back to the start, at most two."""
  back = []
  for way in (0, 1):
    total = sum(
      distance if to == way else -distance
      for to, distance in moves
      if to % 2 == way
    )
    if total:
      back.append(((way + 2) % 4 if total > 0 else way, abs(total)))
  return back


def _to_rolls(moves: list[tuple[int, int]]) -> list[Order]:
  """Puts spins between the moves; the robot looks north at first."""
  orders, heading = [], 0
  for way, distance in moves:
    if way != heading:
      orders.append(Order("Spin", (way - heading) % 4))
      heading = way
    orders.append(Order("Roll", distance))
  return orders


def make_problem(rng: random.Random, level: int) -> Problem:
  """Draws a walk."""
  moves = [
    (draw.below(rng, 4), 1 + draw.below(rng, 9)) for _ in range(level + 1)
  ]
  moves = draw.shuffled(rng, moves + _moves_back(moves))
  if rng.random() < 0.5:
    place = draw.below(rng, len(moves))
    way, distance = moves[place]
    others = [d for d in range(distance - 3, distance + 4) if d > 0]
    others.remove(distance)
    moves[place] = way, draw.choice(rng, others)
  if level > 1 and rng.random() < 0.5:
    orders = _to_rolls(moves)
  else:
    orders = [Order("Slide", distance, way) for way, distance in moves]
  text = " ".join(f"{order}." for order in orders)
  question = f"A robot faces north. {text} Is it back where it began?"
  return Problem(question, orders)


def solve(orders: list[Order], slip: Slip) -> tuple[list[str], str]:
  """Follows the orders: `Roll 3: 0 3 N` is 0 east, 3 north, looking north.

  A slip moves or turns in another direction.
  """
  x, y, heading, steps = 0, 0, 0, []
  for order in orders:
    if order.verb == "Spin":
      correct = (heading + order.amount) % 4
      heading = slip(correct, (h for h in range(4) if h != correct))
    else:
      correct = heading if order.verb == "Roll" else order.way
      way = slip(correct, (w for w in range(4) if w != correct))
      x += _STEPS[way][0] * order.amount
      y += _STEPS[way][1] * order.amount
    steps.append(f"{order}: {x} {y} {'NESW'[heading]}")
  return steps, "No" if x or y else "Yes"


def guess(rng: random.Random, orders: list[Order]) -> str:
  """Draws Yes or No."""
  del orders
  return draw.choice(rng, ("Yes", "No"))


KIND = Kind("navigate", ("Yes", "No"), make_problem, solve, guess)
