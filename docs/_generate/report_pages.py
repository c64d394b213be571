"""The reference of a report, from its schema, and of a step's metrics."""

import json
import pathlib

from docs._generate import code_text

_SCHEMA = "cot_latent/reporting/report.schema.json"


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
    lines += _rows(part, name, name in schema["required"], definitions)
  lines.append("## Rows of journal.jsonl\n")
  lines.append("Each line of the journal has a `kind`:\n")
  for kind, part in definitions["rows"].items():
    if isinstance(part, dict):
      lines += [f"### kind: {kind}\n", *_note(part)]
      lines += _rows(part, "", True, definitions)
  return "\n".join(lines) + "\n"


def _note(part: dict) -> list[str]:
  text = part.get("description") if "properties" in part else None
  return [f"{code_text.sentence(text)}\n"] if text else []


def _rows(part, name, is_required, definitions) -> list[str]:
  """A table of a part and all that it contains."""
  rows = list(_walk(part, name, is_required, definitions))
  head = ["| field | type | always there | meaning |", "|---|---|---|---|"]
  return [*head, *(f"| {' | '.join(row)} |" for row in rows), ""]


def _walk(part, path, is_required, definitions):
  """Yields the fields of a schema, deepest last: path, type, needed, note."""
  note = part.get("description", "") if "properties" not in part else ""
  seen = part
  while "$ref" in seen:
    seen = _look_up(seen["$ref"], definitions)
    note = note or seen.get("description", "")
  if path:
    yield (
      f"`{path}`",
      code_text.cell(_type(part, definitions)),
      "yes" if is_required else "no",
      code_text.cell(note),
    )
  for branch in seen.get("anyOf", [seen]):
    while "$ref" in branch:
      branch = _look_up(branch["$ref"], definitions)
    required = branch.get("required", ())
    for name, inner in branch.get("properties", {}).items():
      place = f"{path}.{name}" if path else name
      yield from _walk(inner, place, name in required, definitions)
    others = branch.get("additionalProperties")
    if isinstance(others, dict) and others:
      yield from _walk(others, f"{path}.*", False, definitions)
    if isinstance(branch.get("items"), dict):
      yield from _walk(branch["items"], f"{path}[]", False, definitions)


def _look_up(reference: str, definitions: dict) -> dict:
  found = definitions
  for name in reference.removeprefix("#/$defs/").split("/"):
    found = found[name]
  return found


def _type(part: dict, definitions: dict) -> str:
  """Names a type in words."""
  if "const" in part:
    return f"`{json.dumps(part['const'])}`"
  if "enum" in part:
    return ", ".join(f"`{json.dumps(value)}`" for value in part["enum"])
  if "$ref" in part:
    name = part["$ref"].rpartition("/")[2]
    inner = _look_up(part["$ref"], definitions)
    return f"{name} ({_type(inner, definitions)})"
  if "anyOf" in part:
    return " or ".join(_type(each, definitions) for each in part["anyOf"])
  kinds = part.get("type", "any")
  kinds = [kinds] if isinstance(kinds, str) else kinds
  text = " or ".join(kinds)
  for key, sign in (("minimum", "≥"), ("maximum", "≤")):
    if key in part:
      text += f" {sign} {part[key]}"
  return text


def metrics_page(root: pathlib.Path) -> str:
  """Lists what the journal has of each step, with its meaning."""
  info = code_text.find(root, "cot_latent.em.step_info")
  fit = code_text.find(root, "cot_latent.inference.fitting.Fit")
  meaning = {}
  for kind in ("StepInfo", "UpdateInfo"):
    fields = code_text.attributes(info[kind])
    for constant, field in _sources(info[kind]["metrics"].source):
      meaning[constant] = fields.get(field, "")
  for constant, field in _sources(info["UpdateInfo"]["_fit_metrics"].source):
    method = fit.members.get(field)
    if method is not None:
      meaning[constant] = code_text.summary(method)
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
  lines = [
    "# Metrics\n",
    "Each step has a row in `journal.jsonl` with these numbers. TensorBoard "
    "draws those with a slash in their names, in the section that stands "
    "before the slash. The names are constants of "
    "`cot_latent/reporting/metric_names.py`; the meanings are the docstrings "
    "of `cot_latent/em/step_info.py`.\n",
    "| name in the journal | meaning |",
    "|---|---|",
  ]
  values = _constants(root)
  lines += [
    f"| `{value}` | {code_text.cell(meaning[name])} |"
    for name, value in values.items()
    if name in meaning
  ]
  missing = [
    name
    for name in values
    if name not in meaning and not values[name].endswith("/")
  ]
  assert not missing, f"metrics without a meaning: {missing}"
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
