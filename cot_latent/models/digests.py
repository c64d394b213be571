"""Hashes of trees of arrays: two models with equal hashes are equal."""

import hashlib
from typing import Any

import jax
import numpy as np

from cot_latent.models import partitioning
from cot_latent.runtime import files


def tree_sha256(tree: Any) -> str:
  """Returns the sha256 over a tree's paths, shapes, types and values.

  Args:
    tree: Tree of arrays; all of several processes must call this.
  """
  total = hashlib.sha256()
  for key, leaf in jax.tree_util.tree_leaves_with_path(tree):
    array = partitioning.to_host(leaf)
    total.update(_label(key, array).encode())
    total.update(array.tobytes())
  return total.hexdigest()


def describe(shapes: Any) -> dict[str, Any]:
  """Describes a model by the shapes of its parameters.

  Args:
    shapes: Tree of arrays, or of their shapes alone.
  """
  leaves = jax.tree_util.tree_leaves_with_path(shapes)
  labels = "".join(_label(key, leaf) for key, leaf in leaves)
  return {
    "num_params": sum(int(np.prod(leaf.shape)) for _, leaf in leaves),
    "shapes_sha256": files.sha256(labels.encode()),
  }


def _label(key, array) -> str:
  name = jax.tree_util.keystr(key)
  return f"{name} {array.dtype} {tuple(array.shape)}\n"
