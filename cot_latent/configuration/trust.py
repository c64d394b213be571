"""What a report's configuration may import, call and name.

A report is data that may come from anyone, and gin imports the modules that a
configuration names and calls the functions that it refers to. Gin's own parser
is used to check all names here before gin sees the text.
"""

import dataclasses
import importlib
import inspect
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import gin  # noqa: F401  (before its parts)
from gin import config_parser

from cot_latent.data.source import Source
from cot_latent.errors import UserError

# Importing these modules only defines things.
_IMPORTED = ("cot_latent", "t5x", "seqio", "optax", "gin.config")
# A configuration may refer to these modules and what is inside them. They
# define the configured objects, and nothing that runs programs or writes files.
_REFERRED = (
  "cot_latent.data.chat",
  "cot_latent.data.prompts",
  "cot_latent.data.source",
  "cot_latent.em.likelihood",
  "cot_latent.em.method",
  "cot_latent.em.watching.Watch",
  "cot_latent.inference",
  "cot_latent.models.decoder",
  "cot_latent.models.hf.config.read_config",
  "cot_latent.models.hf.packaged",
  "cot_latent.models.lora",
  "cot_latent.models.partitioning",
  "cot_latent.models.t5",
  "cot_latent.reporting.health",
  "cot_latent.t5x.latent",
  "cot_latent.t5x.latent_trainer",
  "cot_latent.t5x.report",
  "cot_latent.training.experiment",
  "cot_latent.training.tuning",
  "t5x",
  "seqio",
  "optax",
  "gin.config.singleton",
)
_SCRIPT = "__main__"  # T5X's train.py; gin may refer to its `train` alone
_MACRO = ("macro", "gin.macro")


def check(text: str, allowed: Sequence[str], place: str) -> None:
  """Checks the configuration of a report before gin reads it.

  Imports its modules, if that is allowed.

  Args:
    text: The resolved configuration.
    allowed: Further modules that it may import and refer to.
    place: Description of the text, for messages.

  Raises:
    UserError: If it would import or call something that a report may not.
    SyntaxError: If gin cannot read it.
  """
  reader = _Reader()
  statements = list(config_parser.ConfigParser(text, reader))
  symbols: dict[str, Any] = {}
  is_dynamic = False
  for statement in statements:
    if isinstance(statement, config_parser.IncludeStatement):
      raise UserError(
        f"{place}: the configuration includes {statement.filename!r:.60}; a "
        "configuration that a run recorded includes no files"
      )
    if not isinstance(statement, config_parser.ImportStatement):
      continue
    if statement.is_from and statement.module.startswith("__gin__."):
      is_dynamic = True
    else:
      name, module = statement.bound_name(), _import(statement, allowed, place)
      if symbols.setdefault(name, module) is not module:
        raise UserError(
          f"{place}: the configuration imports two modules as {name}"
        )
  bindings = [s for s in statements if hasattr(s, "arg_name")]
  selectors = [s.selector for s in statements if _configures(s)]
  selectors += [name for name, _ in reader.references]
  if selectors and not is_dynamic:
    raise UserError(
      f"{place}: the configuration refers to {selectors[0]} without "
      "dynamic_registration, which no run here records"
    )
  inside = [*_REFERRED, *allowed]
  for selector in selectors:
    _check_home(selector, symbols, inside, place)
  for name in _module_names(bindings, symbols, place):
    check_module(name, allowed, place)


def check_tasks(made: Any, allowed: Sequence[str], place: str) -> None:
  """Checks the modules that register the tasks of an experiment.

  Args:
    made: A dataclass, such as an experiment.
    allowed: Further modules that may be imported.
    place: Description of the configuration, for messages.

  Raises:
    UserError: If a task's module may not be imported.
  """
  if isinstance(made, Source) and made.module is not None:
    check_module(made.module, allowed, place)
  if dataclasses.is_dataclass(made):
    for field in dataclasses.fields(made):
      check_tasks(getattr(made, field.name), allowed, place)


def check_module(name: str, allowed: Sequence[str], place: str) -> None:
  """Checks that a report may import a module.

  Raises:
    UserError: If it may not.
  """
  if not _is_inside(name, (*_IMPORTED, *allowed)):
    raise UserError(
      f"{place}: the configuration imports {name}, whose code would run; a "
      f"report may import only {', '.join(_IMPORTED)}: if you trust your own "
      f"module of that name, add --allow_import={name}"
    )


class _Named(NamedTuple):
  """A reference or macro as it is written."""

  name: str
  is_macro: bool


class _Reader(config_parser.ParserDelegate):
  """Collects references without resolving them."""

  def __init__(self):
    self.references: list[tuple[str, bool]] = []

  def configurable_reference(self, scoped_configurable_name, evaluate):
    scope, _, selector = scoped_configurable_name.rpartition("/")
    if selector in _MACRO:
      return _Named(scope, is_macro=True)
    self.references.append((selector, evaluate))
    return _Named(selector, is_macro=False)

  def macro(self, macro_name):
    return _Named(macro_name, is_macro=True)


def _configures(statement: Any) -> bool:
  """Whether a statement configures a function or class, not a macro."""
  if isinstance(statement, config_parser.BlockDeclaration):
    return statement.selector not in _MACRO
  return (
    isinstance(statement, config_parser.BindingStatement)
    and bool(statement.arg_name)
    and statement.selector not in _MACRO
  )


def _import(statement: Any, allowed: Sequence[str], place: str) -> Any:
  """Imports an allowed module; returns the object that its name stands for.

  Returns None if there is no such module; gin reports that with its line.
  """
  if statement.module == _SCRIPT:
    return _SCRIPT
  check_module(statement.module, allowed, place)
  try:
    module = importlib.import_module(statement.module)
  except ImportError:
    return None
  if statement.is_from or statement.alias:
    return module
  return importlib.import_module(statement.module.partition(".")[0])


def _check_home(
  selector: str, symbols: dict[str, Any], inside: Sequence[str], place: str
) -> None:
  """Checks that the object of a selector is defined in an allowed module.

  Gin follows attributes: `files.os.system` starts programs even if the text
  never imported `os`.
  """
  root, *names = selector.split(".")
  found = symbols.get(root)
  if found is None:
    return  # gin refuses a name that no import provides
  is_fine = names == ["train"]
  if found is not _SCRIPT:
    for name in names:
      found = None if name.startswith("_") else getattr(found, name, None)
      home = getattr(found, "__module__", None)
      if isinstance(found, types.ModuleType):
        home = found.__name__
    full = f"{home}.{getattr(found, '__qualname__', '')}"
    is_fine = isinstance(home, str) and _is_inside(full, inside)
    is_fine = is_fine and callable(found)
  if not is_fine:
    raise UserError(
      f"{place}: the configuration refers to {selector}, which a report may "
      "not name"
    )


def _module_names(
  bindings: Iterable[Any], symbols: dict[str, Any], place: str
) -> Iterator[str]:
  """Yields the modules that parameters called `module` name.

  T5X and this package import them. A macro may stand for a module.
  """
  macros: dict[str, list[Any]] = {}
  asked: list[Any] = []
  for one in bindings:
    if not one.arg_name:
      name = f"{one.scope}/{one.selector}" if one.scope else one.selector
      macros.setdefault(name, []).append(one.value)
    elif one.selector in _MACRO:
      macros.setdefault(one.scope, []).append(one.value)
    elif one.arg_name == "module":
      asked.append(one.value)
  seen: set[str] = set()
  while asked:
    value = asked.pop()
    if isinstance(value, str):
      yield value
    elif isinstance(value, _Named) and value.is_macro:
      if value.name not in seen:
        seen.add(value.name)
        asked += macros.get(value.name, [])
    elif isinstance(value, _Named) and not _may_be_made(value.name, symbols):
      raise UserError(
        f"{place}: the configuration lets {value.name} name a module, which "
        "a report may not do"
      )


def _may_be_made(selector: str, symbols: dict[str, Any]) -> bool:
  """Whether a selector names a class (such as a network), or nothing at all."""
  root, *names = selector.split(".")
  found = symbols.get(root)
  if found is None and root != "gin":
    return True  # gin refuses a name that no import provides
  for name in names:
    found = getattr(found, name, None)
  return inspect.isclass(found)


def _is_inside(name: str, packages: Iterable[str]) -> bool:
  """Whether a module is one of these packages or inside one."""
  return any(f"{name}.".startswith(f"{package}.") for package in packages)
