"""The official tests of a submission: which there are, which are done, how long the others take; runs them in order."""
