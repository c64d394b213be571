"""Keeps the logs of libraries off the terminal."""

import logging

_LOGGERS = ("absl", "concurrent.futures")


def silence_logs() -> None:
  """Silences Orbax and its threads, which also log what they raise."""
  for name in _LOGGERS:
    logging.getLogger(name).setLevel(logging.CRITICAL)


def set_verbosity(level: int | None) -> None:
  """Shows the logs of libraries, or silences them.

  Args:
    level: Level as absl counts them, -1 (warnings), 0 or 1 (all); None is
      silence.
  """
  if level is None:
    silence_logs()
    return
  from absl import logging as absl_logging

  absl_logging.use_absl_handler()
  absl_logging.set_verbosity(level)
