"""Pure, stateless functions on boxes, anchors, samples and masks."""
