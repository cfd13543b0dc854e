"""Image classification on ImageNet 2012: the preprocessing, the SUT, the QSL and the accuracy script."""
