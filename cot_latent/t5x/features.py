"""Prompts and targets as the features of T5X's models.

B rows, P prompt tokens, T target tokens.
"""

import dataclasses

import numpy as np
from t5x import models

from cot_latent.errors import UserError
from cot_latent.models.api import PAD_ID

Features = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Converter:
  """Makes features for one model, all of the same widths.

  Attributes:
    is_decoder_only: Whether prompt and target are one sequence.
    prompt_length: Prompt length P.
    target_length: Target length T.
  """

  is_decoder_only: bool
  prompt_length: int
  target_length: int

  def convert(
    self, prompts: np.ndarray, targets: np.ndarray, weights: np.ndarray
  ) -> Features:
    """Makes the features that T5X's loss reads.

    Args:
      prompts: [B, P] int32, padded before or after the prompt.
      targets: [B, T] int32, padded after the target.
      weights: [B] float32, weights of the rows' log-probabilities.

    Returns:
      The features of SeqIO's converters, unpacked, except that
      `decoder_loss_weights` is the row's weight on its target's tokens.
    """
    on_targets = weights[:, None] * (targets != PAD_ID).astype(np.float32)
    prompts = pad_after(prompts, self.prompt_length)
    if not self.is_decoder_only:
      return {
        "encoder_input_tokens": prompts,
        "decoder_target_tokens": targets,
        "decoder_input_tokens": _shifted(targets),
        "decoder_loss_weights": on_targets,
      }
    lengths = (prompts != PAD_ID).sum(axis=1)
    tokens = _joined(prompts, targets, lengths)
    return {
      "decoder_target_tokens": tokens,
      "decoder_input_tokens": _shifted(tokens),
      "decoder_loss_weights": _joined(
        np.zeros(prompts.shape, np.float32), on_targets, lengths
      ),
      # The first target is predicted where the prompt's last token is read.
      "decoder_causal_attention": (
        np.arange(tokens.shape[1]) <= lengths[:, None]
      ).astype(np.int32),
    }

  def zeros(self, rows: int) -> Features:
    """Returns features of empty rows."""
    return self.convert(
      np.zeros((rows, self.prompt_length), np.int32),
      np.zeros((rows, self.target_length), np.int32),
      np.zeros(rows, np.float32),
    )


def converter(
  model: models.BaseTransformerModel, prompt_length: int, target_length: int
) -> Converter:
  """Makes the converter for a model.

  Raises:
    UserError: If the model is neither encoder-decoder nor decoder-only.
  """
  if not isinstance(
    model, models.EncoderDecoderModel | models.DecoderOnlyModel
  ):
    raise UserError(
      f"MODEL is a {type(model).__name__}: rationales need T5X's "
      "EncoderDecoderModel or DecoderOnlyModel"
    )
  is_decoder_only = isinstance(model, models.DecoderOnlyModel)
  return Converter(is_decoder_only, prompt_length, target_length)


def pad_after(rows: np.ndarray, width: int) -> np.ndarray:
  """Moves the padding of rows [B, P] to the end, and pads them to `width`."""
  moved = np.zeros((len(rows), width), np.int32)
  for place, row in enumerate(rows):
    tokens = row[row != PAD_ID]
    moved[place, : len(tokens)] = tokens
  return moved


def _shifted(tokens: np.ndarray) -> np.ndarray:
  """Returns the inputs from which tokens [B, S] are predicted."""
  return np.pad(tokens, ((0, 0), (1, 0)))[:, :-1]


def _joined(
  first: np.ndarray, second: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
  """Writes each row of `second` [B, T] after `first`'s columns of its row."""
  joined = np.pad(first, ((0, 0), (0, second.shape[1])))
  rows = np.arange(len(first))[:, None]
  joined[rows, lengths[:, None] + np.arange(second.shape[1])] = second
  return joined
