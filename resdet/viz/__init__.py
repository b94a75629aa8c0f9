"""Pictures: detections drawn on images, and curves of training and evaluation."""
