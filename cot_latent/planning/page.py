"""A plan as one HTML page that asks nothing of the network."""

from collections.abc import Mapping
from typing import Any

import jinja2

from cot_latent.planning import text

_PAGE = jinja2.Environment(
  loader=jinja2.PackageLoader("cot_latent.planning", "."),
  autoescape=True,
  trim_blocks=True,
  lstrip_blocks=True,
).get_template("plan.html.j2")


def render(plan: Mapping[str, Any]) -> str:
  """Renders a plan as a whole HTML document."""
  return _PAGE.render(
    plan=plan,
    headline=text.headline(plan),
    head=text.PROGRAM_HEAD,
    programs=[text.program_cells(row) for row in plan["programs"]],
    collectives=text.collective_lines(plan),
    run=text.run_lines(plan),
    verdict=text.verdict_lines(plan),
    gib=text.gib,
  )
