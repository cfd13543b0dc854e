"""All that knows LoadGen: its configuration files, its callbacks, its logs."""
