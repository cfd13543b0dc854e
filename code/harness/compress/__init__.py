"""One-shot compression of ONNX models from calibration data: pruning and static INT8 quantisation, no training."""
