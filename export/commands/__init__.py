"""The commands of edge-export: those that write a model file, and those that look at one."""

PROGRAM = "edge-export"
