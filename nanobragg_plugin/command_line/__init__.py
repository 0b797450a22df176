"""dials-style commands: docstring, PHIL scope, run()."""
