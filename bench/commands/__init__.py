"""The commands of edge-bench: each file has its flags and its body."""
