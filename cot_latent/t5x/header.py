"""The sections of a T5X run's report that are known before it begins.

They describe T5X too: its revision, the gin bindings, and how parameters and
rows are sharded.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import gin
import jax
from gin import config as gin_config
from t5x import partitioning

from cot_latent.configuration import gin_tables
from cot_latent.data.examples import Examples
from cot_latent.em import header, training_data
from cot_latent.em import plan as plans
from cot_latent.errors import UserError
from cot_latent.reporting import environment, record, seals
from cot_latent.reporting.health import Limits
from cot_latent.runtime import files, processes
from cot_latent.t5x.latent import Latent

# Bindings that do not change what a run computes: its folder, its initial
# checkpoint (the report has the parameters' hash), its devices and its saving.
# The report still has the whole configuration.
_FREE_MACROS = (
  "CHECKPOINT_PERIOD",
  "DATA_DIR",
  "EVALUATOR_USE_MEMORY_CACHE",
  "INITIAL_CHECKPOINT_PATH",
  "JSON_WRITE_N_RESULTS",
  "METRIC_WRITERS",
  "MODEL_DIR",
  "MODEL_PARALLEL_SUBMESH",
  "NUM_PARTITIONS",
  "PROFILE_STEPS",
  "VOCABULARY_FILE",
)
_FREE_ENDINGS = (
  "CheckpointConfig",
  "JSONLogger",
  "Limits",
  "Partitioner",
  "Report",
  "Watch",
  "vocabulary",  # identified by its hash in the section on the data
)
# With these endings: whether the optimizer is the checkpoint's or a new one.
_DECISIVE_PARAMETERS = ("assignment_map",)
_FREE_PARAMETERS = (
  "cache",
  "checkpoint_cfg",
  "concurrent_metrics",
  "data_dir",
  "gc_period",
  "limits",
  "logger_cls",
  "model_dir",
  "partitioner",
  "stats_period",
  "summarize_config_fn",
  "use_memory_cache",
  "vocabulary",
)


class Plan(NamedTuple):
  """The settings of T5X that belong to an experiment.

  Attributes:
    model_dir: The run's folder.
    steps: Steps of the method.
    period: Steps between evaluations; 0 evaluates only at the beginning.
    limits: Limits beyond which a complete run is suspect.
  """

  model_dir: str
  steps: int
  period: int
  limits: Limits


def build_header(
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
    plan: The settings of T5X.
    began_at: T5X's step at which the memory was made.
    params: Parameters of T5X.
    partitioner: Partitioner of T5X.
    num_microbatches: Number of parts of a step's rows.

  Returns:
    The sections, and the changes to the code.
  """
  settings = _experiment(latent, plan)
  source = latent.config.source
  sharding = describe_partitioning(partitioner, num_microbatches)
  decisive = {
    name: seals.without_place(name, value)
    for name, value in seals.leaves(settings)
    if not seals.is_free(name)
  }
  sections, diff = header.build_header(
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
    configuration=configuration() | {"experiment": settings},
    data=_data(latent, test),
    params=params,
    topology={
      "num_processes": processes.count(),
      "num_devices": sharding["num_devices"],
      "mesh": sharding["mesh"],
    },
    plan=_costs(latent, plan, len(test)),
    limits=plan.limits,
  )
  sections["t5x"] = {
    **revision(),
    "began_at": began_at,
    "partitioning": sharding,
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
      f"{path} is a run that began at T5X's step {part['began_at']}, but "
      f"this run begins at {began_at}: choose another MODEL_DIR"
    )
  return old


def keep_original_sections(
  sections: dict[str, Any], old: Mapping[str, Any], resume_at: int | None
) -> None:
  """Keeps the original sections: those of the process that began the run.

  Args:
    sections: Sections of this process; changed in place.
    old: The report of the run.
    resume_at: The method's step from which the run resumes; None if it starts
      again.
  """
  resumption = header.keep_original_sections(sections, old)
  resumption["environment"] |= {
    f"t5x.{name}": [was, now_is]
    for name, was, now_is in seals.differences(old["t5x"], sections["t5x"])
  }
  if resume_at is not None:
    sections["t5x"] = old["t5x"]
    sections["continuity"]["resumes"].append({"step": resume_at, **resumption})


def name_config(sections: dict[str, Any], content: bytes) -> None:
  """Adds the hash of T5X's config.gin to the report's parts.

  Args:
    sections: Sections of the report; changed in place.
    content: Content of config.gin.
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


def revision() -> dict[str, Any]:
  """Identifies the code of T5X, from a checkout or an installation.

  Returns:
    The git revision and whether it was changed since, or the revision from
    which it was installed, None for what is unknown; and the hash of its files.
  """
  spec = importlib.util.find_spec("t5x.train")
  assert spec is not None  # it runs
  root = pathlib.Path(str(spec.origin)).parents[1]
  version = installed = None
  try:
    package = importlib.metadata.distribution("t5x")
    version = package.version
    direct = json.loads(package.read_text("direct_url.json") or "{}")
    installed = direct.get("vcs_info", {}).get("commit_id")
  except importlib.metadata.PackageNotFoundError:
    pass  # a clone on PYTHONPATH
  commit = environment.git(root, "rev-parse", "HEAD")
  status = environment.git(root, "status", "--porcelain") if commit else None
  return {
    "version": version,
    "revision": commit or installed,
    "is_modified": None if status is None else bool(status),
    "files_sha256": _hash_of_modules(root / "t5x"),
  }


def _hash_of_modules(package: pathlib.Path) -> str:
  """Returns one sha256 for a package's modules, their paths included."""
  found = {
    str(path.relative_to(package)): files.sha256(path.read_bytes())
    for path in package.rglob("*.py")
  }
  return files.sha256(files.to_json_line(dict(sorted(found.items()))).encode())


def describe_partitioning(
  partitioner: partitioning.BasePartitioner, num_microbatches: int | None
) -> dict[str, Any]:
  """Describes how parameters and rows are sharded."""
  submesh = getattr(partitioner, "_model_parallel_submesh", None)
  rules = getattr(partitioner, "_logical_axis_rules", None) or ()
  return {
    "partitioner": type(partitioner).__name__,
    "mesh": {axis: int(n) for axis, n in partitioner.mesh.shape.items()},
    "num_devices": jax.device_count(),
    "num_partitions": getattr(partitioner, "_num_partitions", None),
    "model_parallel_submesh": None if submesh is None else list(submesh),
    "logical_axis_rules": [[name, axis] for name, axis in rules],
    "num_microbatches": num_microbatches,
  }


def bindings() -> dict[str, str]:
  """Returns all bindings that may change what a run computes, as texts."""
  found = {}
  for (scope, selector), parameters in sorted(gin_tables.bound().items()):
    if selector == "gin.macro":
      if scope not in _FREE_MACROS:
        found[scope] = _text(parameters["value"])
      continue
    is_free = selector.endswith(_FREE_ENDINGS)
    name = f"{scope}/{selector}" if scope else selector
    for parameter, value in sorted(parameters.items()):
      if parameter in _DECISIVE_PARAMETERS or not (
        is_free or parameter in _FREE_PARAMETERS
      ):
        found[f"{name}.{parameter}"] = _text(value)
  return found


def configuration() -> dict[str, Any]:
  """Returns the report's section on the origin of the configuration.

  T5X reads gin files itself and keeps no list of them; `resolved` is the text
  that it writes as config.gin.
  """
  return {
    "gin_files": [],
    "bindings": [],
    "resolved": gin.config_str(),
    "operative": gin.operative_config_str(),
  }


def _experiment(latent: Latent, plan: Plan) -> dict[str, Any]:
  """Describes the run, with the names of the embedded trainer."""
  return {
    "task": plans.as_dict(latent.config),
    "method": plans.as_dict(latent.method),
    "evaluation": {"num_samples": 0, "period": plan.period},
    "model_dir": plan.model_dir,
    "seed": latent.seed,
    "steps": plan.steps,
    "batch_size": latent.batch_size,
    "limits": dataclasses.asdict(plan.limits),
    "t5x": bindings(),
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
  """Counts the cost of the run."""
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


def _text(value: Any) -> str:
  """Writes a value as gin does, with full names of what it refers to.

  The names as written would depend on the imports of a gin file.
  """
  if isinstance(value, gin_config.ConfigurableReference):
    name = "/".join(filter(None, value.config_key))
    return f"@{name}()" if value.evaluate else f"@{name}"
  if isinstance(value, dict):
    items = (f"{_text(key)}: {_text(each)}" for key, each in value.items())
    return f"{{{', '.join(items)}}}"
  if isinstance(value, list | tuple):
    return f"[{', '.join(map(_text, value))}]"
  return repr(value)
