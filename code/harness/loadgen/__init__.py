"""LoadGen's files: its configuration and its logs."""
