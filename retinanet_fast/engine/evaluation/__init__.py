"""Detections on a split, and COCO's numbers."""
