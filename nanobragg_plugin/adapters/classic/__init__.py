"""nanoBragg.c's command line as models and options."""
