"""The official tests of a submission: plans them, finds those that are done, estimates the others' time, runs them."""
