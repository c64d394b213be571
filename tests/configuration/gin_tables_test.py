"""Gin's private names are known to one file alone."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[2]
ALLOWED = ROOT / "cot_latent/configuration/gin_tables.py"


def private_names(text):
  """Lists the private names of gin's modules that a source text mentions."""
  tree = ast.parse(text)
  modules, found = set(), []
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names = [a for a in node.names if a.name.split(".")[0] == "gin"]
      modules |= {a.asname or "gin" for a in names}
    elif (
      isinstance(node, ast.ImportFrom)
      and node.module
      and (node.module.split(".")[0] == "gin")
    ):
      modules |= {a.asname or a.name for a in node.names}
      found += [a.name for a in node.names if a.name.startswith("_")]
  for node in ast.walk(tree):
    if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
      root = ast.unparse(node.value).split(".")[0]
      if root in modules and not node.attr.startswith("__"):
        found.append(node.attr)
  return found


def test_no_other_file_knows_gin_s_private_names():
  paths = [p for d in ("cot_latent", "tests") for p in (ROOT / d).rglob("*.py")]
  assert ALLOWED in paths
  found = {p: names for p in paths if (names := private_names(p.read_text()))}
  assert set(found) == {ALLOWED}
  # Every form in which one could be written is seen.
  for text in (
    "import gin.config\ngin.config._CONFIG",
    "from gin import config as c\nc._REGISTRY.x",
    "from gin.config import _CONFIG",
  ):
    assert private_names(text)
