"""Training models for the engines: pruning, distillation and quantisation-aware training of an ONNX graph."""
