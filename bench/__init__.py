"""Measuring: data sets, accuracy, fairness and speed, with numpy alone, so that it also runs on a Raspberry Pi."""
