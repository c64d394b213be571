"""Synthetic tasks of eight kinds that BIG-Bench Hard has too.

They serve to train base models if no pretrained model is available: as many
questions as needed, graded by level, with correct and with flawed rationales,
and the same forms of answers as BBH. Wording, names and things are not BBH's.

Importing this package registers `synthetic_<kind>_v1` for each kind, and two
mixtures: `synthetic_v1` of all kinds, and `synthetic_small_v1` of the two kinds
with the shortest questions and rationales.
"""

from cot_latent.tasks import common
from cot_latent.tasks.synthetic.kinds import KINDS
from cot_latent.tasks.synthetic.registration import register
from cot_latent.tasks.synthetic.splits import examples

__all__ = ["KINDS", "examples", "register"]

for _kind in KINDS:
  register(f"synthetic_{_kind}_v1", _kind)
# For checkpoints, which learn rationales from few examples: longer lists, and
# fewer flaws.
register(
  "synthetic_object_counting_long_v1",
  "object_counting",
  levels=(1, 2, 3, 4),
  guess_rate=0.4,
  slip_rate=0.03,
)
# A checkpoint that has seen guesses writes nothing else on BBH's own wording.
for _kind in ("boolean_expressions", "object_counting"):
  register(f"synthetic_{_kind}_worked_v1", _kind, guess_rate=0, slip_rate=0.1)
common.register_mixture(
  "synthetic_v1", [f"synthetic_{_kind}_v1" for _kind in KINDS]
)
common.register_mixture(
  "synthetic_small_v1",
  ["synthetic_boolean_expressions_v1", "synthetic_object_counting_v1"],
)
common.register_mixture(
  "synthetic_small_worked_v1",
  [
    "synthetic_boolean_expressions_worked_v1",
    "synthetic_object_counting_worked_v1",
  ],
)
