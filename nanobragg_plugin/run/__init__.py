"""A data set: what is simulated when, and how it is written."""
