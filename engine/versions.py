"""Versions of what a run or a store was made with."""

from importlib.metadata import PackageNotFoundError, version


def libraries() -> dict[str, str]:
    """Distribution name → version, of this project and the libraries that decide numbers."""
    names = ("traklens", "torch", "open-clip-torch", "numpy", "numba", "zarr", "pyarrow", "pillow")
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
