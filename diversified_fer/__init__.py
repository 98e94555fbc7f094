"""Labels the faces in photos and videos by their expression; light: NumPy, OpenCV and ONNX Runtime, no PyTorch."""
