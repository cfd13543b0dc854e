"""LoadGen's scenarios: what each prepares, how LoadGen drives it, and its result."""
