"""The compliance tests of the closed division: what they set in LoadGen, and what their logs must show."""
