"""Questions, answers and prompts as arrays.

N questions, P prompt tokens, T target tokens.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cot_latent.models.api import PAD_ID


@dataclasses.dataclass(frozen=True)
class Examples:
  """N examples, sorted by id.

  Attributes:
    ids: N stable strings, all different.
    tasks: N strings, the task of each; several for a mixture.
    questions: N strings.
    answers: N strings, in the form in which the task extracts answers.
    prompts: [N, P] int32, the question alone, padded on the left to the
      longest prompt, rounded up to a multiple of 8.
    guides: [N, P'] int32, the question with its answer as a hint.
    targets: [N, T] int32, rationale and answer, padded on the right; [N, 0]
      if they were not asked for.
    words: [N, 2] uint32, words of the ids from which random keys are derived.
    num_left_out: Examples of the split that were left out as too long.
    num_truncated: Examples that were truncated.
    bos_id: First token of prompts and guides, if they begin with BOS.
  """

  ids: Sequence[str]
  tasks: Sequence[str]
  questions: Sequence[str]
  answers: Sequence[str]
  prompts: np.ndarray
  guides: np.ndarray
  targets: np.ndarray
  words: np.ndarray
  num_left_out: int
  num_truncated: int
  bos_id: int | None = None

  def __len__(self) -> int:
    return len(self.ids)

  def with_prefix(
    self, prior: Mapping[str, np.ndarray], guide: Mapping[str, np.ndarray]
  ) -> "Examples":
    """Puts tokens before each prompt and each guide, but after BOS.

    Args:
      prior: Task -> [P''] int32, tokens before the question alone.
      guide: Task -> [P''] int32, tokens before the hinted question.
    """

    def extend(rows: np.ndarray, prefixes: Mapping[str, np.ndarray]):
      extended = []
      for task, row in zip(self.tasks, rows, strict=True):
        begin, rest = self.split_bos(row)
        extended.append(np.concatenate([begin, prefixes[task], rest]))
      return pad_left(extended)

    return dataclasses.replace(
      self,
      prompts=extend(self.prompts, prior),
      guides=extend(self.guides, guide),
    )

  def split_bos(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Splits a padded prompt or guide into its BOS, if any, and the rest."""
    tokens = row[row != PAD_ID]
    length = begins_with(tokens, self.bos_id)
    return tokens[:length], tokens[length:]

  def fingerprint(self) -> str:
    """Returns the sha256 over all that a run can see of the examples."""
    return _fingerprint(
      (self.ids, self.tasks, self.questions, self.answers),
      (self.prompts, self.guides, self.targets),
    )


class TokenizedSplit(NamedTuple):
  """A split before any limit on lengths; rows are sorted by id.

  Attributes:
    ids: N strings.
    tasks: N strings.
    questions: N strings.
    answers: N strings.
    prompts: N arrays of int32.
    guides: N arrays of int32.
    targets: N arrays of int32, EOS included.
  """

  ids: list[str]
  tasks: list[str]
  questions: list[str]
  answers: list[str]
  prompts: list[np.ndarray]
  guides: list[np.ndarray]
  targets: list[np.ndarray]

  def fingerprint(self) -> str:
    """Returns the sha256 over all of it."""
    arrays = [
      part
      for rows in (self.prompts, self.guides, self.targets)
      for part in (np.array([len(r) for r in rows]), np.concatenate(rows))
    ]
    return _fingerprint(self[:4], arrays)


def begins_with(tokens: np.ndarray, bos_id: int | None) -> int:
  """Counts the tokens of BOS at the beginning of a row: 1 or 0."""
  return int(bos_id is not None and tokens[:1].tolist() == [bos_id])


def pad_left(rows: Sequence[np.ndarray]) -> np.ndarray:
  """Pads N rows on the left: [N, P] int32.

  P is the length of the longest row, rounded up to a multiple of 8.
  """
  length = -(-max(map(len, rows)) // 8) * 8
  padded = np.full((len(rows), length), PAD_ID, np.int32)
  for place, row in enumerate(rows):
    padded[place, length - len(row) :] = row
  return padded


def pad_right(rows: Sequence[np.ndarray], length: int) -> np.ndarray:
  """Pads N rows on the right to a length: [N, length] int32."""
  padded = np.full((len(rows), length), PAD_ID, np.int32)
  for place, row in enumerate(rows):
    padded[place, : len(row)] = row
  return padded


def _fingerprint(
  columns: Iterable[Sequence[str]], arrays: Iterable[np.ndarray]
) -> str:
  digest = hashlib.sha256()
  for column in columns:
    digest.update(json.dumps(list(column)).encode())
  for array in arrays:
    digest.update(str(array.shape).encode() + array.astype("<i4").tobytes())
  return digest.hexdigest()
