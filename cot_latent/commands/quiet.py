"""Keeps what libraries log off the terminal."""

import logging


def silence_logs() -> None:
  """Silences Orbax and its threads, which log at length what is raised too."""
  for name in ("absl", "concurrent.futures"):
    logging.getLogger(name).setLevel(logging.CRITICAL)
