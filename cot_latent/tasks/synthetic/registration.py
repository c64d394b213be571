"""Synthetic tasks put into SeqIO's registry."""

import functools
from collections.abc import Mapping, Sequence

from cot_latent.errors import UserError
from cot_latent.tasks import common
from cot_latent.tasks.synthetic import splits
from cot_latent.tasks.synthetic.kinds import KINDS


def register(
  name: str,
  kind: str,
  *,
  levels: Sequence[int] = splits.LEVELS,
  sizes: Mapping[str, int] = splits.SIZES,
  guess_rate: float = splits.GUESS_RATE,
  slip_rate: float = splits.SLIP_RATE,
  seed: int = 0,
) -> None:
  """Registers a SeqIO task with the splits base, train and test.

  Args:
    name: The task's name, not taken yet.
    kind: A name in `KINDS`.
    levels: See `splits.examples`, as for all that follow.
    sizes: Examples in each split.
    guess_rate: How often a base rationale is a bare guess.
    slip_rate: How often a step of the other base rationales is wrong.
    seed: Another one gives other questions.

  Raises:
    UserError: If an argument is wrong or the name is taken. That a level has
      too few different questions is found when a split is read.
  """
  splits.check_settings(kind, levels, sizes, guess_rate, slip_rate, seed)
  if not isinstance(name, str):
    raise UserError(f"a synthetic task's name must be text, got {name!r:.60}")
  # Copies, which nobody can change before a split is read.
  levels, sizes = tuple(levels), dict(sizes)
  read = functools.partial(
    splits.examples,
    kind,
    levels=levels,
    sizes=sizes,
    guess_rate=guess_rate,
    slip_rate=slip_rate,
    seed=seed,
  )
  common.register(
    name,
    common.rows_source(read, splits.SPLITS),
    lambda: sizes,
    answer=KINDS[kind].answer,
    rationale_splits=splits.SPLITS,
  )
