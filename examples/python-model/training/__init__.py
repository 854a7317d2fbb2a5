"""Makes the model. Nothing of this package is in the production image."""
