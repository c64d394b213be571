"""Made-up words and names, in any number.

No word is in BBH, and the syllables are chosen so that no word is offensive.
"""

import random
from collections.abc import Sequence

from cot_latent.tasks.synthetic import draw

HEADS = (
  *("bal", "bem", "bro", "cal", "cru", "dal", "dov", "elm", "fen", "fro"),
  *("gal", "gri", "hal", "hev", "ilm", "jor", "jul", "kel", "kor", "lam"),
  *("lev", "mav", "mir", "nal", "nev", "olv", "osk", "pla", "pra", "quo"),
  *("rav", "rol", "sev", "sol", "tam", "tro", "urv", "vel", "wim", "yar"),
)
TAILS = (
  *("bo", "da", "dex", "fi", "go", "kin", "lo", "ma", "mub", "nax"),
  *("nu", "pex", "ro", "ruf", "sim", "ta", "tub", "va", "wen", "zo"),
)
# Short, and each with a different letter, so that a small model can copy them.
NAMES = (
  *("Ayo", "Bex", "Cyd", "Dov", "Ejo", "Fip", "Gus", "Hux", "Ilo", "Jud"),
  *("Kew", "Lux", "Mab", "Nox", "Oru", "Pim", "Quo", "Rix", "Sib", "Tuk"),
  *("Urs", "Viv", "Wex", "Yul", "Zim"),
)


def make_words(
  rng: random.Random, n: int, heads: Sequence[str] = HEADS
) -> list[str]:
  """Draws n different words that begin with the given heads."""
  # Enough combinations that a drawn word is nearly always new.
  num_tails = 1
  while len(heads) * len(TAILS) ** num_tails < 4 * n:
    num_tails += 1
  words: dict[str, None] = {}
  while len(words) < n:
    word = draw.choice(rng, heads)
    for _ in range(num_tails):
      word += draw.choice(rng, TAILS)
    words[word] = None
  return list(words)


def make_names(rng: random.Random, n: int) -> list[str]:
  """Draws n different names of people."""
  if n <= len(NAMES):
    return draw.sample(rng, NAMES, n)
  return [word.capitalize() for word in make_words(rng, n)]
