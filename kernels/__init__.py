"""Kernels: they are given checked arrays and fill the caller's arrays. No validation, no policy, no imports upward."""

# The folder stands at the top level of the repository, and other software installs a package named `kernels`.
if __name__ != "fastce.kernels":
    raise ImportError(f"this package is fastce.kernels, not {__name__}: import it under that name")
