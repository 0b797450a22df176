"""The home of dxtbx, dials, cctbx and libtbx: foreign models in, tensors out."""
