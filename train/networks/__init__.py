"""Networks, their heads, published weights, and teachers."""
