"""The reference of the `t5x` command, from its argument parsers."""

import argparse
import pathlib

from cot_latent import cli
from docs._generate import code_text

HEAD = """# Commands

`make setup` installs the command `t5x` as `.venv/bin/t5x`.
`t5x COMMAND --help` prints what this page shows.

| command | what it does |
|---|---|
"""


def page(root: pathlib.Path) -> str:
  """Lists each command with its arguments."""
  del root
  whole = cli.parser()
  [choices] = [
    action
    for action in whole._actions
    if isinstance(action, argparse._SubParsersAction)
  ]
  rows = [
    f"| [`t5x {name}`](#t5x-{name}) | {_cell(module.HELP)} |\n"
    for name, module in cli.COMMANDS.items()
  ]
  parts = [_command(name, choices.choices[name]) for name in cli.COMMANDS]
  return HEAD + "".join(rows) + "\n" + _STATUS + "\n".join(parts)


_STATUS = """
Exit status: 0; 1 for a failed run; 2 for a mistake in what was asked for;
130 after Ctrl-C; 141 if the reader of the output has gone; 143 after SIGTERM.

"""


def _command(name: str, parser: argparse.ArgumentParser) -> str:
  """One command: usage, then a table of its arguments."""
  usage = parser.format_usage().removeprefix("usage: ").replace("  ", " ")
  usage = " ".join(usage.split())
  lines = [f"## t5x {name}\n", f"{parser.description}\n"]
  lines += ["```text", _wrap(usage), "```\n"]
  lines += ["| argument | meaning | default |", "|---|---|---|"]
  for action in parser._actions:
    hidden = action.help == argparse.SUPPRESS
    if hidden or isinstance(action, argparse._HelpAction):
      continue
    lines.append(
      f"| {_names(action)} | {_meaning(action)} | {_default(action)} |"
    )
  return "\n".join(lines) + "\n"


def _names(action: argparse.Action) -> str:
  """How an argument is written, with its value."""
  value = action.metavar or (action.dest if action.nargs != 0 else "")
  if action.choices:
    value = "{" + ",".join(map(str, action.choices)) + "}"
  if not action.option_strings:
    return f"`{value}`"
  shown = f" {value}" if value and action.nargs != 0 else ""
  names = (f"{name}{shown}" for name in action.option_strings)
  return ", ".join(map(code_text.code, names))


def _default(action: argparse.Action) -> str:
  if action.default in (None, [], "", argparse.SUPPRESS):
    return "required" if action.required else "–"
  return f"`{action.default}`"


def _meaning(action: argparse.Action) -> str:
  """The help text; a default has a column of its own."""
  text = _cell(action.help or "")
  return text.removesuffix(f" (default: {action.default})")


def _cell(text: str) -> str:
  return code_text.cell(text).replace("%%", "%")


def _wrap(text: str, width: int = 76) -> str:
  lines, line = [], ""
  for word in text.replace("] [", "]\n[").split("\n"):
    if line and len(line) + len(word) >= width:
      lines.append(line)
      line = "   "
    line = f"{line} {word}" if line else word
  return "\n".join([*lines, line])
