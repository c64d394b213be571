"""Registers synthetic tasks with SeqIO."""

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
    levels: Levels of the questions; see `splits.examples`.
    sizes: Examples in each split.
    guess_rate: Probability that a base rationale is a bare guess.
    slip_rate: Probability that a step of any other base rationale is incorrect.
    seed: Seed of the questions.

  Raises:
    UserError: If an argument is bad or the name is taken. Whether a level has
      enough different questions is checked when a split is read.
  """
  splits.check_settings(kind, levels, sizes, guess_rate, slip_rate, seed)
  if not isinstance(name, str):
    raise UserError(f"a synthetic task's name must be text, got {name!r:.60}")
  # Copies, so that no caller changes them before a split is read.
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
