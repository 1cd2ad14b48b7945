"""Networks: bodies of convolutions that end before the pooling."""
