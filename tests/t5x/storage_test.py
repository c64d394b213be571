"""Paths begin at their root."""

import pathlib

from cot_latent.t5x import storage


def test_a_relative_path_begins_at_the_root():
  assert str(storage.absolute("runs/x")) == str(pathlib.Path.cwd() / "runs/x")


def test_others_stay():
  for path in ("/runs/x", "gs://bucket/x"):
    assert str(storage.absolute(path)) == path
