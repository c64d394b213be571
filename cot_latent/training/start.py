"""The initial state of a run: a new state, or that of its last checkpoint."""

from typing import Any

import jax

from cot_latent.em.drawn_parts import DrawnParts
from cot_latent.errors import UserError
from cot_latent.inference import fitting, rng
from cot_latent.models import digests
from cot_latent.reporting.runlog import RunLog
from cot_latent.runtime import files
from cot_latent.runtime.progress import DrawingProgress
from cot_latent.training import base, bootstrap, experiment, loops, tuning
from cot_latent.training.checkpoints import Checkpoints
from cot_latent.training.loading import Data
from cot_latent.training.setup import Setup
from cot_latent.training.state import TrainState


def begin(
  setup: Setup, data: Data, log: RunLog, parts: DrawnParts
) -> tuple[Data, TrainState]:
  """Makes or loads the base model, draws worked examples, fills the memory.

  Args:
    setup: Models, optimizer and devices of the run.
    data: The loaded data.
    log: Log of each phase.
    parts: Stored draws; found again after a kill.

  Returns:
    The data with the worked examples in use, and the state of step 0.

  Raises:
    RunError: If the base model cannot be fitted, or writes too few correct
      rationales to be worked examples.
    UserError: If a file cannot be used.
  """
  config = setup.config
  with log.phase("base") as found:
    params, was_read = _base_params(setup, data)
    jax.block_until_ready(params)
    found["num_scored"] = 0 if was_read else experiment.base_rows(config)
    found["was_read"] = was_read
    found |= _frozen_hash(setup, params)
  if data.draws_exemplars():
    data = _draw_exemplars(setup, data, params, log, parts)
  state = _add_trained(setup, data, params)
  is_empty = config.method.memory_start == "empty"
  num_drawn = 0 if is_empty else len(data.train)
  with log.phase("memory_start", num_sampled=num_drawn) as found:
    phase = parts.phase("memory", 0, params_sha256(state, log))
    chains = setup.e_step(data).start_memory(
      state.model_params(),
      DrawingProgress("memory", len(data.train), config.task.max_length),
      phase,
    )
    found["seconds_before"] = phase.seconds_read
  return data, _first_state(setup, state._replace(memory=chains))


def resume(
  setup: Setup, data: Data, log: RunLog, checkpoints: Checkpoints
) -> tuple[Data, TrainState]:
  """Restores the last checkpoint, and the parts that no checkpoint holds.

  Args:
    setup: Models, optimizer and devices of the run.
    data: The loaded data.
    log: The log, with the rows from the beginning of the run.
    checkpoints: Checkpoints of the run; there is at least one.

  Returns:
    The data with the worked examples in use, and the state.

  Raises:
    UserError: If the worked examples or the frozen parameters differ from those
      with which the run began.
  """
  config = setup.config
  if data.draws_exemplars():
    sha256 = log.phase_row("bootstrap")["sha256"]
    data = bootstrap.use(data, bootstrap.read(setup.directory, sha256, data))
  if experiment.trains_all(config):
    trained = setup.model.init(rng.purpose_key(config.seed, "params"))
    state = TrainState(trained, None, None, 0)
  else:
    params, _ = _base_params(setup, data)
    _check_frozen(setup, params, log)
    state = _add_trained(setup, data, params)
  chains = setup.e_step(data).empty_memory()
  like = _first_state(setup, state._replace(memory=chains))
  return data, checkpoints.restore(like)


def _base_params(setup: Setup, data: Data) -> tuple[Any, bool]:
  """Makes or loads the base model, and returns whether it existed already."""
  config = setup.config
  folder = base.folder_of(config, setup.directory)
  return base.make_base(folder, setup.directory, setup.base_model, config, data)


def _draw_exemplars(
  setup: Setup, data: Data, params: Any, log: RunLog, parts: DrawnParts
) -> Data:
  """Draws worked examples from the base model and puts them to use."""
  config = setup.config
  task = data.soft_task or data.task
  drawer = setup.drawer(setup.base_model, task, data.train)
  room = data.room(config.task.prompt_length)
  with log.phase("bootstrap") as found:
    phase = parts.phase("bootstrap", 0, digests.tree_sha256(params))
    exemplars, found["num_sampled"] = bootstrap.draw(
      drawer,
      params,
      config.seed,
      room,
      phase,
      lambda num_rows: DrawingProgress(
        "bootstrap", num_rows, config.task.max_length, tells_end=False
      ),
    )
    found["seconds_before"] = phase.seconds_read
    found["sha256"] = bootstrap.write(setup.directory, exemplars)
  for one in exemplars:
    log.sample(0, bootstrap.as_sample(one))
  return bootstrap.use(data, exemplars)


def _add_trained(setup: Setup, data: Data, params: Any) -> TrainState:
  """Splits the base model, with anything added to it, into what is trained."""
  config = setup.config
  if not config.tuning and not experiment.trains_all(config):
    return TrainState({}, None, None, 0, frozen=params)
  trained, frozen = tuning.begin(
    config.tuning,
    params,
    setup.model,
    data.soft_tokens,
    rng.purpose_key(config.seed, "params"),
  )
  return TrainState(trained, None, None, 0, frozen=frozen)


def _first_state(setup: Setup, state: TrainState) -> TrainState:
  """Makes the state before any step, from parameters and memory."""
  state = state._replace(
    opt_state=setup.init_optimizer(state.params),
    fit=fitting.begin() if setup.config.method.is_fitted() else None,
  )
  return loops.first_state(setup.config, state, setup.layout)


def _frozen_hash(setup: Setup, params: Any) -> dict[str, str]:
  """Returns the hash of a frozen base model; {} if nothing is frozen."""
  if experiment.trains_all(setup.config):
    return {}
  return {"frozen_sha256": digests.tree_sha256(params)}


def params_sha256(state: TrainState, log: RunLog) -> str:
  """Returns the hash of all parameters with which a state draws.

  Args:
    state: The state.
    log: The log, which has the hash of the frozen parameters.
  """
  frozen = log.phase_row("base").get("frozen_sha256", "")
  trained = digests.tree_sha256(state.params)
  return files.sha256(f"{trained} {frozen}".encode())


def _check_frozen(setup: Setup, params: Any, log: RunLog) -> None:
  """Checks that frozen parameters are those with which the run began."""
  began_with = log.phase_row("base")
  if _frozen_hash(setup, params).items() <= began_with.items():
    return
  raise UserError(
    "the base model is not the one that this run began with: put it back "
    f"({setup.config.base}), or choose another MODEL_DIR"
  )
