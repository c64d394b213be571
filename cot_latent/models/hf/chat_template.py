"""A checkpoint's own format for conversations: a Jinja template.

A template comes with a checkpoint, so it runs in Jinja's sandbox: it sees only
its arguments, and changes nothing.
"""

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox

from cot_latent.errors import UserError

Message = Mapping[str, str]  # `role`, `content`

_PROBE = "\ue000"  # for private use: no template writes it


class _Generation(jinja2.ext.Extension):
  """`{% generation %}`, with which training scripts find a model's text."""

  tags = {"generation"}  # noqa: RUF012  (as the library has it)

  def parse(self, parser):
    """Keeps the content of the block."""
    next(parser.stream)
    return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@functools.lru_cache(maxsize=8)
def _compile(template: str) -> jinja2.Template:
  def raise_exception(message: str):
    raise jinja2.TemplateError(message)

  def to_json(value, **settings):
    return json.dumps(value, **{"ensure_ascii": False, **settings})

  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=[_Generation, jinja2.ext.loopcontrols],
  )
  environment.filters["tojson"] = to_json
  environment.globals["raise_exception"] = raise_exception
  environment.globals["strftime_now"] = lambda form: (
    datetime.datetime.now().strftime(form)
  )
  return environment.from_string(template)


def render(
  template: str,
  messages: Sequence[Message],
  variables: Mapping[str, Any],
  add_generation_prompt: bool,
) -> str:
  """Writes a conversation.

  Args:
    template: The checkpoint's template, in Jinja.
    messages: Turns, each with its `role` and `content`.
    variables: Further variables of the template: special tokens such as
      `bos_token`, and arguments such as `enable_thinking`.
    add_generation_prompt: Whether the beginning of the model's turn follows.

  Raises:
    UserError: If the template is not valid, or refuses the conversation.
  """
  known = {"tools": None, "documents": None, **variables}
  try:
    text = _compile(template).render(
      messages=messages, add_generation_prompt=add_generation_prompt, **known
    )
    text.encode()  # fails for half a surrogate pair
  except Exception as error:  # a template is a program
    said = " ".join(str(error).split())
    if not isinstance(error, jinja2.TemplateError):
      said = f"{type(error).__name__}: {said}"
    raise UserError(
      f"the checkpoint's chat template cannot write this conversation "
      f"({said:.200})"
    ) from None
  return text


def end_of_turn(
  template: str, variables: Mapping[str, Any], special: Sequence[str]
) -> str | None:
  """Returns the special token that a template writes after a model's turn.

  Args:
    template: The checkpoint's template, in Jinja.
    variables: Further variables of the template, as in `render`.
    special: Special tokens.

  Returns:
    The token; None if the template writes none there.
  """
  turns = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": _PROBE},
  ]
  try:
    text = render(template, turns, variables, add_generation_prompt=False)
  except UserError:
    return None
  after = text.partition(_PROBE)[2].lstrip()
  return max(filter(after.startswith, special), key=len, default=None)
