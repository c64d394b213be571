"""Starts TensorFlow without its notices on the terminal."""

import os
import sys
import tempfile
import types

from cot_latent.errors import UserError


def start_tensorflow() -> None:
  """Imports SeqIO and TensorFlow, and hides what their C++ side prints.

  It prints before any setting can stop it. If the import fails, the hidden
  output is shown.

  Raises:
    UserError: If SeqIO or TensorFlow is not installed.
  """
  if "seqio" in sys.modules:
    return
  kept = os.dup(2)
  with tempfile.TemporaryFile() as notices:
    os.dup2(notices.fileno(), 2)
    try:
      import seqio  # noqa: F401
      import tensorflow as tf

      tf.config.list_physical_devices()  # prints a notice of its own
    except ModuleNotFoundError as error:
      raise UserError(
        f"this needs {error.name}, which is not installed: install it, or "
        "train on a file that `t5x cache` made elsewhere (--gin.CACHE)"
      ) from None
    except BaseException:
      notices.seek(0)
      os.write(kept, notices.read())
      raise
    finally:
      os.dup2(kept, 2)
      os.close(kept)


def keep_tensorboard_from_tensorflow() -> None:
  """Makes TensorBoard's writer work without TensorFlow, even if installed.

  TensorBoard does so if it finds a module of this name.
  """
  name = "tensorboard.compat.notf"
  sys.modules.setdefault(name, types.ModuleType(name))
  import tensorboard.compat

  tensorboard.compat.notf = sys.modules[name]
