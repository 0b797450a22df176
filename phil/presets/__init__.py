"""Complete set-ups, by name: `preset=NAME`."""
