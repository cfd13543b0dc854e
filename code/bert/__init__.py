"""BERT question answering on SQuAD v1.1: the features, the SUT, the QSL and the accuracy script."""
