"""Every layout that the tests write, one module a family of authors."""

from layouts.layout import Layout
from layouts.libraries import LAYOUTS as LIBRARIES
from layouts.vissl import LAYOUTS as VISSL

LAYOUTS: tuple[Layout, ...] = (*LIBRARIES, *VISSL)
