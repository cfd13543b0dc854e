"""All tests of a run file, one after another, with one table and one report at the end."""
