"""Which questions a run reads, and in what form."""

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
  """Which questions are read, and in what form.

  Attributes:
    task: A registered SeqIO task or mixture, with or without its version.
    module: The module that registers it, if it is not in this package.
    data_dir: Folder with the files of GSM8K and BIG-Bench Hard; None downloads
      them.
    prompts: How questions are put; None uses the task's own prompts.
    vocabulary: Path of a SentencePiece model, of a Hugging Face checkpoint's
      folder or tokenizer.json, or of a GGUF file; None uses the task's own
      vocabulary, mostly bytes.
    cache: Path of a file that `t5x cache` made from the task. Nothing else is
      read then, and neither SeqIO nor TensorFlow is started.
    bos: Whether prompts begin with BOS; None follows the checkpoint's files.
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
  """Which questions are read, and how long they and their rationales may be.

  Attributes:
    source: The task.
    prompt_length: Maximum length P of a prompt and a hinted prompt, in tokens.
    max_length: Maximum length T of a rationale with its answer and EOS, in
      tokens.
    length_factor: When a run is prepared, max_length is cut to this factor
      times the longest worked example (`cot_latent.training.lengths`); None
      cuts nothing.
    over_long: What happens to an example that does not fit (`Task.load`).
    train_split: The questions with a memory: a split, or a slice of one such
      as `train[:500]` (`cot_latent.data.subsets`).
    test_split: The held-out questions, in the same notation.
    stop: Strings that end a completion, as EOS always does; None uses those of
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
