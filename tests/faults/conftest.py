"""The fixtures that all faults share."""

from fault_place import models, place  # noqa: F401
