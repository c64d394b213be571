"""Prompts as conversations, made by the checkpoint's own chat template."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cot_latent.data.prompts import Prompts
from cot_latent.errors import UserError
from cot_latent.models.hf import chat_template
from cot_latent.models.vocabularies import Vocabulary

# Code points that no text uses; one marks text that looks like a special token.
_MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]


@dataclasses.dataclass(frozen=True)
class Chat(Prompts):
  r"""Questions as a user's turns; worked examples are earlier turns.

  Attributes:
    prior: The user's turn that asks a question.
    guide: The same, with the answer as a hint.
    system: Text of the system's turn; None uses the template's.
    arguments: Further variables for the template, such as
      `{"enable_thinking": False}`. Set a date for a template that writes one
      (`date_string` for Llama 3), because otherwise a run could not resume on
      the next day.
    separator: Text after a worked example: none, because turns end themselves.
  """

  prior: str = "{question}\nLet's think step by step."
  guide: str = "{question}\nThe answer is {answer}. Let's think step by step."
  separator: str = ""
  system: str | None = None
  arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    super().__post_init__()
    if self.exemplars == "bootstrapped":
      raise UserError(
        "Chat.exemplars = 'bootstrapped': worked examples become turns, which "
        "needs their text: let a run with gin/prompts/bootstrapped.gin draw "
        "them, and give its exemplars.jsonl"
      )

  def prefix(self, name: str, exemplars: Sequence[Mapping[str, str]]) -> str:
    """Returns "", because worked examples are turns."""
    del name, exemplars
    return ""

  def messages(
    self,
    name: str,
    row: Mapping[str, str],
    exemplars: Sequence[Mapping[str, str]],
  ) -> list[dict[str, str]]:
    """Writes a question as the last turn of a conversation.

    Args:
      name: "prior" or "guide". Before a hinted question the exemplars are
        hinted too.
      row: Fields `question` and `answer`.
      exemplars: Rows with `question`, `answer` and `targets`.
    """
    turns = []
    if self.system is not None:
      turns.append({"role": "system", "content": self.system})
    for one in exemplars[: self.num_exemplars]:
      completion = one["answer"] if self.is_direct else one["targets"]
      turns.append({"role": "user", "content": self.fill(name, one)})
      turns.append({"role": "assistant", "content": completion})
    turns.append({"role": "user", "content": self.fill(name, row)})
    return turns


def write(
  vocabulary: Vocabulary,
  messages: Sequence[Mapping[str, str]],
  arguments: Mapping[str, Any],
) -> tuple[str, list[int]]:
  """Writes a conversation up to the beginning of the model's turn.

  Special tokens of the template are special tokens; text in a turn that looks
  like one stays text.

  Args:
    vocabulary: Vocabulary of the checkpoint.
    messages: Turns, each with its `role` and `content`.
    arguments: Further variables for the template.

  Returns:
    The text, and its token ids. BOS is among them if the template writes it.

  Raises:
    UserError: If the checkpoint has no template, or if the template fails.
  """
  chat = vocabulary.chat
  if chat is None:
    raise UserError(
      f"{vocabulary.name} has no chat template (chat_template.jinja, or in "
      "tokenizer_config.json, beside a tokenizer.json): use a checkpoint that "
      "was tuned for conversations, or prompts other than gin/prompts/chat.gin"
    )
  names = sorted(chat.special, key=len, reverse=True)
  special = re.compile(f"({'|'.join(map(re.escape, names)) or '$^'})")
  written = "".join(turn["content"] for turn in messages)
  mark = next((mark for mark in _MARKS if mark not in written), None)
  if mark is None:
    raise UserError(
      "a conversation with all characters from U+FDD0 to U+FDEF cannot be "
      "written, because one of these must be free: leave one out"
    )
  hidden = {name: f"{mark}{place}{mark}" for place, name in enumerate(names)}
  shown = {text: name for name, text in hidden.items()}

  def hide(text: str) -> str:
    return special.sub(lambda m: hidden[m[0]], text)

  def show(text: str) -> str:
    # A template can write marks too.
    return re.sub(f"{mark}\\d+{mark}", lambda m: shown.get(m[0], m[0]), text)

  try:
    text = chat_template.render(
      chat.source,
      [{**turn, "content": hide(turn["content"])} for turn in messages],
      {**chat.variables, **arguments},
      add_generation_prompt=True,
    )
  except UserError as error:
    raise UserError(
      f"{error}: change Chat.system, exemplars or arguments, or use prompts "
      "other than gin/prompts/chat.gin"
    ) from None
  ids: list[int] = []
  for place, part in enumerate(special.split(text)):
    if place % 2:
      ids.append(chat.special[part])
    elif part:
      ids += vocabulary.encode(show(part))
  return show(text), ids
