"""Worked examples drawn from the base model itself, to put before questions.

Reference: Phan et al. 2023, section 5 ("bootstrapped" prompts): rationales of
the untuned model for random training questions. Those that reach the known
answer are kept, whatever else they say.
"""

import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cot_latent.data.examples import Examples
from cot_latent.data.task import Task
from cot_latent.em import training_data
from cot_latent.em.drawing import Drawer
from cot_latent.em.drawn_parts import Phase
from cot_latent.errors import RunError, UserError
from cot_latent.inference import rng
from cot_latent.models.api import PAD_ID
from cot_latent.runtime import files, processes
from cot_latent.training.loading import Data

_PASSES = 4  # over the training questions, before giving up
_FILE = "exemplars.jsonl"


class Exemplar(NamedTuple):
  """A training question with a rationale that the base model wrote for it.

  Attributes:
    id: Id of the question.
    task: Name of its task.
    question: Text of the question.
    answer: The known answer, which the rationale reaches.
    completion: Text of the rationale.
    tokens: Tokens of the rationale, without EOS or stop string.
  """

  id: str
  task: str
  question: str
  answer: str
  completion: str
  tokens: list[int]


def draw(
  drawer: Drawer,
  params: Any,
  seed: int,
  room: int,
  parts: Phase | None = None,
  progress: Callable[[int], Callable[..., None]] | None = None,
) -> tuple[list[Exemplar], int]:
  """Draws exemplars for each task of a mixture, or for the one task.

  Args:
    drawer: Drawer for the N training questions; its task has the number of
      exemplars.
    params: Parameters of the base model.
    seed: The run's seed.
    room: Tokens that the exemplars of a task may take together.
    parts: Phase that stores one part per batch; None stores nothing.
    progress: Number of rows of a batch -> the `report_done` of its draws, as in
      `Sampler.sample`; None reports nothing.

  Returns:
    The exemplars, and how many sequences were sampled.

  Raises:
    RunError: If too few correct rationales that fit are found.
  """
  task, examples = drawer.task, drawer.examples
  wanted = task.prompts.num_exemplars
  found: list[Exemplar] = []
  batches_drawn: list[int] = []
  for number, name in enumerate(sorted(set(examples.tasks))):
    kept: list[Exemplar] = []
    left = room
    candidates = _correct_rationales(
      drawer,
      params,
      np.flatnonzero([t == name for t in examples.tasks]),
      [
        rng.purpose_key(seed, "bootstrap", number, turn)
        for turn in range(_PASSES)
      ],
      batches_drawn.append,
      parts,
      progress,
    )
    for one in candidates:
      length = max(len(exemplar) for exemplar in _tokens(task, examples, one))
      if length <= left and one.id not in [e.id for e in kept]:
        kept.append(one)
        left -= length
      if len(kept) == wanted:
        break
    else:
      raise RunError(
        f"the base model wrote only {len(kept)} correct rationales for {name} "
        f"that fit into PROMPT_LENGTH, and {wanted} are wanted: set a larger "
        "PROMPT_LENGTH or fewer Prompts.num_exemplars, in another MODEL_DIR"
      )
    found += kept
  return found, sum(batches_drawn)


def put_before(
  task: Task, own: Examples, exemplars: Sequence[Exemplar], others: Examples
) -> Examples:
  """Puts each task's exemplars before its questions.

  Args:
    task: Task that defines how exemplars are separated.
    own: The training questions, among them those of the exemplars.
    exemplars: Exemplars of all tasks.
    others: The questions to put them before; may be the same.

  Returns:
    The questions with longer prompts and guides. A training question that is
    an exemplar keeps its own rationale before it, as in the paper.
  """
  before: list[dict[str, list[np.ndarray]]] = [{}, {}]
  for one in exemplars:
    for prefixes, tokens in zip(before, _tokens(task, own, one), strict=True):
      prefixes.setdefault(one.task, []).append(tokens)
  prior, guide = (
    {name: np.concatenate(parts) for name, parts in prefixes.items()}
    for prefixes in before
  )
  return others.with_prefix(prior, guide)


def use(data: Data, exemplars: Sequence[Exemplar]) -> Data:
  """Puts worked examples before all questions except the base model's.

  If a soft prompt needs them, it begins as the examples instead.
  """
  train, test = data.train, data.test
  if data.soft_task is None:
    return data._replace(
      train=put_before(data.task, train, exemplars, train),
      test=put_before(data.task, train, exemplars, test),
    )
  longer = put_before(data.soft_task, train, exemplars, train)
  tokens = training_data.common_beginning(
    [row[row != PAD_ID] for row in longer.prompts],
    [row[row != PAD_ID] for row in train.prompts],
    train.bos_id,
  )
  return data._replace(soft_tokens=tokens, hinted=longer.guides)


def as_sample(one: Exemplar) -> dict[str, Any]:
  """Makes a row of the report's samples."""
  return {
    "source": "bootstrapped exemplar",
    "id": one.id,
    "question": one.question,
    "answer": one.answer,
    "completion": one.completion,
    "extracted": one.answer,
    "is_correct": True,
  }


def write(directory: pathlib.Path, exemplars: Sequence[Exemplar]) -> str:
  """Writes exemplars to the run's folder, where other runs can read them too.

  Only the first of several processes writes.

  Returns:
    The sha256 of the file.
  """
  lines = [files.to_json_line(one._asdict()) for one in exemplars]
  content = "".join(lines).encode()
  if processes.is_first():
    files.write_atomically(directory / _FILE, content)
  return files.sha256(content)


def read(directory: pathlib.Path, sha256: str, data: Data) -> list[Exemplar]:
  """Reads the exemplars that `write` wrote.

  Args:
    directory: The run's folder.
    sha256: Hash that `write` returned.
    data: The run's data, without the exemplars.

  Raises:
    UserError: If the file is missing or was changed, or if a row is not a
      worked example of these data; names the line.
  """
  path = directory / _FILE
  try:
    content = path.read_bytes()
  except OSError:
    content = b""
  if files.sha256(content) != sha256:
    what = "was changed" if content else "cannot be read"
    raise UserError(
      f"{path} {what}, and the run's prompts are made of it: put it back as it "
      "was, or choose another MODEL_DIR"
    )
  found = []
  for number, line in enumerate(content.splitlines(), start=1):
    try:
      one = Exemplar(**files.parse_json(line))
      _check(one, data)
    except (LookupError, RecursionError, TypeError, ValueError) as error:
      raise UserError(
        f"{path}, line {number} is not a worked example of this run "
        f"({error!s:.80}): choose another MODEL_DIR"
      ) from None
    found.append(one)
  if missing := {*data.train.tasks} - {one.task for one in found}:
    raise UserError(
      f"{path} has no worked examples of {min(missing)}: choose another "
      "MODEL_DIR"
    )
  return found


def _check(one: Exemplar, data: Data) -> None:
  """Raises a ValueError unless it is a training question's, with tokens."""
  train = data.train
  row = list(train.ids).index(one.id)
  if one[1:4] != (train.tasks[row], train.questions[row], train.answers[row]):
    raise ValueError(f"{one.id} is another question in the task")
  is_text = isinstance(one.completion, str) and isinstance(one.tokens, list)
  size = data.task.vocabulary.size
  if not is_text or not all(
    type(token) is int and 0 <= token < size for token in one.tokens
  ):
    raise ValueError("completion or tokens are of another form")


def _correct_rationales(
  drawer: Drawer,
  params: Any,
  own: np.ndarray,
  rng_keys: Sequence[jax.Array],
  report_drawn: Callable[[int], None],
  parts: Phase | None,
  progress: Callable[[int], Callable[..., None]] | None,
) -> Iterator[Exemplar]:
  """Draws rationales for questions in random order; yields correct ones.

  Args:
    drawer: Drawer for the N training questions.
    params: Parameters of the base model.
    own: Indices of the questions to draw for.
    rng_keys: One key for each pass over them.
    report_drawn: Called with the size of each batch.
    parts: Phase that stores the draws; None stores nothing.
    progress: As for `draw`.
  """
  examples, size = drawer.examples, drawer.batch_size
  lesson = dict.fromkeys(examples.tasks, drawer.task.lesson)
  prompts = examples.with_prefix(lesson, lesson).prompts
  for rng_key in rng_keys:
    order = own[np.asarray(jax.random.permutation(rng_key, len(own)))]
    for start in range(0, len(order), size):
      rows = order[start : start + size]
      checked = drawer.draw_and_check(
        params,
        rows,
        np.zeros_like(rows),
        rng_key,
        prompts=prompts,
        parts=parts,
        report_done=progress and progress(len(rows)),
      )
      report_drawn(len(rows))
      for place in np.flatnonzero(checked.is_correct):
        row, tokens = int(rows[place]), checked.tokens[place]
        yield Exemplar(
          id=examples.ids[row],
          task=examples.tasks[row],
          question=examples.questions[row],
          answer=examples.answers[row],
          completion=checked.texts[place],
          tokens=_without_end(drawer.task, tokens, checked.texts[place]),
        )


def _without_end(task: Task, tokens: np.ndarray, text: str) -> list[int]:
  """Returns the tokens of a completion without its end."""
  written = tokens[tokens != PAD_ID].tolist()
  if written[-1] in task.ending.ids:
    return written[:-1]
  return task.vocabulary.encode(text)  # a stop string may begin within a token


def _tokens(
  task: Task, examples: Examples, one: Exemplar
) -> tuple[np.ndarray, np.ndarray]:
  """Returns an exemplar's tokens before a prompt, and before a guide.

  BOS is left out, because it comes before all exemplars.
  """
  row = list(examples.ids).index(one.id)
  prompt, guide = (
    np.concatenate([examples.split_bos(tokens)[1], one.tokens, task.separator])
    for tokens in (examples.prompts[row], examples.guides[row])
  )
  return prompt.astype(np.int32), guide.astype(np.int32)
