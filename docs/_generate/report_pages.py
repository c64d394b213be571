"""The reference of a report, from its schema, and of a step's metrics."""

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from docs._generate import code_text

_SCHEMA = "cot_latent/reporting/report.schema.json"
# Parts that occur in several places: described once, at the end of the page.
_TYPES = ("curve", "distribution", "estimate", "objective", "compilation")
# Kinds of rows that a report has too, and the section that lists them.
_AS_IN = {"result": "results", "output": "parts"}
_LARGE = 1_000_000  # bounds beyond it say nothing to a reader
_Part = Mapping[str, Any]


def schema_page(root: pathlib.Path) -> str:
  """Describes report.json and the journal, place by place."""
  schema = json.loads((root / _SCHEMA).read_text())
  definitions = schema["$defs"]
  lines = [
    "# Report schema\n",
    f"{schema['description']}\n",
    f"The JSON Schema is `{_SCHEMA}`. [Reports and trust](../reports.md) "
    "explains the sections. `*` is any name, and `[]` an item of a list.\n",
  ]
  for name, part in schema["properties"].items():
    lines += [f"## {name}\n", *_note(part)]
    lines += _table(part, name, name in schema["required"], definitions, {})
  lines.append("## Rows of journal.jsonl\n")
  lines.append("Each line of the journal has a `kind`:\n")
  of_steps = {f"`{key}`": text for key, text in metric_notes(root).items()}
  for kind, part in definitions["rows"].items():
    lines.append(f"### kind: {kind}\n" if kind != "any" else "### others\n")
    if kind in _AS_IN:
      name = _AS_IN[kind]
      lines.append(f"It has the fields of an item of [{name}](#{name}).\n")
    else:
      lines += _note(part)
      notes = of_steps if kind == "metrics" else {}
      lines += _table(part, "", True, definitions, notes)
  lines.append("## Types\n")
  for name in _TYPES:
    lines += [f"### {name}\n", *_note(definitions[name])]
    lines += _table(definitions[name], "", True, definitions, {})
  return "\n".join(lines) + "\n"


def _note(part: _Part) -> list[str]:
  """The sentence under the heading of a part that has fields."""
  text = part.get("description") if _has_fields(part) else None
  return [f"{code_text.sentence(text)}\n"] if text else []


def _has_fields(part: _Part) -> bool:
  return "properties" in part


def _table(
  part: _Part,
  path: str,
  is_required: bool,
  definitions: _Part,
  notes: Mapping[str, str],
) -> list[str]:
  """A table of a part and all that it contains.

  Args:
    part: A part of the schema.
    path: Its place in a report; "" for a row of the journal or a type.
    is_required: Whether it is always there.
    definitions: The schema's definitions.
    notes: Meanings that the schema does not have, by the cell of the field.

  Returns:
    Lines; the part itself has a row if it has no fields.
  """
  rows = list(_walk(part, path, is_required, definitions))
  rows = rows[1:] if path and _has_fields(part) else rows
  if not rows:
    return []
  head = ["| field | meaning | type | always there |", "|---|---|---|---|"]
  return [
    *head,
    *(
      f"| {field} | {note or notes.get(field, '')} | {kind} | {needed} |"
      for field, kind, needed, note in rows
    ),
    "",
  ]


def _walk(
  part: _Part, path: str, is_required: bool, definitions: _Part
) -> Iterator[tuple[str, str, str, str]]:
  """Yields the fields of a part, deepest last: path, type, needed, meaning."""
  seen = _resolved(part, definitions)
  if path:
    note = part.get("description", "")
    if _has_fields(seen):
      note = note or seen.get("description", "")
    is_needed = "yes" if is_required else "no"
    kind = _type(part, definitions)
    yield f"`{path}`", kind, is_needed, code_text.cell(note)
  if _is_type(part):
    return
  for name, inner in seen.get("properties", {}).items():
    place = f"{path}.{name}" if path else name
    needed = name in seen.get("required", ())
    yield from _walk(inner, place, needed, definitions)
  places = {
    "items": f"{path}[]",
    "additionalProperties": f"{path}.*" if path else "*",
  }
  for key, place in places.items():
    inner = seen.get(key)
    if not isinstance(inner, dict):
      continue
    if _has_fields(_resolved(inner, definitions)) and not _is_type(inner):
      # The row of the list, or of the object, says what its parts are.
      yield from [*_walk(inner, place, True, definitions)][1:]
    elif place == "*":
      yield from _walk(inner, place, False, definitions)


def _is_type(part: _Part) -> bool:
  """Whether a part is one of those that the page describes at its end."""
  return "$ref" in part and _name(part) in _TYPES


def _resolved(part: _Part, definitions: _Part) -> _Part:
  """Follows a part's references."""
  while "$ref" in part:
    part = _look_up(part, definitions)
  return part


def _name(part: _Part) -> str:
  return part["$ref"].rpartition("/")[2]


def _look_up(part: _Part, definitions: _Part) -> _Part:
  """Follows a reference into the definitions."""
  found = definitions
  for name in part["$ref"].removeprefix("#/$defs/").split("/"):
    found = found[name]
  return found


def _type(part: _Part, definitions: _Part) -> str:
  """Names a type in words, for a cell."""
  if "const" in part:
    return f"`{json.dumps(part['const'])}`"
  if "enum" in part:
    return ", ".join(f"`{json.dumps(value)}`" for value in part["enum"])
  if "$ref" in part:
    name, inner = _name(part), _look_up(part, definitions)
    if name in _TYPES:
      return f"[{name}](#{name})"
    is_text = inner.get("type") == "string"
    return name if is_text else _type(inner, definitions)
  if "anyOf" in part:
    return " or ".join(_type(each, definitions) for each in part["anyOf"])
  kinds = part.get("type", "any")
  kinds = [kinds] if isinstance(kinds, str) else kinds
  text = " or ".join(kinds).replace("array", "list")
  if "items" in part:
    text = text.replace("list", f"list of {_type(part['items'], definitions)}")
  others = part.get("additionalProperties")
  if isinstance(others, dict) and not _has_fields(part):
    text = f"{_type(others, definitions)}, by name"
  for key, sign in (("minimum", "≥"), ("maximum", "≤")):
    if key in part and part[key] <= _LARGE:
      text += f" {sign} {part[key]}"
  return text


def metric_notes(root: pathlib.Path) -> dict[str, str]:
  """Reads what each number of a step means: name in the journal -> text."""
  info = code_text.find(root, "cot_latent.em.step_info")
  fit = code_text.find(root, "cot_latent.inference.fitting.Fit")
  meaning = {}
  for kind in ("StepInfo", "UpdateInfo"):
    fields = code_text.attributes(info[kind])
    for constant, field in _sources(info[kind]["metrics"].source):
      meaning[constant] = fields.get(field, "")
  for constant, field in _sources(info["UpdateInfo"]["_fit_metrics"].source):
    own = code_text.attributes(info["UpdateInfo"]).get(field)
    text = own or code_text.summary(fit[field]).removeprefix("Returns ")
    meaning[constant] = code_text.sentence(text)
  # These are only there for some estimators and samplers.
  for constant, field in (
    ("SCALE", "scale"),
    ("VISITS", "visits"),
    ("LOG_LIKELIHOOD", "log_likelihood"),
  ):
    meaning[constant] = code_text.attributes(info["StepInfo"])[field]
  for constant, field in _sources(info["metrics"].source):
    of_field = info["StepInfo"].members.get(field)
    meaning[constant] = (
      code_text.summary(of_field)
      if of_field is not None and of_field.is_function
      else code_text.attributes(info["StepInfo"]).get(field, "")
    )
  values = _constants(root)
  missing = [
    name
    for name in values
    if name not in meaning and not values[name].endswith("/")
  ]
  assert not missing, f"metrics without a meaning: {missing}"
  return {
    value: code_text.cell(meaning[name])
    for name, value in values.items()
    if name in meaning
  }


def metrics_page(root: pathlib.Path) -> str:
  """Lists what the journal has of each step, with its meaning."""
  lines = [
    "# Metrics\n",
    "Each step has a row in `journal.jsonl` with these numbers. TensorBoard "
    "draws those with a slash in their names, in the section that is "
    "before the slash. The names are constants of "
    "`cot_latent/reporting/metric_names.py`; the meanings are the docstrings "
    "of `cot_latent/em/step_info.py`.\n",
    "| name in the journal | meaning |",
    "|---|---|",
  ]
  lines += [
    f"| `{name}` | {meaning} |" for name, meaning in metric_notes(root).items()
  ]
  return "\n".join(lines) + "\n"


def _sources(code: str):
  """Yields (constant, field) of lines such as `names.SCALE: self.scale,`."""
  for line in code.splitlines():
    key, _, value = line.strip().rstrip(",").partition(": ")
    if key.startswith("names.") and value:
      field = value.removeprefix("int(").removesuffix(")")
      field = field.removesuffix("()").removesuffix("(")
      yield key.removeprefix("names."), field.rpartition(".")[2]


def _constants(root: pathlib.Path) -> dict[str, str]:
  """Reads the names by running the module, which imports only `typing`."""
  scope: dict = {}
  code = (root / "cot_latent/reporting/metric_names.py").read_text()
  exec(compile(code, "metric_names.py", "exec"), scope)
  return {
    name: value
    for name, value in scope.items()
    if name.isupper() and isinstance(value, str)
  }
