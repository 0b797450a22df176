"""Models against pixels: what experiments measure in shoeboxes, and the models that made it."""
