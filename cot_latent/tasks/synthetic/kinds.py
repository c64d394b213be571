"""The kinds of synthetic tasks by name."""

from cot_latent.tasks.synthetic import (
  boolean_expressions,
  dyck_languages,
  formula,
  inventory,
  multistep_arithmetic,
  navigate,
  object_counting,
  testimony,
  tracking_shuffled_objects,
  web_of_lies,
  word_sorting,
)

_MODULES = (
  boolean_expressions,
  dyck_languages,
  multistep_arithmetic,
  navigate,
  object_counting,
  tracking_shuffled_objects,
  web_of_lies,
  word_sorting,
  formula,
  inventory,
  testimony,
)

KINDS = {module.KIND.name: module.KIND for module in _MODULES}
