"""What is trained: all parameters, a soft prompt, or low-rank updates.

Parameters are nested dicts. Trained and frozen parameters are two such trees
without common leaves, and the model takes them merged.

Symbols: L soft tokens, E width of the model, V vocabulary.
"""

import dataclasses
import io
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cot_latent.data.source import Source
from cot_latent.errors import UserError
from cot_latent.models import lora, partitioning
from cot_latent.models.language_model import LanguageModel
from cot_latent.models.network import SOFT_PROMPT
from cot_latent.runtime import arrays
from cot_latent.runtime.validation import check_positive, check_types

Tree = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class SoftPrompt:
  """Trains L embeddings before every prompt, and nothing else.

  They begin as the embeddings of a text, which is cut or repeated to L tokens,
  as those of random tokens, or as they are in a file.

  Attributes:
    length: Number L of embeddings; None uses the length of the text or file.
    text: The text.
    source: A task; the text is the common beginning of its training prompts.
      Few-shot prompts share their worked examples, as in the paper. Hinted
      rationales are drawn by the untuned model from the guides of that task.
    path: Path of a file that `numpy.save` wrote, [L, E], as in
      google-research's prompt-tuning.

  Reference: Lester et al. 2021, "The Power of Scale for Parameter-Efficient
  Prompt Tuning"; Phan et al. 2023, section 5.
  """

  length: int | None = None
  text: str | None = None
  source: Source | None = None
  path: str | None = None

  def __post_init__(self):
    check_types(self)
    if self.length is not None:
      check_positive(self, "length")
    given = [
      name
      for name in ("text", "source", "path")
      if getattr(self, name) is not None
    ]
    if len(given) > 1:
      raise UserError(
        f"SoftPrompt.{given[0]} and .{given[1]}: give one of them"
      )
    if not given and self.length is None:
      raise UserError(
        "SoftPrompt needs a length, or a text, source or path that has one"
      )


# None trains all parameters.
Tuning = SoftPrompt | lora.Lora | None


def begin(
  tuning: Tuning,
  params: Tree,
  model: LanguageModel,
  tokens: np.ndarray | None,
  rng_key: jax.Array,
) -> tuple[Tree, Tree | None]:
  """Adds trained parameters to a base model that is not trained itself.

  Args:
    tuning: What is trained.
    params: Parameters of the base model.
    model: The model, with anything that is added to it.
    tokens: Initial tokens of a soft prompt, if any.
    rng_key: Key for random initial values.

  Returns:
    What is trained, and what is frozen.
  """
  if tuning is None:
    return params, None
  if isinstance(tuning, SoftPrompt):
    added = {
      SOFT_PROMPT: make_soft_prompt(tuning, embeddings(params), tokens, rng_key)
    }
  else:
    # Compiled, so that only these parameters of the model are made.
    places = None
    if model.shapes is not None:
      places = jax.tree.map(
        lambda leaf: leaf.sharding, split(model.shapes, tuning)[0]
      )
    make = jax.jit(
      lambda key: split(model.init(key), tuning)[0], out_shardings=places
    )
    added = make(rng_key)
  return partitioning.on_mesh(model.layout, added), params


def split(params: Tree, tuning: Tuning) -> tuple[Tree, Tree | None]:
  """Splits a model's parameters into trained and frozen ones."""
  if tuning is None:
    return params, None
  flat = traverse_util.flatten_dict(params)

  def is_trained(path):
    if isinstance(tuning, SoftPrompt):
      return path == (SOFT_PROMPT,)
    return lora.is_added(path[-1])

  trained = {path: leaf for path, leaf in flat.items() if is_trained(path)}
  frozen = {path: leaf for path, leaf in flat.items() if path not in trained}
  unflatten = traverse_util.unflatten_dict
  return unflatten(trained), unflatten(frozen)


def merge(trained: Tree, frozen: Tree | None) -> Tree:
  """Joins the results of `split`; leaves are not copied."""
  if not frozen:
    return trained
  return traverse_util.unflatten_dict(
    traverse_util.flatten_dict(frozen) | traverse_util.flatten_dict(trained)
  )


def untuned(params: Tree) -> Tree:
  """Returns a model's parameters without a soft prompt; none is copied."""
  return {name: part for name, part in params.items() if name != SOFT_PROMPT}


def has_guide(tuning: Tuning) -> bool:
  """Whether hinted rationales come from the untuned model.

  As in the paper, the worked examples as which a soft prompt begins then stand
  before the hinted question, and are hinted too.
  """
  return isinstance(tuning, SoftPrompt) and tuning.source is not None


def embeddings(params: Tree) -> jax.Array:
  """Returns the input embeddings [V, E] of a model of any family."""
  return params["embed"]["embedding"]


def make_soft_prompt(
  config: SoftPrompt,
  table: jax.Array,
  tokens: np.ndarray | None,
  rng_key: jax.Array,
) -> jax.Array:
  """Makes the initial soft prompt.

  Args:
    config: Settings of the soft prompt.
    table: [V, E], the model's input embeddings.
    tokens: Tokens of the text or of the source; None if there is neither.
    rng_key: Key for random tokens.

  Returns:
    [L, E] float32.

  Raises:
    UserError: If the path is not such a file, or has another width.
  """
  if config.path is not None:
    made = read_soft_prompt(pathlib.Path(config.path))
    if made.shape[1] != table.shape[1]:
      raise UserError(
        f"SoftPrompt.path: {config.path} has embeddings of width "
        f"{made.shape[1]}, and the model's is {table.shape[1]}"
      )
    if config.length not in (None, len(made)):
      raise UserError(
        f"SoftPrompt.path: {config.path} has {len(made)} embeddings, and "
        f"length = {config.length}"
      )
    return jnp.asarray(made)
  if tokens is None:
    assert config.length is not None
    # The most common tokens of a vocabulary have the lowest ids; special tokens
    # come first.
    highest = min(5_000, len(table))
    tokens = np.asarray(
      jax.random.randint(rng_key, (config.length,), 3, highest)
    )
  elif not len(tokens):
    raise UserError("SoftPrompt: the text has no tokens")
  elif config.length is not None:
    tokens = np.resize(tokens, config.length)
  return table[jnp.asarray(tokens)].astype(jnp.float32)


def read_soft_prompt(path: pathlib.Path) -> np.ndarray:
  """Reads a soft prompt, [L, E] float32.

  Raises:
    UserError: If the file holds something else.
  """
  try:
    with path.open("rb") as file:
      array = arrays.read_array(file)
  except FileNotFoundError:
    raise UserError(f"SoftPrompt.path: there is no file {path}") from None
  except (OSError, ValueError) as error:
    raise UserError(
      f"SoftPrompt.path: {path} is not a file of numpy.save ({error!s:.60})"
    ) from None
  if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
    raise UserError(f"SoftPrompt.path: {path} has no [L, E] array of numbers")
  if not len(array) or not np.isfinite(array).all():
    raise UserError(f"SoftPrompt.path: {path} is empty or not finite")
  return array.astype(np.float32)


def soft_prompt_bytes(trained: Tree) -> bytes:
  """Returns a trained soft prompt as the content of a `numpy.save` file."""
  stream = io.BytesIO()
  array = np.asarray(trained[SOFT_PROMPT], np.float32)
  np.save(stream, array, allow_pickle=False)
  return stream.getvalue()
