"""Methods whose trials are the bodies of `tests.doubles.bodies`: a Config and a layout, nothing to train."""
