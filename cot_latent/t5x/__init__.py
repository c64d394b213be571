"""The same E-step inside T5X. Only this folder imports T5X."""

from cot_latent.t5x import one_line

# Gin is imported here, before an error in what it reads could end the import.
one_line.install_in_script()
