"""Has the examples of docstrings shown as code."""

import re

import griffe

_SECTIONS = "Args|Attributes|Raises|Returns|Yields"
# A line that ends with a colon, and the indented lines after it.
_BLOCK = re.compile(
  rf"^(?!(?:{_SECTIONS}):)(\S.*):\n\n((?: .*\n|\n)*? .*)(?=\n\S|\n\n\S|\n*\Z)",
  re.MULTILINE,
)


class Examples(griffe.Extension):
  """Puts what is indented after a colon between fences."""

  def on_object(self, *, obj: griffe.Object, **_) -> None:
    """Changes one docstring; griffe calls this for each object."""
    if obj.docstring is not None:
      obj.docstring.value = _BLOCK.sub(_fence, obj.docstring.value)


def _fence(match: re.Match) -> str:
  lines = match[2].splitlines()
  indent = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
  code = "\n".join(line[indent:] for line in lines)
  # A title such as "Example:" would be taken for a section.
  return f"{match[1]}.\n\n```python\n{code}\n```\n"
