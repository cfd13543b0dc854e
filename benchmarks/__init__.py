"""Side-by-side measurements; each prints ratios of figures from one run on one machine."""
