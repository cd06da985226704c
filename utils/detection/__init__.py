"""Detection: boxes, decoding, NMS, the loss, COCO AP and pictures of detections."""
