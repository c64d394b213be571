"""The same E-step inside T5X. Nothing else imports T5X, which is optional."""
