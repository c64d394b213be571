"""The same E-step inside T5X. Nothing else imports T5X, which is optional."""

from cot_latent.t5x import one_line

# Gin comes here before a mistake in what it reads further could end it.
one_line.install_in_script()
