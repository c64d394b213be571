"""What a report says of T5X itself: its revision, and how the run was cut."""

import importlib.metadata
import importlib.util
import json
import pathlib
from typing import Any

import gin
import jax
from gin import config as gin_config
from t5x import partitioning

from cot_latent.configuration import gin_tables
from cot_latent.reporting import environment

# Bindings that do not change what a run computes: where it lies, what it begins
# with (the report has the parameters' hash), how it is spread and saved. The
# whole configuration stands in the report all the same.
_FREE_MACROS = (
  "CHECKPOINT_PERIOD",
  "DATA_DIR",
  "EVALUATOR_USE_MEMORY_CACHE",
  "INITIAL_CHECKPOINT_PATH",
  "JSON_WRITE_N_RESULTS",
  "MODEL_DIR",
  "NUM_PARTITIONS",
  "VOCABULARY_FILE",
)
_FREE_ENDINGS = (
  "CheckpointConfig",
  "JSONLogger",
  "Limits",
  "Partitioner",
  "Report",
  "vocabulary",  # by the hash that the section on the data has
)
# Of these endings: whether the optimizer is the checkpoint's or a new one.
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


def revision() -> dict[str, Any]:
  """Names the code of T5X: of a checkout, or as it was installed.

  Returns:
    The git revision and whether it was changed since, or the revision that it
    was installed from; None for what nothing says.
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
  }


def describe_partitioning(
  partitioner: partitioning.BasePartitioner, num_microbatches: int | None
) -> dict[str, Any]:
  """Says how parameters and rows are cut."""
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
  """All that gin binds and that may change what a run computes, as texts."""
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


def _text(value: Any) -> str:
  """A value as gin writes it, what it refers to by its whole name.

  As they are written, names depend on what a gin file imports.
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


def configuration() -> dict[str, Any]:
  """The report's section on where the configuration came from.

  T5X reads gin files itself and keeps no list of them; `resolved` is what it
  writes as config.gin.
  """
  return {
    "gin_files": [],
    "bindings": [],
    "resolved": gin.config_str(),
    "operative": gin.operative_config_str(),
  }
