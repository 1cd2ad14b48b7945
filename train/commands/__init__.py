"""The commands of edge-train: each file has its flags and its body."""
