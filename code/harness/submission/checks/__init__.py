"""What `harness check` looks at, a module for each subject; every check yields the problems that it finds."""
