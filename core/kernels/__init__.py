"""Fused kernels behind the functions of `stillpoint.core.layers`, on a CPU and on a GPU.

Only layers call them; a run's provenance records by `arithmetic` which ones it used.
"""

from stillpoint.core.kernels.pool import blur_pool2d, blur_pool2d_adjoint, choose_phase, fused, polyphase_pool2d

__all__ = ["blur_pool2d", "blur_pool2d_adjoint", "choose_phase", "fused", "polyphase_pool2d"]
