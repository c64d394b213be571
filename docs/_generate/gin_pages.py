"""The reference of gin names: every file, macro and configurable field."""

import pathlib
import re
from typing import Any, NamedTuple

import griffe
from gin import config_parser

from docs._generate import code_text

HEAD = """# Gin names

An experiment is a list of gin files and bindings. `--gin.NAME=VALUE` sets any
name of this page; a VALUE is a Python literal. Later files win over earlier
ones, and bindings win over files. `t5x train ... --dry_run` prints what holds
in the end.

This page is generated from the files of `gin/` and from the code.

- [Macros](#macros): the names in capitals, with the value that each file gives.
- [Macros inside T5X](#macros-inside-t5x): those of `gin/t5x/`.
- [Configurable fields](#configurable-fields): fields that the macros fill in,
  and all others.
- [Files](#files): what each file provides, requires and lets you override.

"""
# In the order of this page.
GROUPS = {
  "runs": "Runs",
  "methods": "Methods",
  "models": "Models",
  "tuning": "What is trained",
  "tasks": "Tasks",
  "prompts": "Prompts",
  "studies": "Studies",
  "t5x": "Runs inside T5X",
  "plans": "Sizes to plan a run for",
}
_LAST = ("studies", "t5x", "plans")  # which give the same macros other values
# Their headers say what a macro means in all files; the others may add to it.
_GENERAL = (
  "gin/runs/common.gin",
  "gin/tasks/common.gin",
  "gin/models/pretrained.gin",
)
# Such as `BATCH_SIZE (questions per step)`, in the header of a file.
_MEANING = re.compile(r"\b([A-Z][A-Z_]+)\s+\(((?:[^()]|\([^()]*\))+)\)")


class _Text(str):
  """A reference or a macro, shown as it is written."""

  def __repr__(self):
    return str(self)


class _Names(config_parser.ParserDelegate):
  """Keeps references as they are written."""

  def configurable_reference(self, scoped_configurable_name, evaluate):
    return _Text(f"@{scoped_configurable_name}{'()' if evaluate else ''}")

  def macro(self, macro_name):
    return _Text(f"%{macro_name}")


class GinFile(NamedTuple):
  """A gin file as text.

  Attributes:
    path: In the repository.
    header: The comment at its top.
    bindings: (selector or macro, parameter or "", value), in order.
    imports: The name in the file -> module.
    references: Configurables that it names.
  """

  path: str
  header: str
  bindings: list[tuple[str, str, Any]]
  imports: dict[str, str]
  references: set[str]

  def group(self) -> str:
    """The folder of `gin/` that the file is in."""
    return self.path.split("/")[1]


def page(root: pathlib.Path) -> str:
  """Lists macros, configurable fields and files."""
  files = [_read(path, root) for path in sorted(root.glob("gin/**/*.gin"))]
  files.sort(key=lambda file: list(GROUPS).index(file.group()))
  embedded = [file for file in files if file.group() not in _LAST]
  inside_t5x = [file for file in files if file.group() == "t5x"]
  return "\n".join(
    [
      HEAD,
      "## Macros\n",
      *_macros(embedded, embedded),
      "\n## Macros inside T5X\n",
      "What `gin/t5x/` gives or requires. A run inside T5X also has the macros "
      "of its task and its method, and those of T5X's own files.\n",
      *_macros(inside_t5x, embedded),
      "\n## Configurable fields\n",
      "A field is bound as `--gin.CLASS.FIELD=VALUE`, by the names that the "
      "gin files import. Where a gin file gives a macro, set the macro.\n",
      *_fields(files, root),
      "## Files\n",
      *_files(files),
    ]
  )


def _read(path: pathlib.Path, root: pathlib.Path) -> GinFile:
  text = path.read_text()
  lines = []
  for line in text.splitlines():
    if not line.startswith("#"):
      break
    lines.append(line.removeprefix("#").removeprefix(" "))
  bindings: list[tuple[str, str, Any]] = []
  imports: dict[str, str] = {}
  for part in config_parser.ConfigParser(text, _Names()):
    if isinstance(part, config_parser.BindingStatement):
      scope, selector, parameter, value, _ = part
      name = f"{scope}/{selector}" if scope else selector
      bindings.append((name, parameter or "", value))
    elif isinstance(part, config_parser.ImportStatement):
      imports[part.bound_name()] = part.module
  found = re.findall(r"^[^#\n]*?@([\w./]+)", text, re.MULTILINE)
  references = {name.rpartition("/")[2] for name in found}
  references |= {
    name.rpartition("/")[2] for name, field, _ in bindings if field
  }
  return GinFile(
    path.relative_to(root).as_posix(),
    "\n".join(lines),
    bindings,
    imports,
    references,
  )


def _meanings(files: list[GinFile]) -> dict[str, str]:
  """Reads the headers: macro -> meaning, the general one if there is one."""
  found: dict[str, str] = {}
  for file in sorted(files, key=lambda file: file.path not in _GENERAL):
    for name, text in _MEANING.findall(file.header):
      found.setdefault(name, text)
  return found


def _macros(files: list[GinFile], others: list[GinFile]) -> list[str]:
  """A table: macro, meaning, values, the files that give them.

  Args:
    files: Files whose macros are listed.
    others: Files whose headers say what a macro means, if those of `files` do
      not.

  Returns:
    Lines.
  """
  own = _meanings(files)
  meaning = _meanings(others) | own
  given: dict[str, dict[str, list[str]]] = {name: {} for name in own}
  for file in files:
    for name, parameter, value in file.bindings:
      if not parameter and name.isupper():
        by_value = given.setdefault(name, {})
        by_value.setdefault(repr(value), []).append(file.path)
  rows = []
  for name in sorted(given):
    values = "<br>".join(
      f"`{code_text.cell(value)}` in {_list(paths)}"
      for value, paths in given[name].items()
    )
    note = code_text.cell(meaning.get(name, ""))
    rows.append(f"| `{name}` | {note} | {values or 'required'} |")
  return ["| macro | meaning | value |", "|---|---|---|", *rows]


def _list(paths: list[str]) -> str:
  shown = ", ".join(f"`{path.removeprefix('gin/')}`" for path in paths[:3])
  more = len(paths) - 3
  return f"{shown} and {more} more" if more > 0 else shown


def _fields(files: list[GinFile], root: pathlib.Path) -> list[str]:
  """A section for each class or function that gin files configure."""
  found: dict[str, griffe.Object] = {}
  for file in files:
    for reference in file.references:
      name, _, attribute = reference.rpartition(".")
      module = file.imports.get(name, "")
      if module.startswith("cot_latent.") and attribute:
        path = f"{module}.{attribute}"
        found[path] = code_text.find(root, path)
  lines = []
  for path in sorted(found, key=lambda path: path.rpartition(".")[2].lower()):
    item = found[path]
    notes = code_text.attributes(item)
    lines += [f"### {item.name}\n", f"`{path}`. {code_text.summary(item)}\n"]
    # Gin cannot bind arguments that have no name.
    fields = [
      field
      for field in item.parameters
      if field.name not in ("self", "cls")
      and not (field.kind and field.kind.name.startswith("var_"))
    ]
    if fields:
      lines += ["| field | meaning | type | default |", "|---|---|---|---|"]
      lines += [
        f"| `{field.name}` | {code_text.cell(notes.get(field.name, ''))} "
        f"| {_code(field.annotation)} "
        f"| {'required' if field.default is None else _code(field.default)} |"
        for field in fields
      ]
      lines.append("")
  return lines


def _code(value: Any) -> str:
  return code_text.code(str(value)) if value is not None else ""


def _files(files: list[GinFile]) -> list[str]:
  """Each file with its header and the names that it binds."""
  lines, last = [], ""
  for file in files:
    group = file.group()
    if group != last:
      lines += [f"### {GROUPS[group]}\n"]
      last = group
    bound = [
      f"{name}{'.' if parameter else ''}{parameter} = {value!r}"
      for name, parameter, value in file.bindings
    ]
    lines += [f"#### {file.path}\n", "```text", file.header, "```\n"]
    if bound:
      lines += ["```python", *bound, "```\n"]
  return lines
