"""Several machines as one system under test: what travels, who gets what, and what each machine does with it."""
