"""Style, axes, markers, statistics and captions that the figures share."""
