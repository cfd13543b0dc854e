"""LoadGen's scenarios: what each prepares, how it is driven, and what its result is."""
