"""Makes a submission of official runs."""
