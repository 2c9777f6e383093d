"""Kernels for GPUs, each with a plain-PyTorch twin that runs everywhere else.

``dispatch`` says which of the two a call uses and how ``MARKOVSCORE_KERNELS`` forces one. A file
here has the public function, with its checks, and the twin; the file of the same name in
``_triton`` has the kernel.
"""
