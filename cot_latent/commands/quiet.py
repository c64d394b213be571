"""Keeps the logs of libraries off the terminal."""

import logging


def silence_logs() -> None:
  """Silences Orbax and its threads, which also log what they raise."""
  for name in ("absl", "concurrent.futures"):
    logging.getLogger(name).setLevel(logging.CRITICAL)
