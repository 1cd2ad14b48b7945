"""After training: held-out figures, temperature, prior correction, a new last layer."""
