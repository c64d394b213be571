"""The report as one HTML page that asks nothing of the network.

Everything in a report is untrusted text: a completion is whatever the model
wrote. The template escapes it; before, `_clean` makes visible the characters
that escaping leaves alone and that would hide or reorder what stands there.
"""

import numbers
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from cot_latent.reporting import environment, figures

_STATUS_MARKS = {
  "complete": "✓",
  "suspect": "!",
  "running": "●",
  "failed": "✗",
  "interrupted": "■",
}
_DECODERS = {"greedy": "Greedy", "self_consistency": "Self-consistency"}
_SECTIONS = (
  "identity",
  "code",
  "configuration",
  "data",
  "model",
  "randomness",
  "environment",
  "t5x",
  "plan",
  "cost",
  "diagnostics",
  "continuity",
)
_NO_VALUE = figures.NO_VALUE

# Control characters but tab and line ends, bidirectional overrides and
# isolates, and halves of surrogate pairs, which no file could hold.
_INVISIBLE = re.compile(
  r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


_Row = Mapping[str, Any]


def render(report: Mapping[str, Any]) -> str:
  """Renders a report.

  Args:
    report: Report with the metrics and samples beside it; any section may be
      missing or empty.

  Returns:
    A whole HTML document.
  """
  report = _clean(report)
  sections = {name: _mapping(report.get(name)) for name in _SECTIONS}
  metrics = _rows(report.get("metrics"))
  results = _rows(report.get("results"))
  curves = _held_out(results, sections["identity"].get("task"))
  status = str(report.get("status") or "unknown")
  return _ENVIRONMENT.get_template("report.html.j2").render(
    sections,
    code_name=environment.code_name(sections["code"]),
    status=status,
    status_mark=_STATUS_MARKS.get(status, "?"),
    error=report.get("error"),
    suspect=report.get("suspect"),
    headline=[_headline(name, rows) for name, rows in curves.items()],
    steps_done=max(figures.steps(metrics), default=0),
    figures=figures.over_steps(
      metrics, curves, _rows(sections["diagnostics"].get("training"))
    ),
    chain_figures=figures.of_chains(
      _mapping(sections["diagnostics"].get("chains"))
    ),
    time_figure=figures.time_figure(
      _mapping(sections["cost"].get("step_seconds"))
    ),
    groups=_groups(results),
    samples=_rows(report.get("samples")),
    stuck=_rows(report.get("stuck")),
    resumes=_rows(sections["continuity"].get("resumes")),
    replication=_rows(report.get("replication")),
  )


def _held_out(
  results: Sequence[_Row], task: str | None
) -> dict[str, list[_Row]]:
  """Picks the run's own test questions, or else whatever comes first.

  Returns:
    The results of each decoder, by step.
  """
  places = [(row.get("task"), row.get("split")) for row in results]
  place = (task, "test") if (task, "test") in places else [*places, None][0]
  curves: dict[str, list[_Row]] = {}
  for row, at in sorted(
    zip(results, places, strict=True),
    key=lambda pair: (
      _decoder(pair[0]),
      figures.finite(pair[0], "step")[0] or 0,
    ),
  ):
    if at == place:
      curves.setdefault(_decoder(row), []).append(row)
  return curves


def _headline(name: str, rows: list[_Row]) -> dict[str, Any]:
  """Compares a decoder's last result with its first."""
  before, after = (
    figures.finite(row, "accuracy")[0] for row in (rows[0], rows[-1])
  )
  change = None
  if len(rows) > 1 and before is not None and after is not None:
    change = f"{100 * (after - before):+.1f} points".replace("-", "−")
  return {"name": name, "first": rows[0], "last": rows[-1], "change": change}


def _groups(
  results: Sequence[_Row],
) -> dict[str, list[_Row]]:
  """Groups results by their questions, in the order in which they come."""
  groups: dict[str, list[_Row]] = {}
  for row in results:
    name = " · ".join(str(row.get(k, _NO_VALUE)) for k in ("task", "split"))
    groups.setdefault(name, []).append({**row, "decoder": _decoder(row)})
  return groups


def _averaged(rows: Sequence[_Row]) -> list[_Row]:
  """Picks the results of a mixture that have averages over its tasks."""
  return [row for row in rows if _mapping(row.get("averages"))]


def _with_objective(rows: Sequence[_Row]) -> list[_Row]:
  """Picks the results of several samples, as rows of a table.

  Returns:
    Step, decoder, log-likelihood, and pass@k by the name of k.
  """
  found: list[_Row] = []
  for row in rows:
    objective = _mapping(row.get("objective"))
    if objective:
      found.append(
        {
          **{name: row.get(name) for name in ("step", "decoder")},
          "log_likelihood": _mapping(objective.get("log_likelihood")),
          # By number, and not by the alphabet as in a file.
          "pass_at": dict(
            sorted(
              _mapping(objective.get("pass_at")).items(),
              key=lambda item: (len(item[0]), item[0]),
            )
          ),
        }
      )
  return found


def _nats(row: _Row) -> str:
  """Writes an estimate in nats, with its interval."""
  (value,) = figures.finite(row, "value")
  low, high = figures.interval(row)
  if value is None:
    return _NO_VALUE
  text = f"{value:.3f}"
  if low is not None and high is not None:
    text += f" ({low:.3f} to {high:.3f})"
  return text.replace("-", "−")


def _decoder(row: _Row) -> str:
  name = str(row.get("decoder", _NO_VALUE))
  name = _DECODERS.get(name, name)
  (samples,) = figures.finite(row, "num_samples")
  return name if samples in (None, 1) else f"{name} ({samples:,.0f})"


def _mapping(value: Any) -> Mapping[str, Any]:
  return value if isinstance(value, Mapping) else {}


def _rows(value: Any) -> list[_Row]:
  rows = value if isinstance(value, Sequence) else []
  return [row for row in rows if isinstance(row, Mapping)]


def _clean(value: Any) -> Any:
  """Copies a tree, with its invisible characters made visible."""
  if isinstance(value, str):
    return _INVISIBLE.sub(_picture, value)
  if isinstance(value, Mapping):
    return {_clean(str(key)): _clean(inner) for key, inner in value.items()}
  if isinstance(value, (list, tuple)):
    return [_clean(inner) for inner in value]
  return value


def _picture(match: re.Match[str]) -> str:
  """Gives ␛ for escape and the like, and [U+202E] where there is no symbol."""
  code = ord(match.group())
  return chr(0x2400 + code) if code < 0x20 else f"[U+{code:04X}]"


def _flat(tree: Any, name: str = "") -> dict[str, Any]:
  """Flattens nested mappings to dotted names."""
  if not isinstance(tree, Mapping):
    return {name: tree}
  leaves: dict[str, Any] = {}
  for key, inner in tree.items():
    leaves |= _flat(inner, f"{name}.{key}" if name else key)
  return leaves


def _percent(value: Any) -> str:
  number = figures.number(value)
  return _NO_VALUE if number is None else f"{number:.1%}"


def _range(row: _Row) -> str:
  low, high = figures.interval(row)
  if low is None or high is None:
    return ""
  return f"{100 * low:.1f}–{high:.1%}"


def _plain(value: Any) -> Any:
  """Writes any leaf for reading; whole numbers with thousands separators."""
  if value is None or isinstance(value, jinja2.Undefined):
    return _NO_VALUE
  if isinstance(value, bool):
    return "yes" if value else "no"
  if isinstance(value, (list, tuple)):
    return ", ".join(str(_plain(inner)) for inner in value) or _NO_VALUE
  if isinstance(value, numbers.Integral):
    return f"{value:,}"
  return f"{value:.4g}" if isinstance(value, numbers.Real) else value


_ENVIRONMENT = jinja2.Environment(
  loader=jinja2.PackageLoader("cot_latent.reporting", ""),
  autoescape=True,
  trim_blocks=True,
  lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
  "averaged": _averaged,
  "duration": figures.duration,
  "flat": _flat,
  "interval": _range,
  "nats": _nats,
  "percent": _percent,
  "plain": _plain,
  "with_objective": _with_objective,
}
