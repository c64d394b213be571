"""The functions that a run compiles, with the shapes that it gives them."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cot_latent.em import weighing
from cot_latent.inference import estimators
from cot_latent.models import partitioning, slots
from cot_latent.models.language_model import LanguageModel
from cot_latent.models.network import SOFT_PROMPT
from cot_latent.planning import compiling
from cot_latent.planning.compiling import Program
from cot_latent.planning.lengths import Lengths
from cot_latent.planning.shapes import (
  Shapes,
  device_bytes,
  opt_state_of,
  shape,
)
from cot_latent.training import mstep, tuning
from cot_latent.training.experiment import BaseConfig, Experiment


class Sampling(NamedTuple):
  """Rows that the sampler draws in one call.

  Attributes:
    name: Part of the run.
    total: Rows of a call.
    num_slots: Largest number of rows at once; None is all.
    prompt: Tokens of a prompt, without the prefix.
    prefix: Tokens of the prefix.
    is_untuned: Whether it draws without the soft prompt.
  """

  name: str
  total: int
  num_slots: int | None
  prompt: int
  prefix: int
  is_untuned: bool = False


def samplings(config: Experiment, lengths: Lengths) -> list[Sampling]:
  """Returns the calls of the sampler in a run, without those that are alike."""
  method, evaluation = config.method, config.evaluation
  size, votes = evaluation.batch_size, evaluation.num_samples
  most = size * evaluation.part_batches
  found = []
  if method.loops is None and config.steps:
    rows = config.batch_size * method.num_draws
    found.append(Sampling("E-step", rows, None, lengths.prompt, lengths.prefix))
  elif method.loops is not None and method.loops.source != "human":
    rows = min(lengths.train * method.num_draws, most)
    found.append(Sampling("loop", rows, size, lengths.prompt, lengths.prefix))
    if method.loops.hint_on_failure:
      found.append(_hinted("hinted loop", rows, config, lengths))
  rows = min(lengths.test * max(1, votes), most)
  found.append(
    Sampling("evaluation", rows, size, lengths.prompt, lengths.prefix)
  )
  rows = min(lengths.train, most)
  if method.memory_start == "guide":
    found.append(_hinted("memory start", rows, config, lengths))
  elif method.memory_start == "prior":
    found.append(
      Sampling("memory start", rows, size, lengths.prompt, lengths.prefix)
    )
  return found


def _hinted(
  name: str, rows: int, config: Experiment, lengths: Lengths
) -> Sampling:
  """Returns a call whose prompts have the answer as a hint."""
  is_longer = bool(lengths.guide)
  return Sampling(
    name,
    rows,
    config.evaluation.batch_size,
    lengths.guide if is_longer else lengths.prompt,
    lengths.guide_prefix if is_longer else lengths.prefix,
    is_longer and tuning.has_guide(config.tuning),
  )


class Compiler:
  """Compiles the functions of one run, each shape once.

  Attributes:
    programs: What was compiled, by name.
    beside: Bytes that the run keeps on a device while a program runs, and
      which are not among its arguments; by the program's name.
    unread: Bytes of its arguments that a step of its decoding loop does not
      read, on a device; by the program's name.
    text: XLA's text of each program, by name.
    same: Name of every function -> name of the program that it is.
  """

  def __init__(self, shapes: Shapes, report: Callable[[str], None]):
    """Compiles nothing yet.

    Args:
      shapes: The run's arrays.
      report: Called with the name of each function before it is compiled.
    """
    self._shapes, self._report = shapes, report
    self.programs: dict[str, Program] = {}
    self.beside: dict[str, float] = {}
    self.unread: dict[str, float] = {}
    self.text: dict[str, str] = {}
    self.same: dict[str, str] = {}
    self._known: dict[Any, tuple[str, Any]] = {}

  def all(self, config: Experiment, lengths: Lengths) -> None:
    """Compiles what the run would compile."""
    shapes = self._shapes
    if isinstance(config.base, BaseConfig):
      size = config.base.batch_size
      self._m_step("base model", shapes.base, None, config, lengths, size)
    params = self._adapted()
    for one in samplings(config, lengths) if params is not None else ():
      own = tuning.untuned(params) if one.is_untuned else params
      self._sample(one, own, config.task.max_length)
    if not config.steps:
      return
    rows = config.rows_of_part()
    rows = min(rows, config.method.max_scored(config.batch_size))
    self._m_step("M-step", shapes.params, shapes.frozen, config, lengths, rows)
    if config.method.loops is None:
      self._weigh(config)

  def _compile(
    self,
    name: str,
    function: Any,
    *arguments: Any,
    kept: float,
    unread: float = 0.0,
  ):
    """Compiles one function; returns the shapes of its results."""
    key = function, *map(_key, jax.tree.leaves(arguments))
    if key in self._known:
      self.same[name], results = self._known[key]
      return results
    if not jax.tree.leaves(nothing := jax.eval_shape(function, *arguments)):
      return nothing  # there is no prefix
    self._report(name)
    num_devices = self._shapes.layout.mesh.size
    program, results, text = compiling.compiled(
      name, function, *arguments, num_devices=num_devices
    )
    self.programs[name], self.beside[name] = program, kept
    self.unread[name] = unread
    self.text[name] = text
    self._known[key] = self.same[name], _ = name, results
    return results

  def _kept(self, *without: Any) -> float:
    """Bytes of the run's arrays, without those of these trees."""
    whole = sum(map(device_bytes, self._shapes.state().values()))
    return max(0, whole - sum(map(device_bytes, without)))

  def _adapted(self) -> Any:
    """Parameters as the sampler takes them; None if they do not fit."""
    shapes = self._shapes
    sampler = shapes.model.sampler
    changed, ready = sampler.split(shapes.model_params())
    kept = self._kept(changed)
    adapted = self._compile(
      "sampling: parameters", sampler.adapt, changed, kept=kept
    )
    return None if adapted is None else tuning.merge(adapted, ready)

  def _sample(self, one: Sampling, params: Any, max_length: int) -> None:
    """Compiles the functions of a call of the sampler."""
    layout, sampler = self._shapes.layout, self._shapes.model.sampler
    planned = slots.plan(layout, one.total, one.num_slots, max_length)
    rows = functools.partial(_rows, layout, one.prompt)
    kept = self._kept(sampler.split(self._shapes.model_params())[1])
    prefix = jax.ShapeDtypeStruct((one.prefix,), jnp.int32)
    compile_ = functools.partial(self._compile, kept=kept)
    if planned.few is None:
      batch = params, prefix, *rows(planned.size), 1.0
      unread = unread_bytes(params, is_whole=True)
      compile_(
        f"{one.name}: sample", sampler.sample_batch, *batch, unread=unread
      )
      return
    encode = sampler.encode_prefix
    shared = compile_(f"{one.name}: prefix", encode, params, prefix)
    if shared is None:
      return
    first = params, shared, *rows(planned.size), 1.0
    state = compile_(f"{one.name}: prefill", sampler.prefill, *first)
    if state is None:
      return
    numbers = np.int32(1), np.int32(1)
    decoding = params, shared, state, 1.0, *numbers
    unread = unread_bytes(params, is_whole=False)
    compile_(f"{one.name}: decode", sampler.decode, *decoding, unread=unread)
    where = jax.ShapeDtypeStruct((planned.few,), jnp.int32)
    if one.total > planned.size:
      more = params, shared, state, *rows(planned.few), where, 1.0
      compile_(f"{one.name}: refill", sampler.refill, *more)
    if planned.may_shrink and planned.few < planned.size:
      compile_(f"{one.name}: shrink", sampler.shrink, state, where)

  def _m_step(self, name, params, frozen, config, lengths, rows) -> None:
    """Compiles the functions of the M-step, or of the base model's fit."""
    shapes = self._shapes
    layout, is_base = shapes.layout, name == "base model"
    model: LanguageModel = shapes.base_model if is_base else shapes.model
    opt_state = opt_state_of(shapes.optimizer, params, layout)
    by_term = config.method.is_fitted() and not is_base
    places = mstep.places_of((params, opt_state))
    begin, zeros, add, finish = mstep.compile_step(
      model, shapes.optimizer, places, by_term
    )
    beside = self._kept(params, frozen) if not is_base else 0.0
    shared_width, width = (
      lengths.of_base() if is_base else (lengths.prefix, lengths.prompt)
    )
    prefix = shape(layout, (shared_width,), jnp.int32)
    shared = self._compile(
      f"{name}: prefix",
      begin,
      params,
      frozen,
      prefix,
      kept=beside,
    )
    if shared is None:
      return
    sums = self._compile(f"{name}: sums", zeros, params, shared, kept=beside)
    if sums is None:
      return
    size = partitioning.padded(layout, "batch", rows)
    prompts = shape(layout, (size, width), jnp.int32, "batch")
    targets = shape(layout, (size, config.task.max_length), jnp.int32, "batch")
    weights = shape(layout, (size,), jnp.float32, "batch")
    share = [jax.ShapeDtypeStruct((2,), jnp.float32)] if by_term else []
    part = sums, params, frozen, shared, prompts, targets, weights, *share
    self._compile(f"{name}: gradient", add, *part, kept=beside)
    rest = self._kept(params, frozen, shapes.opt_state) if not is_base else 0.0
    whole = params, opt_state, frozen, np.float32(1), prefix, sums
    eta = [np.float32(1)] if by_term else []
    self._compile(f"{name}: update", finish, *whole, *eta, kept=rest)

  def _weigh(self, config: Experiment) -> None:
    """Compiles the E-step's own part: memory and weights."""
    shapes, method = self._shapes, config.method
    drawn = config.batch_size, method.num_draws
    tokens = jax.ShapeDtypeStruct((*drawn, config.task.max_length), jnp.int32)
    function = jax.jit(
      functools.partial(
        weighing.move_and_weigh,
        weighing=method.weighing,
        is_fitting=method.is_fitted(),
        layout=shapes.layout,
      ),
      donate_argnums=0,
    )
    self._compile(
      "E-step: memory and weights",
      function,
      shapes.memory,
      jax.ShapeDtypeStruct((config.batch_size,), jnp.int32),
      tokens,
      jax.ShapeDtypeStruct(drawn, bool),
      np.int32(1),
      weighing.Noise(
        jnp.float32(0), estimators.own_key(method.estimator, 0, 1)
      ),
      np.float32(0) if method.is_fitted() else None,
      kept=self._kept(shapes.memory),
    )


def _rows(layout: Any, prompt: int, number: int) -> Iterator[Any]:
  """Shapes of rows' prompts and random keys."""
  yield shape(layout, (number, prompt), jnp.int32, "batch")
  yield shape(layout, (number, 2), jnp.uint32, "batch")


def unread_bytes(params: Any, is_whole: bool) -> float:
  """Bytes of parameters on a device that no step of the decoding loop reads.

  Args:
    params: Parameters as the sampler takes them.
    is_whole: Whether the function reads the prompts too. A function of the loop
      alone has only arguments that it uses, if it only looks tokens up in one.
  """
  is_tied = "unembedding" not in params

  def is_read(path):
    if path[0] == "embed":
      return is_tied
    # The encoder's keys and values are made once.
    is_cross = "cross_attention" in path and {"key", "value"} & {*path}
    return not is_whole or not (path[0] in ("encoder", SOFT_PROMPT) or is_cross)

  flat = traverse_util.flatten_dict(params)
  return device_bytes([x for path, x in flat.items() if not is_read(path)])


def _key(leaf: Any) -> Any:
  """What a compiled function depends on, of one argument."""
  sharding = getattr(leaf, "sharding", None)
  return np.shape(leaf), str(getattr(leaf, "dtype", type(leaf))), sharding
