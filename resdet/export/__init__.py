"""Trained models for other runtimes: ONNX, OpenVINO and torch.export."""
