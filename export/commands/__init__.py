"""The commands of edge-export: each file has its flags and its body."""
