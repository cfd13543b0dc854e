"""The checks of `harness check`, one module per subject; each check yields the problems that it finds."""
