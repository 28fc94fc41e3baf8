"""Two to four models, image by image."""
