"""The commands, grouped by subject; harness.cli assembles them."""
