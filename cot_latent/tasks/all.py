"""Registers all tasks of this package."""

from cot_latent.tasks import bbh, chain, gsm8k, synthetic  # noqa: F401
