"""What a user asks for: the settings of one test, from options, run files, tunings and defaults."""
