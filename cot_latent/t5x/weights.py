"""Converts models between T5X and the embedded trainer.

The embedded trainer begins with a folder in Hugging Face's format, T5X with a
checkpoint of its own. Parameters of T5X's T5 become those of the embedded
trainer's T5, and back.

H heads, D width of a head, E width of the model, R buckets of relative
positions.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util
from t5x import checkpoints

from cot_latent.errors import UserError
from cot_latent.models.hf import config as hf_config
from cot_latent.models.hf import weights as hf_weights
from cot_latent.models.t5 import T5Config
from cot_latent.runtime import terminal
from cot_latent.t5x import storage

Tree = dict[str, Any]


def to_folder(checkpoint: str, source: str, folder: str) -> int:
  """Writes a T5X checkpoint as a folder for the embedded trainer.

  Args:
    checkpoint: Path of a T5X checkpoint of `t5x.examples.t5`.
    source: Folder of a model of the same sizes, whose config.json and tokenizer
      are copied.
    folder: Path of the folder to write.

  Returns:
    The checkpoint's step.

  Raises:
    UserError: If checkpoint and source are of different models.
  """
  stored = read(checkpoint)
  config = _config(source)
  hf_weights.save(folder, from_t5x(config, stored.params), source)
  return stored.step


def from_folder(source: str, directory: str) -> str:
  """Writes a folder's model as a T5X checkpoint of step 0.

  It has no optimizer state: a run begins with it by
  gin/t5x/parameters_only.gin.

  Args:
    source: Folder such as `t5x export` makes.
    directory: Folder in which checkpoint_0 is made.

  Returns:
    The checkpoint's path.

  Raises:
    UserError: If the checkpoint exists, or if the model is not a T5.
  """
  config = _config(source)
  params = hf_weights.load(source, config, hf_config.vocab_size(source))
  path = storage.absolute(directory) / "checkpoint_0"
  if path.exists():
    raise UserError(f"{path} exists already: name another folder")
  write(str(path), to_t5x(config, params))
  return str(path)


def _config(folder: str) -> T5Config:
  config = hf_config.read_config(folder)
  if not isinstance(config, T5Config):
    raise UserError(f"{folder} is not a T5; only a T5 converts to and from T5X")
  return config


class Stored(NamedTuple):
  """The parts of a checkpoint that another trainer can use.

  Attributes:
    params: Parameters of T5X, numpy arrays.
    step: Step at which they were saved.
  """

  params: dict[str, Any]
  step: int


def read(path: str) -> Stored:
  """Reads a checkpoint in T5X's native form or in Orbax's.

  Args:
    path: Path of the checkpoint, such as MODEL_DIR/checkpoint_1500.

  Raises:
    UserError: If there is no checkpoint.
  """
  folder = storage.absolute(path)  # Orbax takes no other
  if (folder / "state").is_dir():
    state = _read_orbax(folder / "state")
  elif (folder / "checkpoint").is_file():
    state = checkpoints.load_t5x_checkpoint(str(folder))
  else:
    raise UserError(
      f"{path} is not a checkpoint of T5X: give a checkpoint's own folder, "
      "such as MODEL_DIR/checkpoint_1500"
    )
  params = jax.tree.map(np.asarray, state["target"])
  return Stored(params, int(np.asarray(state["state"]["step"])))


def write(path: str, params: dict[str, Any]) -> None:
  """Writes parameters alone as a checkpoint of step 0, in Orbax's form.

  Args:
    path: Path of the checkpoint, such as DIR/checkpoint_0. It appears once it
      is whole.
    params: Parameters of T5X.
  """
  folder = storage.absolute(path)
  partial = folder.with_name(f"{folder.name}.partial")
  if partial.exists():  # an earlier process was ended here
    partial.rmtree()
  state = {
    "target": jax.tree.map(np.asarray, params),
    "state": {"step": np.int32(0)},
  }
  with ocp.PyTreeCheckpointer() as writer:
    writer.save(partial / "state", state)
  # T5X looks for this part too; without a memory in it, a new memory is made.
  (partial / "dataset").mkdir()
  partial.rename(folder)


def from_t5x(config: T5Config, params: Mapping[str, Any]) -> Tree:
  """Renames and reshapes T5X's parameters.

  Args:
    config: Configuration of the embedded model.
    params: `target` of a T5X checkpoint, of `t5x.examples.t5`.

  Returns:
    Parameters of `models.t5.T5`.

  Raises:
    UserError: If they are of another model, or of a kind that T5X lacks.
  """
  _check_kind(config)
  flat = _flat(params)
  pairs = list(_pairs(config))
  _check_names(flat, {pair.theirs for pair in pairs}, "T5X's checkpoint")
  return traverse_util.unflatten_dict(
    {pair.own: pair.to_own(flat[pair.theirs]) for pair in pairs}, sep="/"
  )


def to_t5x(config: T5Config, params: Mapping[str, Any]) -> Tree:
  """Inverts `from_t5x`."""
  _check_kind(config)
  flat = _flat(params)
  pairs = list(_pairs(config))
  _check_names(flat, {pair.own for pair in pairs}, "the model")
  return traverse_util.unflatten_dict(
    {pair.theirs: pair.to_theirs(flat[pair.own]) for pair in pairs}, sep="/"
  )


def plain(tree: Any) -> Any:
  """Turns all mappings of a tree into dicts."""
  if isinstance(tree, Mapping):
    return {name: plain(part) for name, part in tree.items()}
  return tree


class _Pair(NamedTuple):
  """One array by its two names, and the conversions between its two forms."""

  own: str
  theirs: str
  to_own: Callable[[np.ndarray], np.ndarray]
  to_theirs: Callable[[np.ndarray], np.ndarray]


def _read_orbax(folder: epath.Path) -> dict[str, Any]:
  with ocp.PyTreeCheckpointer() as reader:
    # From whatever devices it was written.
    wanted = jax.tree.map(
      lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray),
      reader.metadata(folder).item_metadata.tree,
    )
    return reader.restore(folder, restore_args=wanted)


def _flat(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  flat = traverse_util.flatten_dict(plain(params), sep="/")
  return {name: np.asarray(array) for name, array in flat.items()}


def _check_kind(config: T5Config) -> None:
  if config.scale_outputs != config.tie_embeddings:
    raise UserError(
      f"a T5 with tie_embeddings = {config.tie_embeddings} and scale_outputs = "
      f"{config.scale_outputs}: T5X's has both or neither, so that this one "
      "cannot be converted"
    )


def _check_names(flat, wanted: set[str], what: str) -> None:
  missing, others = wanted - flat.keys(), flat.keys() - wanted
  if missing or others:
    name = min(missing or others)
    verb = "lacks" if missing else "has"
    raise UserError(
      f"{what} {verb} {name}: its layers are not those of the T5 in config.json"
    )


def _pairs(config: T5Config) -> Iterator[_Pair]:
  """Yields all arrays of a model."""
  yield _same("embed/embedding", "token_embedder/embedding")
  if not config.tie_embeddings:
    yield _same("unembedding", "decoder/logits_dense/kernel")
  for stack, number in (
    ("encoder", config.num_encoder_layers),
    ("decoder", config.num_decoder_layers),
  ):
    yield _same(f"{stack}/final_norm/scale", f"{stack}/{stack}_norm/scale")
    yield _Pair(
      f"{stack}/relative_bias",
      f"{stack}/relpos_bias/rel_embedding",
      np.transpose,  # [H, R] there
      np.transpose,
    )
    for layer in range(number):
      own, theirs = f"{stack}/layer_{layer}", f"{stack}/layers_{layer}"
      if stack == "encoder":
        yield from _attention(config, own, theirs, "attention", "attention")
      else:
        yield from _attention(
          config, own, theirs, "attention", "self_attention"
        )
        yield from _attention(
          config, own, theirs, "cross_attention", "encoder_decoder_attention"
        )
      yield from _mlp(config, own, theirs)


def _attention(
  config: T5Config, own: str, theirs: str, name: str, their_name: str
) -> Iterator[_Pair]:
  norm = "cross_attention" if name == "cross_attention" else their_name
  yield _same(
    f"{own}/{name}/norm/scale", f"{theirs}/pre_{norm}_layer_norm/scale"
  )
  heads = (config.num_heads, config.head_dim)
  for part in ("query", "key", "value"):
    yield _Pair(
      f"{own}/{name}/{part}/kernel",
      f"{theirs}/{their_name}/{part}/kernel",
      lambda kernel: kernel.reshape(-1, *heads),  # [E, H * D] there
      lambda kernel: kernel.reshape(len(kernel), -1),
    )
  yield _same(
    f"{own}/{name}/output/kernel", f"{theirs}/{their_name}/out/kernel"
  )


def _mlp(config: T5Config, own: str, theirs: str) -> Iterator[_Pair]:
  names = {"down": "wo"}
  if config.activation == "relu":
    names |= {"up": "wi"}
  else:
    names |= {"gate": "wi_0", "up": "wi_1"}
  yield _same(f"{own}/mlp/norm/scale", f"{theirs}/pre_mlp_layer_norm/scale")
  for name, their_name in names.items():
    yield _same(f"{own}/mlp/{name}/kernel", f"{theirs}/mlp/{their_name}/kernel")


def _same(own: str, theirs: str) -> _Pair:
  return _Pair(own, theirs, np.asarray, np.asarray)


def main(argv: Sequence[str] | None = None) -> int:
  """Converts a model; see --help."""
  parser = argparse.ArgumentParser(prog="python -m cot_latent.t5x.weights")
  commands = parser.add_subparsers(required=True, dest="command")
  out = commands.add_parser(
    "to_folder", help="write a checkpoint of T5X for the embedded trainer"
  )
  for name in ("checkpoint", "source", "folder"):
    out.add_argument(name)
  back = commands.add_parser(
    "from_folder", help="write a model of the embedded trainer for T5X"
  )
  for name in ("source", "directory"):
    back.add_argument(name)
  options = parser.parse_args(argv)
  try:
    if options.command == "to_folder":
      step = to_folder(options.checkpoint, options.source, options.folder)
      terminal.say(f"{options.folder} has the model of step {step}")
    else:
      terminal.say(from_folder(options.source, options.directory))
  except UserError as error:
    terminal.fail(str(error))
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
