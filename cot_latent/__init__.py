"""Chain of thought as a latent variable: TRICE and its baselines in JAX.

The names below are all that most programs need. Each is imported when it is
first used: `import cot_latent` starts neither JAX nor TensorFlow.

  import cot_latent as cl

  task = cl.Task.from_rows(questions, answers, check=is_correct)
  e_step = cl.EStep(sampler, task, task.load("train"), method, seed=0,
                    max_length=256)
  memory = e_step.start_memory(params)
  memory, rows, info = e_step.step(params, memory, index, step=1)

`train` runs the whole experiment if the model is in JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
  from cot_latent.data.examples import Examples as Examples
  from cot_latent.data.prompts import Prompts as Prompts
  from cot_latent.data.task import Task as Task
  from cot_latent.em import likelihood as likelihood
  from cot_latent.em.drawing import Drawer as Drawer
  from cot_latent.em.estep import EStep as EStep
  from cot_latent.em.method import Method as Method
  from cot_latent.em.method import OuterLoops as OuterLoops
  from cot_latent.em.step_info import StepInfo as StepInfo
  from cot_latent.em.weighted_rows import WeightedRows as WeightedRows
  from cot_latent.errors import RunError as RunError
  from cot_latent.errors import UserError as UserError
  from cot_latent.inference import baselines as baselines
  from cot_latent.inference import estimators as estimators
  from cot_latent.inference import resampling as resampling
  from cot_latent.inference import rng as rng
  from cot_latent.inference import scored_estimators as scored_estimators
  from cot_latent.inference.memory import MemoryState as MemoryState
  from cot_latent.inference.transition import Transition as Transition
  from cot_latent.inference.transition import independence as independence
  from cot_latent.models.api import Draws as Draws
  from cot_latent.models.api import Sampler as Sampler
  from cot_latent.models.api import Scorer as Scorer
  from cot_latent.models.vocabularies import Vocabulary as Vocabulary
  from cot_latent.reporting.reading import load_report as load_report
  from cot_latent.reporting.tables.make import make_tables as tables  # noqa: F401
  from cot_latent.training.programmatic import train as train

# Public name -> where it is defined.
_PUBLIC = {
  "Draws": "cot_latent.models.api:Draws",
  "Drawer": "cot_latent.em.drawing:Drawer",
  "EStep": "cot_latent.em.estep:EStep",
  "Examples": "cot_latent.data.examples:Examples",
  "MemoryState": "cot_latent.inference.memory:MemoryState",
  "Method": "cot_latent.em.method:Method",
  "OuterLoops": "cot_latent.em.method:OuterLoops",
  "Prompts": "cot_latent.data.prompts:Prompts",
  "RunError": "cot_latent.errors:RunError",
  "Sampler": "cot_latent.models.api:Sampler",
  "Scorer": "cot_latent.models.api:Scorer",
  "StepInfo": "cot_latent.em.step_info:StepInfo",
  "Task": "cot_latent.data.task:Task",
  "Transition": "cot_latent.inference.transition:Transition",
  "UserError": "cot_latent.errors:UserError",
  "Vocabulary": "cot_latent.models.vocabularies:Vocabulary",
  "WeightedRows": "cot_latent.em.weighted_rows:WeightedRows",
  "baselines": "cot_latent.inference.baselines",
  "estimators": "cot_latent.inference.estimators",
  "independence": "cot_latent.inference.transition:independence",
  "likelihood": "cot_latent.em.likelihood",
  "load_report": "cot_latent.reporting.reading:load_report",
  "resampling": "cot_latent.inference.resampling",
  "rng": "cot_latent.inference.rng",
  "scored_estimators": "cot_latent.inference.scored_estimators",
  "tables": "cot_latent.reporting.tables.make:make_tables",
  "train": "cot_latent.training.programmatic:train",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
  """Imports a public name when it is first used (PEP 562)."""
  if name not in _PUBLIC:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  module, _, attribute = _PUBLIC[name].partition(":")
  found = importlib.import_module(module)
  if attribute:
    found = getattr(found, attribute)
  globals()[name] = found
  return found


def __dir__() -> list[str]:
  """Lists the public names."""
  return sorted({*globals(), *__all__})
