"""Access to T5X, which need not be installed."""

import importlib.util

from cot_latent.errors import UserError
from cot_latent.runtime import tf_startup


def launch(asked_for: str):
  """Imports the module that starts a run inside T5X.

  Args:
    asked_for: Name of the gin file that needs T5X, for messages.

  Raises:
    UserError: If T5X or one of its requirements is not installed.
  """
  if importlib.util.find_spec("t5x") is None:
    raise UserError(
      f"{asked_for} needs T5X, which is not installed: docs/t5x.md, "
      "Installing, has the two commands"
    )
  tf_startup.start_tensorflow()
  try:
    from cot_latent.t5x import launch
  except ModuleNotFoundError as error:
    raise UserError(
      f"{asked_for} needs T5X, which lacks {error.name}: docs/t5x.md, "
      "Installing, names all its requirements"
    ) from error
  return launch
