"""The examples in docstrings give what they say."""

import doctest
import importlib
import pathlib

import pytest

import cot_latent

ROOT = pathlib.Path(cot_latent.__file__).parent


def modules_with_examples():
  """The modules whose docstrings have examples that can be run."""
  return [
    ".".join(("cot_latent", *path.relative_to(ROOT).with_suffix("").parts))
    for path in sorted(ROOT.rglob("*.py"))
    if ">>> " in path.read_text()
  ]


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples(name):
  module = importlib.import_module(name)
  found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
  assert found.attempted > 0
  assert not found.failed


def test_a_wrong_example_is_noticed(capsys):
  parsed = doctest.DocTestParser().get_doctest(
    ">>> 1 + 1\n3\n", {}, "wrong", None, None
  )
  assert doctest.DocTestRunner().run(parsed).failed == 1
