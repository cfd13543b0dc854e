"""What becomes of official runs: the rounds' rules, the layout of a submission, packaging and checking."""
