"""One static page on which to look through a split's images, detections and errors, the worst first."""

from retinanet_fast.engine.reporting.browse.found import Found, read_found
from retinanet_fast.engine.reporting.browse.page import BrowsePage

__all__ = ["BrowsePage", "Found", "read_found"]
