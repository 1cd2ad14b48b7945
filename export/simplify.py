"""Constant folding and clean-up by onnxsim, and what happens without it.

A network fused in PyTorch gains little (a stray Constant node), and branches must never be left to a simplifier:
onnxsim leaves an unfused MobileOne at 454 nodes. So a missing or failing onnxsim costs nothing but a remark.
"""

from __future__ import annotations

import onnx


def simplify(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str | None]:
    """Simplifies a model.

    Returns:
      The simplified model and None; or the model as it was and one line that says why.
    """
    try:
        import onnxsim
    except ImportError:
        return model, "onnxsim is not installed: graph left as exported"
    try:
        simplified, is_same = onnxsim.simplify(model)
    except Exception as error:  # a C++ library: any failure leaves a model that already works
        return model, f"onnxsim failed ({str(error).strip().splitlines()[0][:120]}): graph left as exported"
    if not is_same:
        return model, "onnxsim changed the outputs: graph left as exported"
    return simplified, None
