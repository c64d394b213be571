"""Numbers and lengths of a run's questions: from its data, or assumed.

Symbols: P' tokens of the prefix that all prompts share, P of the rest.
"""

import dataclasses
from typing import Any

import numpy as np

from cot_latent.data.examples import Examples
from cot_latent.data.open import open_task
from cot_latent.errors import UserError
from cot_latent.models import token_rows
from cot_latent.models.api import PAD_ID
from cot_latent.models.stops import Ending
from cot_latent.training import lengths, loading
from cot_latent.training.experiment import Experiment
from cot_latent.training.tuning import SoftPrompt

_STEP = 8  # to a multiple of which lengths are rounded


@dataclasses.dataclass(frozen=True)
class Lengths:
  """What the sizes of a run's arrays depend on, besides its configuration.

  Attributes:
    vocab: Size of the vocabulary.
    prompt: Longest prompt of a question, training or held out, without the
      prefix, P.
    prefix: Tokens of the prefix, P'.
    guide: Longest hinted prompt, without its prefix; 0 is as `prompt`.
    guide_prefix: Tokens of the hinted prompts' prefix.
    base: Longest prompt to which the base model is fitted, hinted or not,
      without its prefix; 0 is the longer of a question's two prompts.
    base_prefix: Tokens of these prompts' prefix.
    soft: Soft tokens before each prompt, if a soft prompt is trained.
    train: Training questions.
    test: Held-out questions.
    ending: What ends a sequence.
  """

  vocab: int
  prompt: int
  prefix: int = 0
  guide: int = 0
  guide_prefix: int = 0
  base: int = 0
  base_prefix: int = 0
  soft: int = 0
  train: int = 10_000
  test: int = 1_000
  ending: Ending = dataclasses.field(default_factory=lambda: Ending((1,)))

  def of_base(self) -> tuple[int, int]:
    """Tokens of the prefix and of the rest in the base model's fit."""
    if self.base:
      return self.base_prefix, self.base
    whole = max(self.prefix + self.prompt, self.guide_prefix + self.guide)
    return self.prefix, whole - self.prefix


NAMES = [f.name for f in dataclasses.fields(Lengths) if f.name != "ending"]


def assumed(text: str, config: Experiment) -> Lengths:
  """Reads lengths as the command line has them.

  Args:
    text: Such as "vocab=128256,prompt=256,prefix=600".
    config: The run.

  Raises:
    UserError: If a name or number is not one, if one is missing or given twice,
      or if no run could have these lengths.
  """
  given: dict[str, Any] = {}
  for item in text.split(","):
    name, _, value = item.partition("=")
    if name not in NAMES or not value.isdecimal():
      raise UserError(
        f"--assume: {item!r} is not NAME=NUMBER, with a name of "
        f"{', '.join(NAMES)}"
      )
    if name in given:
      raise UserError(f"--assume: {name} is given twice: leave one out")
    given[name] = int(value)
  given["soft"] = _soft(config, given.get("soft"))
  needed = ["vocab", "prompt"]
  needed += [name for name in ("base", "guide") if given.get(f"{name}_prefix")]
  for name in needed:
    if not given.get(name):
      raise UserError(f"--assume: give {name}=NUMBER, a number above 0")
  found = Lengths(**given)
  _check_prompts(config, found)
  _check_questions(config, found)
  return found


def _soft(config: Experiment, given: int | None) -> int:
  """Returns the soft prompt's tokens; 0 if there is none."""
  if not isinstance(config.tuning, SoftPrompt):
    if given:
      raise UserError(
        f"--assume: soft={given}, but no soft prompt is trained: leave it out, "
        "or add --gin_file=gin/tuning/soft_prompt.gin"
      )
    return 0
  length = config.tuning.length
  if given is None and length is not None:
    return length
  if not given:
    raise UserError(
      "--assume: give soft=NUMBER, the soft prompt's tokens, a number above 0"
    )
  if length not in (None, given):
    raise UserError(
      f"--assume: soft={given}, but SoftPrompt.length = {length}: leave soft "
      "out"
    )
  return given


def _check_prompts(config: Experiment, found: Lengths) -> None:
  """Checks that prompts are no longer than a run's."""
  limit = config.task.prompt_length
  most = -(-limit // _STEP) * _STEP
  parts = {
    ("prefix", "prompt"): (found.prefix, found.prompt),
    ("guide_prefix", "guide"): (found.guide_prefix, found.guide),
    ("base_prefix", "base"): (found.base_prefix, found.base),
  }
  for names, numbers in parts.items():
    if (length := sum(numbers)) > most:
      raise UserError(
        f"--assume: {' + '.join(names)} are {length} tokens, and no prompt of "
        f"a run is above PROMPT_LENGTH = {limit}: set "
        f"--gin.PROMPT_LENGTH={length}, or assume fewer"
      )


def _check_questions(config: Experiment, found: Lengths) -> None:
  """Checks that there are as many questions as a run needs."""
  if not found.test:
    raise UserError("--assume: give test=NUMBER, a number above 0")
  if found.train < config.batch_size:
    raise UserError(
      f"--assume: a minibatch of {config.batch_size} does not fit "
      f"train={found.train} questions: set a smaller BATCH_SIZE, or assume more"
    )


def of_data(config: Experiment) -> tuple[Experiment, Lengths]:
  """Loads a run's data, and returns what its sizes depend on.

  Worked examples that the run will draw itself are taken to fill the prompts.

  Args:
    config: The run.

  Returns:
    The run, its length limit cut as in a run; and the lengths.

  Raises:
    UserError: If the data cannot be used.
  """
  config = lengths.limited(config, open_task)
  data = loading.load_data(config)
  prefix, prompt = _widths(data.train.prompts)
  prompt = max(prompt, sum(_widths(data.test.prompts)) - prefix)
  guides = data.train.guides if data.hinted is None else data.hinted
  guide_prefix, guide = _widths(guides)
  soft = 0
  is_drawn = data.draws_exemplars()
  longest = max(_longest(data.train), _longest(data.test))
  missing = max(config.task.prompt_length - longest, 0) // _STEP * _STEP
  if isinstance(config.tuning, SoftPrompt):
    tokens = 0 if data.soft_tokens is None else len(data.soft_tokens)
    soft = config.tuning.length or tokens or missing
    if is_drawn:  # before hinted questions too
      guide_prefix += missing
  elif is_drawn and len({*data.train.tasks}) > 1:
    # Each task draws its own, so that no beginning is shared.
    prompt, guide = prompt + missing, guide + missing
  elif is_drawn:
    prefix, guide_prefix = prefix + missing, guide_prefix + missing
  base_prefix, base = _base_widths(data.base)
  return config, Lengths(
    vocab=data.task.vocabulary.size,
    prompt=prompt,
    prefix=prefix,
    guide=guide,
    guide_prefix=guide_prefix,
    base=base,
    base_prefix=base_prefix,
    soft=soft,
    train=len(data.train),
    test=len(data.test),
    ending=data.task.ending,
  )


def _widths(prompts: np.ndarray) -> tuple[int, int]:
  """Tokens of the common prefix, and the width of the rest."""
  prefix, rest = token_rows.compact_prompts(prompts)
  return len(prefix), rest.shape[1]


def _base_widths(examples: Examples | None) -> tuple[int, int]:
  """The same of a fit, whose minibatches are half hinted; 0 without a fit."""
  if examples is None:
    return 0, 0
  both = examples.prompts, examples.guides
  width = max(rows.shape[1] for rows in both)
  return _widths(
    np.concatenate(
      [
        np.pad(
          rows, ((0, 0), (width - rows.shape[1], 0)), constant_values=PAD_ID
        )
        for rows in both
      ]
    )
  )


def _longest(examples: Examples) -> int:
  return max(examples.prompts.shape[1], examples.guides.shape[1])
