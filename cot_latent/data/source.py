"""Which questions a run reads, and in what form they are put."""

import dataclasses
from typing import Literal

from cot_latent.data.prompts import Prompts
from cot_latent.errors import UserError
from cot_latent.runtime.validation import (
  check_positive,
  check_types,
)

OverLong = Literal["error", "leave_out", "truncate"]


@dataclasses.dataclass(frozen=True)
class Source:
  """Which questions, and in what form they are put.

  Attributes:
    task: A registered SeqIO task or mixture, with or without its version.
    module: The module that registers it, if it is none of this package's.
    data_dir: The folder with the files of GSM8K and BIG-Bench Hard; None
      fetches them.
    prompts: None takes the task's own.
    vocabulary: The path of a SentencePiece model, of a Hugging Face
      checkpoint's folder or tokenizer.json, or of a GGUF file; None takes the
      task's own, mostly bytes.
    cache: A file that `t5x cache` made of the task: nothing else is read then,
      and neither SeqIO nor TensorFlow is started.
    bos: Whether prompts begin with BOS; None as the checkpoint's files say.
  """

  task: str
  module: str | None = None
  data_dir: str | None = None
  prompts: Prompts | None = None
  vocabulary: str | None = None
  cache: str | None = None
  bos: bool | None = None

  def __post_init__(self):
    check_types(self)


@dataclasses.dataclass(frozen=True)
class TaskConfig:
  """Which questions, and how long they and their rationales may be.

  Attributes:
    source: The task.
    prompt_length: P, tokens; prompt and hinted prompt must fit.
    max_length: T, tokens of a rationale with its answer and EOS.
    length_factor: Times the longest worked example, to which max_length is cut
      when a run is prepared (`cot_latent.training.lengths`); None cuts nothing.
    over_long: What becomes of an example that does not fit (`Task.load`).
    train_split: The questions with a memory: a split, or a slice of one such
      as `train[:500]` (`cot_latent.data.subsets`).
    test_split: The held-out questions, likewise.
    stop: Strings that end a completion, as EOS always does; None takes those of
      the prompts (`Prompts.stop`).
  """

  source: Source
  prompt_length: int
  max_length: int
  over_long: OverLong = "error"
  train_split: str = "train"
  test_split: str = "test"
  stop: tuple[str, ...] | None = None
  length_factor: float | None = None

  def __post_init__(self):
    check_types(self)
    check_positive(self, "prompt_length", "max_length")
    if self.length_factor is not None:
      check_positive(self, "length_factor")
    if self.stop and "" in self.stop:
      raise UserError(
        "STOP has an empty string, which would end every completion before it "
        "begins; () is no stop string"
      )
