"""Image format classes (they delegate) and writers."""
