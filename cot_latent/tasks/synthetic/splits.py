"""The splits of a synthetic task: its questions and rationales."""

import random
from collections.abc import Iterator, Mapping, Sequence

from cot_latent.errors import UserError
from cot_latent.tasks.synthetic.kind import (
  Kind,
  Problem,
  correct_rationale,
  flawed_rationale,
)
from cot_latent.tasks.synthetic.kinds import KINDS

SPLITS = ("base", "train", "test")
LEVELS = (1, 2, 3)
SIZES = {"base": 4000, "train": 1000, "test": 200}
GUESS_RATE, SLIP_RATE = 0.6, 0.1
# After this many draws in a row without a new question a level is exhausted.
_MAX_DRAWS = 1000


def check_settings(
  kind: str,
  levels: Sequence[int],
  sizes: Mapping[str, int],
  guess_rate: float,
  slip_rate: float,
  seed: int,
) -> None:
  """Checks the arguments of `examples`.

  Raises:
    UserError: If an argument is bad; names the kind, the argument, and what it
      must be.
  """

  def reject(name: str, value, wanted: str):
    raise UserError(
      f"synthetic task of kind {kind!r}: {name} = {value!r:.60} must be "
      f"{wanted}"
    )

  if not isinstance(kind, str) or kind not in KINDS:
    known = ", ".join(sorted(KINDS))
    raise UserError(
      f"no kind of synthetic task is called {kind!r:.60}; there are {known}"
    )
  if (
    not isinstance(levels, Sequence)
    or not levels
    or not all(_is_integer(level) and level > 0 for level in levels)
  ):
    reject("levels", levels, "integers from 1 on, at least one")
  if (
    not isinstance(sizes, Mapping)
    or set(sizes) != set(SPLITS)
    or not all(_is_integer(size) and size > 0 for size in sizes.values())
  ):
    reject("sizes", sizes, f"integers from 1 on for {', '.join(SPLITS)}")
  for name, rate in (("guess_rate", guess_rate), ("slip_rate", slip_rate)):
    if (
      isinstance(rate, bool)
      or not isinstance(rate, int | float)
      or not 0 <= rate <= 1
    ):
      reject(name, rate, "a number from 0 to 1")
  if not _is_integer(seed):
    reject("seed", seed, "an integer")


def examples(
  kind: str,
  split: str,
  *,
  levels: Sequence[int] = LEVELS,
  sizes: Mapping[str, int] = SIZES,
  guess_rate: float = GUESS_RATE,
  slip_rate: float = SLIP_RATE,
  seed: int = 0,
) -> Iterator[dict[str, str]]:
  """Makes a split's examples.

  Rationales are correct in `train` and `test`, where no question is repeated.
  `base` has other questions, which may be repeated, with flawed rationales,
  each with the answer that it reaches. The questions do not depend on the
  rates.

  Args:
    kind: A name in `KINDS`.
    split: One of base, train and test.
    levels: Difficulty, from 1 on. Example n has level levels[n % len(levels)].
    sizes: Examples in each split.
    guess_rate: Probability that a base rationale is a bare guess.
    slip_rate: Probability that a step of any other base rationale is incorrect.
    seed: Seed of the questions.

  Raises:
    UserError: If an argument is bad, or, as soon as it is found, if a level has
      too few different questions.
  """
  check_settings(kind, levels, sizes, guess_rate, slip_rate, seed)
  if split not in SPLITS:
    raise UserError(
      f"synthetic task of kind {kind!r}: no split {split!r:.60}, only "
      f"{', '.join(SPLITS)}"
    )
  return _generate(
    KINDS[kind], split, levels, sizes, (guess_rate, slip_rate), seed
  )


def _is_integer(value) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


def _generate(
  kind: Kind,
  split: str,
  levels: Sequence[int],
  sizes: Mapping[str, int],
  rates: tuple[float, float],
  seed: int,
) -> Iterator[dict[str, str]]:
  flaws = random.Random(f"synthetic/{kind.name}/{seed}/flaws")
  seen: set[str] = set()
  for name in ("test", "train", "base"):
    rng = random.Random(f"synthetic/{kind.name}/{seed}/{name}")
    for number in range(sizes[name]):
      problem = _draw(kind, levels[number % len(levels)], rng, seen)
      if name != "base":
        seen.add(problem.question)
      if name != split:
        continue
      if name == "base":
        targets, answer = flawed_rationale(kind, problem, flaws, *rates)
      else:
        targets, answer = correct_rationale(kind, problem)
      yield {
        "id": f"synthetic/{kind.name}/{name}/{number:05}",
        "question": problem.question,
        "answer": answer,
        "targets": targets,
      }
    if name == split:
      return


def _draw(
  kind: Kind, level: int, rng: random.Random, seen: set[str]
) -> Problem:
  """Draws a problem whose question is not in `seen`."""
  for _ in range(_MAX_DRAWS):
    problem = kind.make_problem(rng, level)
    if problem.question not in seen:
      return problem
  raise UserError(
    f"synthetic task of kind {kind.name!r}: level {level} has too few "
    f"different questions (train and test hold {len(seen)} so far): ask for "
    "smaller sizes or for higher levels"
  )
