"""Imports go one way, from the statistics to the command."""

import ast
import pathlib
import subprocess
import sys

import pytest

import cot_latent

ROOT = pathlib.Path(cot_latent.__file__).parents[1]
# DESIGN.md: inference <- models, data <- training <- cli; reporting imports
# none of them. As the code is, data shares the padding token of models, and
# tasks (SeqIO registrations) are made of data's prompts and checkers, while
# data opens a registered task.
MAY_IMPORT = {
  "": set(),  # the package itself: its version
  "errors": set(),
  "validation": {"errors"},
  "quiet": {"errors"},
  "inference": set(),
  "reporting": {"", "errors", "validation"},
  "models": {"errors", "validation", "inference"},
  "data": {"errors", "validation", "inference", "models", "tasks"},
  "tasks": {"errors", "quiet", "data"},
  "training": {
    "errors",
    "validation",
    "quiet",
    "inference",
    "models",
    "data",
    "reporting",
  },
  "t5x": {
    "",
    "errors",
    "gin_errors",
    "gin_sources",
    "inference",
    "models",
    "data",
    "tasks",
    "training",
    "reporting",
  },
  "gin_sources": set(),
  "gin_errors": {"errors", "gin_sources"},
  "configuration": {
    "",
    "errors",
    "gin_errors",
    "gin_sources",
    "data",
    "training",
  },
  "task_commands": {"errors", "data", "tasks", "reporting"},
  "report_commands": {
    "errors",
    "configuration",
    "data",
    "reporting",
    "training",
  },
  "study": {"errors", "configuration", "data", "reporting", "training"},
  "cli": {
    "",
    "errors",
    "configuration",
    "report_commands",
    "study",
    "t5x",
    "task_commands",
    "reporting",
    "training",
  },
}
# Packages that are not everyone's business, and whose they are.
OWNED = {
  "gin": {"configuration", "gin_errors", "gin_sources", "t5x"},
  "seqio": {"data", "tasks", "quiet", "t5x"},
  "t5x": {"t5x"},
  "clu": {"t5x"},
  "etils": {"t5x"},
  "tensorflow": {"data", "tasks", "quiet"},
  "tensorflow_datasets": {"tasks"},
  "sentencepiece": {"data"},
  "tokenizers": {"data"},
  "flax": {"models", "training", "t5x"},
  "safetensors": {"models"},
  "optax": {"training"},
  "orbax": {"training", "t5x"},
  "tensorboard": {"training", "quiet"},
  "jax": {"inference", "models", "training", "t5x"},
  "jinja2": {"reporting"},
  "jsonschema": {"reporting"},
  "markupsafe": {"reporting"},
  "matplotlib": {"reporting"},
  "scipy": {"reporting"},
  "typeguard": {"validation"},
  "numpy": {
    "inference",
    "models",
    "data",
    "tasks",
    "training",
    "t5x",
    "task_commands",
  },
}
# Who starts TensorFlow: besides these, the tasks and T5X nobody, not even late.
STARTERS = {"cot_latent.data.seqio_task", "cot_latent.quiet"}
MODULES = [
  (f"cot_latent.{'.'.join(path.relative_to(base).with_suffix('').parts)}", path)
  for base, folder in [(ROOT, "tasks"), (ROOT / "cot_latent", ".")]
  for path in sorted((base / folder).rglob("*.py"))
]


def room(module):
  """The first name below the package: cot_latent.data.prompts is in data."""
  return [*module.split("."), ""][1].replace("__init__", "")


def imports(source):
  """Yields the full names that a module imports, wherever it does."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      module = "." * node.level + (node.module or "")
      yield from (f"{module}.{alias.name}" for alias in node.names)


def check_imports(module, source):
  """Checks one module's imports against the tables."""
  own = room(module)
  for name in imports(source):
    top = name.split(".")[0]
    assert top, f"{module}: relative import {name}"
    if top == "cot_latent":
      other = room(name) if room(name) in MAY_IMPORT else ""
      assert other == own or other in MAY_IMPORT[own], f"{module} -> {name}"
    elif top not in sys.stdlib_module_names:
      assert own in OWNED.get(top, ()), f"{module} -> {name}"
      if top in ("seqio", "tensorflow") and own not in ("tasks", "t5x"):
        assert module in STARTERS, f"{module} -> {name}"


def test_all_modules_are_looked_at():
  rooms = {room(module) for module, _ in MODULES}
  assert rooms == set(MAY_IMPORT)
  assert len(MODULES) > 60
  assert {module for module, _ in MODULES} > STARTERS


def test_the_rule_has_one_direction():
  # But for tasks and data, which are one thing in two folders, nothing that a
  # room imports, directly or not, imports the room.
  def reached(start):
    seen, todo = set(), [start]
    while todo:
      new = MAY_IMPORT[todo.pop()] - seen
      seen |= new
      todo += new
    return seen

  for name in MAY_IMPORT.keys() - {"tasks", "data"}:
    assert name not in reached(name)
  assert reached("inference") == set()
  assert not reached("reporting") & {"inference", "models", "data", "training"}
  for name in ("models", "data", "tasks"):
    assert "training" not in reached(name)


@pytest.mark.parametrize(
  ("module", "path"), MODULES, ids=[module for module, _ in MODULES]
)
def test_imports(module, path):
  check_imports(module, path.read_text())


@pytest.mark.parametrize(
  ("module", "source"),
  [
    ("cot_latent.inference.rng", "from cot_latent.models import decoder"),
    ("cot_latent.inference.rng", "import flax.linen as nn"),
    ("cot_latent.inference.rng", "import cot_latent.data.prompts"),
    ("cot_latent.inference.rng", "from cot_latent.errors import UserError"),
    ("cot_latent.inference.rng", "def f():\n  import gin"),
    ("cot_latent.models.decoder", "from cot_latent.data import prompts"),
    ("cot_latent.models.decoder", "from cot_latent.training.mstep import x"),
    ("cot_latent.data.examples", "def f():\n  from cot_latent import training"),
    ("cot_latent.data.examples", "def f():\n  import seqio"),
    ("cot_latent.data.cache", "import tensorflow as tf"),
    ("cot_latent.data.scoring", "from cot_latent.reporting import stats"),
    ("cot_latent.data.examples", "import tensorflow_datasets as tfds"),
    ("cot_latent.tasks.chain", "import jax"),
    ("cot_latent.tasks.bbh", "from cot_latent.training import train"),
    ("cot_latent.training.train", "import clu"),
    ("cot_latent.training.train", "from clu import metric_writers"),
    ("cot_latent.training.bootstrap", "import seqio"),
    ("cot_latent.task_commands", "from cot_latent.training import train"),
    ("cot_latent.task_commands", "import jax"),
    ("cot_latent.quiet", "from cot_latent import cli"),
    ("cot_latent.reporting.page", "from cot_latent.inference import memory"),
    ("cot_latent.reporting.page", "from cot_latent import inference, errors"),
    ("cot_latent.reporting.page", "import jax.numpy as jnp"),
    ("cot_latent.training.train", "import gin"),
    ("cot_latent.training.train", "from gin import config"),
    ("cot_latent.training.train", "from cot_latent import cli"),
    ("cot_latent.cli", "import jax"),
    ("cot_latent.cli", "from . import errors"),
    ("cot_latent.data.prompts", "import requests"),
    ("cot_latent.cli", "import t5x"),
    ("cot_latent.training.train", "def f():\n  from t5x import trainer"),
    ("cot_latent.training.train", "from cot_latent.t5x import sampler"),
    ("cot_latent.configuration", "from cot_latent.t5x import launch"),
    ("cot_latent.t5x.latent", "from cot_latent import cli"),
    ("cot_latent.t5x.latent", "import optax"),
  ],
)
def test_a_forbidden_import_is_rejected(module, source):
  check_imports(module, "import json\nfrom os import path")
  with pytest.raises(AssertionError, match=module):
    check_imports(module, source)


@pytest.mark.parametrize(
  ("module", "unwanted"),
  [
    ("cot_latent.cli", {"jax", "tensorflow", "seqio", "numpy", "t5x"}),
    ("cot_latent.reporting.record", {"jax", "tensorflow", "seqio", "numpy"}),
    ("cot_latent.inference.estimators", {"flax", "tensorflow", "seqio", "gin"}),
    (
      "cot_latent.data.cache",
      {"tensorflow", "seqio", "sentencepiece", "tokenizers"},
    ),
    ("cot_latent.data.scoring", {"tensorflow", "seqio", "gin"}),
    ("cot_latent.task_commands", {"tensorflow", "seqio", "gin"}),
    ("cot_latent.training.train", {"tensorflow", "seqio", "gin", "clu"}),
    ("cot_latent.configuration", {"tensorflow", "seqio", "clu"}),
  ],
)
def test_importing_a_module_does_not_start(module, unwanted):
  code = f"import sys, {module}; print(*sys.modules)"
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  loaded = set(done.stdout.split())
  assert module in loaded
  assert not loaded & unwanted
