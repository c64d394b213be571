"""The settings of a config.json, read one by one.

Each setting that changes numbers is understood or refused, because nobody would
notice a model that is almost correct. All refused settings are
reported together.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from cot_latent.errors import UserError
from cot_latent.runtime import text_files

FILE = "config.json"
MOST_LAYERS = 10_000
IGNORE = "hf_config.read_config.ignore"

_REQUIRED = object()

# Read elsewhere, or read by nothing and without effect on a model's numbers.
_OF_THE_MODEL = {
  "architectures",
  "bos_token_id",
  "dtype",
  "eos_token_id",
  "max_position_embeddings",
  "model_type",
  "pad_token_id",
  "torch_dtype",
  "unk_token_id",
  "vocab_size",
}
# Settings of training, generation, memory and bookkeeping.
_HARMLESS = _OF_THE_MODEL | {
  *("_attn_implementation_autoset", "_commit_hash", "_model_name_or_path"),
  *("_name_or_path", "_unsloth_fixed", "is_llama_config", "model_name"),
  *("tokenizer_class", "transformers.js_config", "transformers_version"),
  *("unsloth_fixed", "unsloth_version"),
  "pretraining_tp",  # the same sums in another order
  # Settings of training.
  *("attention_dropout", "classifier_dropout", "dropout_rate", "embd_pdrop"),
  *("gradient_checkpointing", "hidden_dropout", "initializer_factor"),
  *("initializer_range", "resid_pdrop", "router_aux_loss_coef"),
  # Settings of other heads than a language model's, and of other outputs.
  *("finetuning_task", "id2label", "label2id", "num_labels", "problem_type"),
  *("output_attentions", "output_hidden_states", "output_past"),
  *("return_dict", "return_dict_in_generate", "task_specific_params"),
  *("torchscript", "use_cache", "cache_implementation"),
  # Settings of generation, which this package does itself.
  *("bad_words_ids", "begin_suppress_tokens", "do_sample", "early_stopping"),
  *("forced_bos_token_id", "forced_eos_token_id", "length_penalty"),
  *("max_length", "max_new_tokens", "min_length", "no_repeat_ngram_size"),
  *("num_beams", "num_beam_groups", "num_return_sequences", "output_scores"),
  *("diversity_penalty", "encoder_no_repeat_ngram_size", "prefix"),
  *("exponential_decay_length_penalty", "remove_invalid_values"),
  *("repetition_penalty", "sep_token_id", "suppress_tokens", "temperature"),
  *("top_k", "top_p", "typical_p"),
}


@dataclasses.dataclass
class Fields:
  """The settings of a config.json, each of which must be asked for.

  Attributes:
    values: The settings.
    place: The file, and the part of it.
    asked: Names asked for so far.
    problems: Faults of the settings, for all parts.
    ignore: Names that are skipped.
    ignored: Skipped names that were there, in any part.
  """

  values: Mapping[str, Any]
  place: str
  asked: set[str] = dataclasses.field(default_factory=set)
  problems: list[str] = dataclasses.field(default_factory=list)
  ignore: Collection[str] = ()
  ignored: set[str] = dataclasses.field(default_factory=set)

  def __post_init__(self):
    self.ignored |= {*self.ignore} & {*self.values}
    self.values = {
      name: value
      for name, value in self.values.items()
      if name not in self.ignore
    }

  def refuse(self, name: str, expected: str) -> None:
    """Notes that a setting cannot be used; `finish` reports it."""
    text = f"{self.place} lacks {name!r}: it should be {expected}"
    if name in self.values:
      text = (
        f"{self.place}: {name} = {self.values[name]!r:.80} is not supported: "
        f"expected {expected}"
      )
    if text not in self.problems:
      self.problems.append(text)

  def get(
    self,
    name: str,
    expected: str,
    fits: Callable[[Any], bool],
    default: Any = _REQUIRED,
    placeholder: Any = None,
  ) -> Any:
    """Returns a setting that fits, or the default if it is null or missing.

    If it does not fit, that is noted, and a placeholder is returned. Nothing
    made from the placeholder ever leaves this folder.
    """
    self.asked.add(name)
    value = self.values.get(name)
    if value is None and default is not _REQUIRED:
      return default
    if not fits(value):
      self.refuse(name, expected)
      return placeholder
    return value

  def size(self, name: str, default: Any = _REQUIRED) -> Any:
    """Returns a whole number above 0."""
    return self.get(
      name,
      "a whole number above 0",
      lambda x: type(x) is int and x > 0,
      default,
      1,
    )

  def num_layers(self, name: str, default: Any = _REQUIRED) -> int:
    """Returns a number of layers; each of them has parameters of its own."""
    return self.get(
      name,
      f"a whole number from 1 to {MOST_LAYERS:,}",
      lambda x: type(x) is int and 0 < x <= MOST_LAYERS,
      default,
      1,
    )

  def number(self, name: str, default: Any = _REQUIRED) -> Any:
    """Returns a number above 0, as a float."""
    value = self.get(
      name,
      "a number above 0",
      lambda x: type(x) in (int, float) and 0 < x <= sys.float_info.max,
      default,
      1.0,
    )
    return value if value is None else float(value)

  def flag(self, name: str, default: Any = _REQUIRED) -> Any:
    """Returns true or false."""
    return self.get(
      name, "true or false", lambda x: isinstance(x, bool), default, False
    )

  def choice(
    self, name: str, values: Mapping[Any, Any], default: Any = _REQUIRED
  ) -> Any:
    """Returns the meaning of a setting's value."""
    expected = " or ".join(json.dumps(value) for value in values)
    value = self.get(
      name,
      expected,
      # To Python 0 is False, but not to JSON.
      lambda x: any(
        isinstance(x, bool) == isinstance(v, bool) and x == v for v in values
      ),
      default,
      next(iter(values)),
    )
    return values[value]

  def part(self, name: str) -> "Fields | None":
    """Returns the settings within a setting; None if it is null or missing."""
    value = self.get(name, "an object", lambda x: isinstance(x, dict), None)
    if value is None:
      return None
    return Fields(
      value,
      f"{self.place}: {name}",
      problems=self.problems,
      ignore=self.ignore,
      ignored=self.ignored,
    )

  def note_unknown(self) -> None:
    """Refuses settings that were not asked for and may matter."""
    for name, value in self.values.items():
      is_known = name in self.asked or name in _HARMLESS
      if not is_known and value is not None:
        self.problems.append(
          f"{self.place}: {name} = {value!r:.80} is not known here: if the "
          f"model's numbers do not depend on it, name it in {IGNORE}"
        )

  def finish(self) -> None:
    """Reports all faults.

    Raises:
      UserError: If a setting was refused; names all of them.
    """
    if unused := sorted({*self.ignore} - self.ignored):
      self.problems.append(f"{IGNORE}: {self.place} has no {unused[0]!r}")
    if self.problems:
      raise UserError("; ".join(self.problems))

  def accepted(self) -> list[str]:
    """Returns the names of settings that were there and not read, sorted."""
    found = {name for name, value in self.values.items() if value is not None}
    return sorted((found & _HARMLESS) - self.asked - _OF_THE_MODEL)


def read_fields(folder: pathlib.Path, ignore: Collection[str] = ()) -> Fields:
  """Reads a checkpoint's config.json.

  Args:
    folder: The checkpoint's folder.
    ignore: Names of settings that are skipped.

  Raises:
    UserError: If it is missing, or has no JSON object.
  """
  path = folder / FILE
  if not folder.is_dir():
    raise UserError(
      f"no folder {folder}: give one that holds a checkpoint, such as `hf "
      "download NAME --local-dir FOLDER` makes"
    )
  return Fields(text_files.read_object(path), str(path), ignore=ignore)
