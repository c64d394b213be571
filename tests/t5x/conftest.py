"""These tests need T5X, and are collected only where they are asked for.

`make test-t5x` asks by path; without T5X they fail.
"""


def pytest_ignore_collect(collection_path, config):
  del collection_path
  is_asked_for = any("tests/t5x" in str(path) for path in config.args)
  return None if is_asked_for else True
