"""Makes a submission from official runs."""
