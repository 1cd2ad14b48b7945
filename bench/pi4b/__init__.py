"""A Raspberry Pi 4B without the board: the runtime as an arm64 Cortex-A72 process, and what it will cost there."""
