"""Texts of the code's docstrings, read without importing it."""

import functools
import html
import pathlib

import griffe


@functools.cache
def package(root: pathlib.Path) -> griffe.Object:
  """Reads the whole package as text, once."""
  return griffe.load("cot_latent", search_paths=[str(root)])


def find(root: pathlib.Path, path: str) -> griffe.Object:
  """Finds what a dotted path below the package names."""
  item = package(root)[path.removeprefix("cot_latent.")]
  return item.final_target if item.is_alias else item


def attributes(item: griffe.Object) -> dict[str, str]:
  """Reads what a class or function says of its fields: name -> text.

  A class has them in the docstring of `__init__`, in its own, or in that of a
  base class of this package; the first that is found counts.
  """
  places = [item]
  if isinstance(item, griffe.Class):
    own = [item.members["__init__"]] if "__init__" in item.members else []
    places = [*own, item, *item.resolved_bases]
  wanted = ("attributes", "parameters")
  found: dict[str, str] = {}
  for place in places:
    sections = (
      place.docstring.parse("google", warnings=False) if place.docstring else []
    )
    for section in sections:
      if section.kind.value in wanted:
        for field in section.value:
          found.setdefault(field.name, field.description)
  return found


def summary(item: griffe.Object) -> str:
  """The first paragraph of a docstring."""
  if item.docstring is None:
    return ""
  return " ".join(item.docstring.value.split("\n\n")[0].split())


def sentence(text: str) -> str:
  """A text that begins with a capital and ends with a stop."""
  text = " ".join(text.split())
  text = f"{text[:1].upper()}{text[1:]}"
  return text if text.endswith((".", "?")) else f"{text}."


def cell(text: str) -> str:
  """A text for a cell of a Markdown table."""
  text = " ".join(str(text).split()).replace("|", "\\|")
  return text.replace("<", "&lt;")


def code(text: str) -> str:
  """A piece of code for a cell of a Markdown table."""
  if "|" not in text:
    return f"`{cell(text)}`"
  # Between backticks a backslash before the bar would be shown.
  return f"<code>{html.escape(text).replace('|', '&#124;')}</code>"
