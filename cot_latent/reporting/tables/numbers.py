"""How the numbers of a table are written, with their intervals."""

from collections.abc import Callable

from cot_latent.reporting.comparison import Estimate


def show(estimate: Estimate, unit: str) -> str:
  """Writes a mean for the table: shares in percent.

  Over seeds half of Student's interval follows, and in brackets the interval
  over seeds and questions; of one seed that over questions is in brackets.
  """
  mean = estimate.mean
  if unit == "sequences":
    return f"{mean:,.0f}"
  if unit == "seconds":
    return f"{mean:,.0f} s" if mean >= 10 else f"{mean:.2g} s"
  return _with_intervals(estimate, _writer(unit))


def show_difference(estimate: Estimate, unit: str = "share") -> str:
  """Writes a difference, in points of percent or nats, with its intervals."""
  write = _writer(unit)
  return _with_intervals(estimate, write, lambda value: _signed(write(value)))


def _with_intervals(
  estimate: Estimate,
  write: Callable[[float], str],
  write_end: Callable[[float], str] | None = None,
) -> str:
  """Writes a mean with its intervals; `write_end` writes signs as well."""
  write_end = write_end or write
  text = write_end(estimate.mean)
  if estimate.low is None or estimate.high is None:
    return text
  ends = (estimate.low, estimate.high)
  if estimate.kind == "t":
    text += f" ± {write(estimate.high - estimate.mean)}"
    if estimate.with_questions is None:
      return text
    ends = estimate.with_questions
  low, high = map(write_end, ends)
  return f"{text} [{low}, {high}]"


def _writer(unit: str) -> Callable[[float], str]:
  return _nats if unit == "nats" else _percent


def _percent(share: float) -> str:
  return _with_minus(f"{100 * share:.1f}")


def _nats(value: float) -> str:
  return _with_minus(f"{value:.3f}")


def _with_minus(text: str) -> str:
  """A number with a true minus, and with none where it is 0."""
  return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def _signed(text: str) -> str:
  is_zero = not text.strip("0.")
  return text if text[0] == "−" or is_zero else f"+{text}"
