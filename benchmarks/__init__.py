"""Side-by-side measurements: each prints its ratio, from figures taken in one run on one machine."""
