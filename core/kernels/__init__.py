"""Fused kernels behind the functions of `stillpoint.core.layers`, on a CPU and on a GPU.

Layers alone call them; what a run records asks `arithmetic` which of them answered.
"""

from stillpoint.core.kernels.pool import blur_pool2d, blur_pool2d_adjoint, choose_phase, fused, polyphase_pool2d

__all__ = ["blur_pool2d", "blur_pool2d_adjoint", "choose_phase", "fused", "polyphase_pool2d"]
