"""Finished toy runs, each trained once for all workers of a session."""

import dataclasses
import pathlib
from typing import Any

import filelock

from cot_latent.em import plan
from cot_latent.reporting import record
from cot_latent.runtime import files
from cot_latent.training.experiment import Experiment
from tests.training import toy


def finished_run(
  folder: pathlib.Path,
  config: Experiment,
  gin_record: dict[str, Any] | None = None,
) -> tuple[Experiment, dict[str, Any]]:
  """Trains a run, unless a worker has trained the same one already.

  Args:
    folder: The store.
    config: The run; whatever its model_dir is, it is trained in the store.
    gin_record: What gin files and bindings the configuration came from.

  Returns:
    The configuration, with the run's folder, and the report as it is on disk.
    A test that changes something in the folder must copy it first.
  """
  decisive = plan.as_dict(dataclasses.replace(config, model_dir=None))
  directory = folder / files.short_hash(decisive)
  config = dataclasses.replace(config, model_dir=str(directory))
  with filelock.FileLock(f"{directory}.lock"), toy.shared_compilation():
    toy.run(config, gin_record)
  return config, record.read_whole(directory)
