"""The hand-in: everything a contest asks for in one folder that runs offline, and a trial of it before the organisers'.

Runs on the slim install: nothing here needs PyTorch or onnx, but for weights taken out of a checkpoint.
"""
