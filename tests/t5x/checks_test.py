"""What T5X would do otherwise is refused, by the binding's name."""

import pytest

from cot_latent.errors import UserError
from cot_latent.t5x import checks
from tests.t5x import small


def test_good_settings_pass():
  checks.check_settings(small.GOOD, 0)
  checks.check_settings(small.GOOD._replace(save=None, save_dataset=None), 0)
  for model in (small.encoder_decoder(), small.decoder_only()):
    checks.check_model(model)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"random_seed": None}, "RANDOM_SEED = None"),
    ({"random_seed": 3}, "RANDOM_SEED = 3 and SEED = 0"),
    ({"use_hardware_rng": True}, "USE_HARDWARE_RNG = True"),
    ({"save_dataset": False}, r"SaveCheckpointConfig\.save_dataset must"),
    ({"save_dataset": None}, r"SaveCheckpointConfig\.save_dataset must"),
    ({"save_dtype": "bfloat16"}, "dtype = 'bfloat16'"),
    ({"relative_steps": 5}, "TRAIN_STEPS_RELATIVE = 5"),
    ({"ignored": ("num_microbatches",)}, r"LatentTrainer\.num_microbatches"),
  ],
)
def test_settings(change, message):
  with pytest.raises(UserError, match=message) as raised:
    checks.check_settings(small.GOOD._replace(**change), 0)
  assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"z_loss": 1e-4}, "Z_LOSS = 0.0001"),
    ({"label_smoothing": 0.1}, "LABEL_SMOOTHING = 0.1"),
    ({"loss_normalizing_factor": 128}, "LOSS_NORMALIZING_FACTOR = 128"),
    (
      {"loss_normalizing_factor": "NUM_REAL_TARGET_TOKENS"},
      "LOSS_NORMALIZING_FACTOR = 'NUM_REAL",
    ),
    ({"dropout_rate": 0.1}, "DROPOUT_RATE = 0.1"),
    ({"decode_fn": small.decoding.beam_search}, "decode_fn cannot draw"),
  ],
)
def test_models(change, message):
  with pytest.raises(UserError, match=message) as raised:
    checks.check_model(small.encoder_decoder(**change))
  assert "\n" not in str(raised.value)


def test_a_loss_of_its_own_is_refused():
  class WithMore(type(small.encoder_decoder())):
    def loss_fn(self, *arguments):
      loss, metrics = super().loss_fn(*arguments)
      return loss + 1.0, metrics

  model = small.encoder_decoder()
  model.__class__ = WithMore
  with pytest.raises(UserError, match="is a WithMore, whose loss"):
    checks.check_model(model)


def test_dropout_is_noticed_wherever_it_is_set():
  for rate, make in ((0.0, small.decoder_only), (0.1, small.encoder_decoder)):
    model = make(dropout_rate=rate) if rate else make()
    batch = small.widths(model).zeros(1)
    if not rate:
      checks.check_loss_draws_nothing(model, batch)
      continue
    with pytest.raises(UserError, match="Transformer draws random numbers"):
      checks.check_loss_draws_nothing(model, batch)
