"""What several tests of the trainer need."""

import pathlib

import pytest

from tests.training import toy


@pytest.fixture(scope="session")
def whole(finished_run):
  """A run that nothing disturbs: its configuration and report."""
  return finished_run(toy.make_experiment("unused"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
  """A folder for the runs of a file of tests."""
  return tmp_path_factory.mktemp("runs")
