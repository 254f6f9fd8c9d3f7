"""Triton kernels: formula, kernel and launcher in each file; written for an H100, unmeasured.

None of them waits for the device: no shape and no branch on the host depends on a tensor's values.
Rows of a vocabulary are cut into blocks, a program a block, since a batch has fewer rows than a
GPU has room for programs; what the blocks of a row found is put together by the kernel after.
"""
