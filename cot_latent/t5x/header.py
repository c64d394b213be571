"""What a report says of a run inside T5X before it begins."""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from t5x import partitioning

from cot_latent.data.task import Examples
from cot_latent.em import header, training_data
from cot_latent.em import plan as plans
from cot_latent.errors import UserError
from cot_latent.reporting import record, seals
from cot_latent.reporting.health import Limits
from cot_latent.runtime import files, processes
from cot_latent.t5x import provenance
from cot_latent.t5x.latent import Latent


class Plan(NamedTuple):
  """What T5X's settings make of an experiment.

  Attributes:
    model_dir: The run's folder.
    steps: Steps of the method.
    period: Steps between evaluations; 0 evaluates at the beginning alone.
    limits: Beyond which the run counts as dead.
  """

  model_dir: str
  steps: int
  period: int
  limits: Limits


def build(
  latent: Latent,
  test: Examples,
  plan: Plan,
  began_at: int,
  params: Any,
  partitioner: partitioning.BasePartitioner,
  num_microbatches: int | None,
) -> tuple[dict[str, Any], str]:
  """Makes the sections of a report that do not change during a run.

  Args:
    latent: The experiment.
    test: The held-out questions.
    plan: What T5X's settings make of it.
    began_at: T5X's step at which the memory was made.
    params: T5X's parameters.
    partitioner: T5X's.
    num_microbatches: Parts that a step's rows are cut into.

  Returns:
    The sections, and what is changed in the code.
  """
  settings = _experiment(latent, plan)
  source = latent.config.source
  cut = provenance.describe_partitioning(partitioner, num_microbatches)
  decisive = {
    name: seals.without_place(name, value)
    for name, value in seals.leaves(settings)
    if not seals.is_free(name)
  }
  sections, diff = header.build(
    identity={
      "run_id": f"{source.task}-{latent.method.name}-s{latent.seed}-"
      f"{files.short_hash(decisive)}",
      "task": latent.task.name,
      "method": latent.method.name,
      "seed": latent.seed,
      "argv": ["python", "-m", "t5x.train", *sys.argv[1:]],
      "rerun": "t5x rerun report.json",
    },
    module=source.module,
    configuration=provenance.configuration() | {"experiment": settings},
    data=_data(latent, test),
    params=params,
    topology={
      "num_processes": processes.count(),
      "num_devices": cut["num_devices"],
      "mesh": cut["mesh"],
    },
    plan=_costs(latent, plan, len(test)),
    limits=plan.limits,
  )
  sections["t5x"] = {
    **provenance.revision(),
    "began_at": began_at,
    "partitioning": cut,
  }
  return sections, diff


def read_old(
  folder: pathlib.Path, began_at: int, is_new: bool
) -> dict[str, Any] | None:
  """Reads the report of the run that is resumed, if there is one.

  Args:
    folder: Where it is stored.
    began_at: T5X's step at which the memory was made.
    is_new: Whether the memory is made now.

  Raises:
    UserError: If the folder has the report of a run from another checkpoint.
  """
  path = folder / "report.json"
  if not path.is_file():
    return None
  old = record.read_file(path)
  part = old.get("t5x")
  if is_new and part is not None and part["began_at"] != began_at:
    raise UserError(
      f"{path} is of a run that began at T5X's step {part['began_at']}, and "
      f"this one begins at {began_at}: choose another MODEL_DIR"
    )
  return old


def take_over(
  sections: dict[str, Any], old: Mapping[str, Any], resume_at: int | None
) -> None:
  """Keeps what the process that began the run wrote down.

  Args:
    sections: This process's; changed in place.
    old: The report of the run.
    resume_at: The method's step that the run resumes from; None where it
      starts once more.
  """
  resumption = header.take_over(sections, old)
  resumption["environment"] |= {
    f"t5x.{name}": [was, now_is]
    for name, was, now_is in seals.differences(old["t5x"], sections["t5x"])
  }
  if resume_at is not None:
    sections["t5x"] = old["t5x"]
    sections["continuity"]["resumes"].append({"step": resume_at, **resumption})


def name_config(sections: dict[str, Any], content: bytes) -> None:
  """Puts the hash of what T5X wrote as config.gin among the parts.

  Args:
    sections: Changed in place.
    content: Of config.gin.
  """
  others = [p for p in sections["parts"] if p["path"] != record.CONFIG]
  sections["parts"] = [
    *others,
    {
      "path": record.CONFIG,
      "sha256": files.sha256(content),
      "num_bytes": len(content),
    },
  ]


def _experiment(latent: Latent, plan: Plan) -> dict[str, Any]:
  """What the run is, by the names that the embedded trainer's have."""
  return {
    "task": plans.as_dict(latent.config),
    "method": plans.as_dict(latent.method),
    "evaluation": {"num_samples": 0, "period": plan.period},
    "model_dir": plan.model_dir,
    "seed": latent.seed,
    "steps": plan.steps,
    "batch_size": latent.batch_size,
    "limits": dataclasses.asdict(plan.limits),
    "t5x": provenance.bindings(),
  }


def _data(latent: Latent, test: Examples) -> dict[str, Any]:
  return training_data.describe_splits(
    latent.task,
    None,
    {
      latent.config.train_split: latent.examples,
      latent.config.test_split: test,
    },
  )


def _costs(latent: Latent, plan: Plan, num_test: int) -> dict[str, Any]:
  """Counts what the run will cost."""
  num_evaluations = 1
  if plan.period:
    num_evaluations += -(-plan.steps // plan.period)
  return plans.plan_of(
    latent.method,
    steps=plan.steps,
    batch_size=latent.batch_size,
    num_train=len(latent.examples),
    num_answers=num_test * num_evaluations,
  )
