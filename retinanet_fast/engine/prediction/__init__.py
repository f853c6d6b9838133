"""Detections on pictures: files, drawings."""
