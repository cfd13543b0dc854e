"""An ONNX graph as a PyTorch module: its operators, rounding in place of quantisation, and back to a file."""
