"""Synthetic tasks of kinds that BIG-Bench Hard has too.

They serve to train base models if no pretrained model is available: as many
questions as needed, graded by level, with correct and with flawed rationales,
and the same forms of answers as BBH. Wording, names and things are not BBH's.

Importing this package registers `synthetic_<kind>_v1` for each kind, and three
mixtures: `synthetic_v1` of BBH's kinds, `synthetic_small_v1` of the two with
the shortest questions and rationales, and `synthetic_sentences_v1`. That one is
for pretrained models: questions in sentences, and fewer flaws, of the kinds
`inventory` and `testimony`. So is the task `synthetic_formula_short_v1`.
"""

from cot_latent.tasks import common
from cot_latent.tasks.synthetic.kinds import KINDS
from cot_latent.tasks.synthetic.registration import register
from cot_latent.tasks.synthetic.splits import examples

__all__ = ["KINDS", "examples", "register"]

_IN_SENTENCES = ("inventory", "testimony")
_FOR_PRETRAINED = ("formula", *_IN_SENTENCES)

for _kind in KINDS:
  register(f"synthetic_{_kind}_v1", _kind)
# Pretrained models learn rationales from few examples.
register(
  "synthetic_inventory_long_v1",
  "inventory",
  levels=tuple(range(1, 8)),
  guess_rate=0.3,
  slip_rate=0.03,
)
register(
  "synthetic_testimony_long_v1",
  "testimony",
  levels=tuple(range(1, 5)),
  guess_rate=0.3,
  slip_rate=0.1,
)
register(
  "synthetic_formula_short_v1",
  "formula",
  levels=(1,),
  guess_rate=0.75,
  slip_rate=0.05,
)
common.register_mixture(
  "synthetic_v1",
  [f"synthetic_{_kind}_v1" for _kind in KINDS if _kind not in _FOR_PRETRAINED],
)
common.register_mixture(
  "synthetic_small_v1",
  ["synthetic_boolean_expressions_v1", "synthetic_object_counting_v1"],
)
common.register_mixture(
  "synthetic_sentences_v1",
  [f"synthetic_{_kind}_long_v1" for _kind in _IN_SENTENCES],
)
