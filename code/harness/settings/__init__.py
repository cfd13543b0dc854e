"""The settings of one test, from options, run files, tunings and defaults."""
